"""Calls of the system that Python does not offer."""

import ctypes
import os
import platform
from typing import Final

COLUMNS: Final = {"x86_64": 1, "aarch64": 2}
"""Machines whose numbers of system calls are known; where they are in `syscalls`."""

PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h
PR_SET_DUMPABLE: Final = 4
PR_SET_NO_NEW_PRIVS: Final = 38

_libc = ctypes.CDLL(None, use_errno=True)


def call(number: int, *arguments: int | bytes | object) -> int:
    """A system call by its number.

    Raises:
        OSError: The system refuses it.
    """
    ctypes.set_errno(0)
    given = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    return _checked(_libc.syscall(ctypes.c_long(number), *given))


def prctl(option: int, *arguments: int) -> int:
    """Set something of this process or thread; by its number.

    Raises:
        OSError: The system refuses it.
    """
    ctypes.set_errno(0)
    padded = (*arguments, 0, 0, 0, 0)[:4]
    return _checked(_libc.prctl(option, *(ctypes.c_ulong(each) for each in padded)))


def unshare(flags: int) -> None:
    """Leave name spaces for new ones; of these flags.

    Raises:
        OSError: The system refuses it.
    """
    ctypes.set_errno(0)
    _checked(_libc.unshare(flags))


def column() -> int | None:
    """Where numbers of this machine are in `syscalls`; None where they are not known."""
    return COLUMNS.get(platform.machine())


def _checked(result: int) -> int:
    if result == -1:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result
