"""The allocator of the C library, told to give large pieces back."""

import ctypes
from typing import Final

M_TRIM_THRESHOLD: Final = -1  # of glibc's malloc.h, as the next one
M_MMAP_THRESHOLD: Final = -3
LARGE_BYTES: Final = 256 << 10
KEPT_BYTES: Final = 1 << 20
"""Free at the end of the heap: less would be given back and taken again all the time."""


def give_large_back() -> bool:
    """Have pieces of `LARGE_BYTES` and more come from the system, and go back to it; whether that can be set here.

    By default the C library of Linux raises this bound up to 32 MiB when such pieces are freed. Messages of a MiB then
    leave holes in its heaps, which are several: some 20 MiB more stay with the process.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, or another system
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, LARGE_BYTES) and mallopt(M_TRIM_THRESHOLD, KEPT_BYTES))
