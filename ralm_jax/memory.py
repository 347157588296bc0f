"""What the process does with memory that it has freed."""

import ctypes
import importlib.metadata
import importlib.util
import os
import sys
import threading
import time
from pathlib import Path

# Of glibc's mallopt(3).
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8
# Seconds between two looks, and what may be resident beyond the greatest use: a part of it, and bytes.
LOOK_EVERY, ROOM, ROOM_BYTES = 0.1, 0.25, 256 << 20
_STATM = Path("/proc/self/statm")


_THREAD = "holes of memory"


class _MallInfo2(ctypes.Structure):
    """Of mallinfo2(3), glibc 2.33 and later: `hblkhd` and `uordblks` together are the bytes in use."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()
        )
    ]


def cpu_only() -> bool:
    """Whether JAX will run on the CPU: it was asked to, or nothing else is installed. Starts no backend."""
    if asked := os.environ.get("JAX_PLATFORMS"):
        return asked.split(",")[0] == "cpu"
    plugins = importlib.metadata.entry_points(group="jax_plugins")
    return not plugins and importlib.util.find_spec("libtpu") is None


def keep_freed() -> bool:
    """Keeps freed memory for what is allocated next; false where that is not done.

    For a CPU alone, and where the C library is glibc: an accelerator has its activations elsewhere,
    and the host would only grow.

    On a CPU each step allocates its activations again, and by default glibc maps and unmaps them: the system
    zeroes every page at its first touch, which took 40% of a step. One arena for all threads, since only
    that of the main thread grows without mapping. To be called before threads allocate: at the start.

    Steps of many shapes leave holes that the next one does not fit: a thread gives them back to the system.
    """
    if not cpu_only():
        return False
    linux = sys.platform.startswith("linux")
    libc = ctypes.CDLL(None) if linux else None
    if libc is None or not hasattr(libc, "mallinfo2") or not _STATM.exists():
        return False
    asked = ((M_ARENA_MAX, 1), (M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1))
    if not all(libc.mallopt(option, value) for option, value in asked):
        return False
    # A program may call one verb after the other.
    if not any(thread.name == _THREAD for thread in threading.enumerate()):
        threading.Thread(target=_return_holes, args=(libc,), name=_THREAD, daemon=True).start()
    return True


def _return_holes(libc: ctypes.CDLL) -> None:
    """Gives free pages back whenever more is resident than was ever seen in use, and some room."""
    libc.mallinfo2.restype = _MallInfo2
    greatest, bound = 0, ROOM_BYTES
    while True:
        time.sleep(LOOK_EVERY)
        # To ask the allocator holds its lock for milliseconds, and is done when it has grown alone.
        if private_bytes() <= bound:
            continue
        info = libc.mallinfo2()
        greatest = max(greatest, info.uordblks + info.hblkhd)
        bound = kept(greatest)
        if private_bytes() > bound:
            libc.malloc_trim(0)
            # What is not the allocator's own stays, and is not to be asked for at every look.
            greatest = max(greatest, private_bytes())


def kept(greatest: float) -> int:
    """Bytes that may be resident where so many were in use at the most."""
    return int((1 + ROOM) * greatest) + ROOM_BYTES


def private_bytes() -> int:
    """What is resident of this process and of no file (Linux)."""
    _, resident, shared, *_ = map(int, _STATM.read_text("ascii").split())
    return (resident - shared) * os.sysconf("SC_PAGE_SIZE")
