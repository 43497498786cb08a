"""The allocator of the C library, told to give large pieces back, but not those of messages."""

import ctypes
from typing import Final

M_TRIM_THRESHOLD: Final = -1  # of glibc's malloc.h, as the next two
M_MMAP_THRESHOLD: Final = -3
M_ARENA_MAX: Final = -8
LARGE_BYTES: Final = 8 << 20
"""Larger than most messages: a piece that comes from the system costs a page fault for each 4 KiB, every time."""
KEPT_BYTES: Final = 4 << 20
"""Free at the end of a heap: less would be given back and taken again all the time."""
HEAPS: Final = 1
"""Each thread of gRPC would have one of its own, with holes of its own."""


def give_large_back() -> bool:
    """Have pieces of `LARGE_BYTES` and more come from the system, and go back to it; whether that can be set here.

    By default the C library of Linux raises this bound up to 32 MiB when such pieces are freed, and has several heaps,
    in each of which messages leave holes.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, or another system
        return False
    set_all = [mallopt(*each) for each in ((M_MMAP_THRESHOLD, LARGE_BYTES), (M_TRIM_THRESHOLD, KEPT_BYTES))]
    return bool(all(set_all) and mallopt(M_ARENA_MAX, HEAPS))
