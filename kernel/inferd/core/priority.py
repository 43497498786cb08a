"""The classes of tasks and of waiting leases."""

from enum import IntEnum


class Priority(IntEnum):
    """A class; the values are those of `inferd.v1.Priority`, a greater one goes first."""

    LOW = 1
    NORMAL = 2
    HIGH = 3
