"""No core of a kernel or of what it starts is written: it would hold what tasks say, and credentials."""

import resource

NONE_AT_ALL = 1
"""Less than any core has, so that none is written to a file; and the one limit at which Linux hands none to a program
either, which it does at 0 (`fs/coredump.c`: a limit of 1 is how it keeps such a program from dumping itself)."""


def forbid_cores(pid: int = 0) -> None:
    """Have a process, and those that it starts from now on, leave no core behind; they cannot take that back.

    Args:
        pid: The process; 0 for this one.

    A process whose limit is 0 already, as `ulimit -c 0` leaves it, keeps that where it may not be raised.

    Raises:
        OSError: There is no such process.
    """
    try:
        resource.prlimit(pid, resource.RLIMIT_CORE, (NONE_AT_ALL, NONE_AT_ALL))
    except PermissionError:
        if resource.prlimit(pid, resource.RLIMIT_CORE)[1] >= NONE_AT_ALL:
            raise
