"""The allocator of the C library, told what it gives back to the system."""

import ctypes
import os
from typing import Final

M_TRIM_THRESHOLD: Final = -1  # of glibc's malloc.h, as the next two
M_MMAP_THRESHOLD: Final = -3
M_ARENA_MAX: Final = -8
LARGE_BYTES: Final = 8 << 20
"""Larger than most messages: a piece that comes from the system costs a page fault for each 4 KiB, every time."""
KEPT_BYTES: Final = 4 << 20
"""Free at the end of a heap: less would be given back and taken again all the time."""
LITTLE_BYTES: Final = 128 << 10  # both, where a process lives by reading much and keeping little
HEAPS: Final = 1
"""Each thread of gRPC would have one of its own, with holes of its own."""


def give_large_back() -> bool:
    """Have pieces of `LARGE_BYTES` and more come from the system, and go back to it; whether that can be set here.

    By default the C library of Linux raises this bound up to 32 MiB when such pieces are freed, and has several heaps,
    in each of which messages leave holes.
    """
    return _set(large_bytes=LARGE_BYTES, kept_bytes=KEPT_BYTES)


def keep_little() -> bool:
    """Give back what is free, for a process through which data pass; whether that can be set here.

    With Arrow's memory from the same place: a command that maps a dataset and the process of its function took a
    quarter less, and no more time. Call it before pyarrow is imported.
    """
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    return _set(large_bytes=LITTLE_BYTES, kept_bytes=LITTLE_BYTES)


def _set(*, large_bytes: int, kept_bytes: int) -> bool:
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, or another system
        return False
    set_all = [mallopt(*each) for each in ((M_MMAP_THRESHOLD, large_bytes), (M_TRIM_THRESHOLD, kept_bytes))]
    return bool(all(set_all) and mallopt(M_ARENA_MAX, HEAPS))
