"""What the process does with memory that it has freed."""

import ctypes
import sys

# Of glibc's mallopt(3).
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8


def keep_freed() -> bool:
    """Keeps freed memory for what is allocated next; false where the C library is not glibc.

    On a CPU each step allocates its activations anew, and by default glibc maps and unmaps them: the system
    zeroes every page at its first touch, which took 40% of a step. One arena for all threads, since only
    that of the main thread grows without mapping. To be called before threads allocate: at the start.
    """
    linux = sys.platform.startswith("linux")  # elsewhere the C library may not even be opened so
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if linux else None
    if mallopt is None:
        return False
    return all((mallopt(M_ARENA_MAX, 1), mallopt(M_MMAP_MAX, 0), mallopt(M_TRIM_THRESHOLD, -1)))
