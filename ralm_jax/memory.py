"""What the process does with memory that it has freed."""

import ctypes
import importlib.metadata
import importlib.util
import os
import sys

# Of glibc's mallopt(3).
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8


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
    """
    if not cpu_only():
        return False
    linux = sys.platform.startswith("linux")
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if linux else None
    if mallopt is None:
        return False
    return all((mallopt(M_ARENA_MAX, 1), mallopt(M_MMAP_MAX, 0), mallopt(M_TRIM_THRESHOLD, -1)))
