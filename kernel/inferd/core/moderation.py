"""What rules of moderation say, and where a flag stands."""

from enum import Enum


class ModerationAction(Enum):
    """What becomes of what a rule finds.

    ALLOW: What lies inside of it is not found by other rules.
    FLAG: It is put before a person, and goes on.
    REDACT: A text stands in its place; an input is refused.
    STOP: The task ends there; an input is refused.
    """

    ALLOW = 1
    FLAG = 2
    REDACT = 3
    STOP = 4


class ModerationSpaces(Enum):
    """What becomes of white space: each is one space, runs of it are one, or there is none."""

    EACH = 1
    RUNS = 2
    NONE = 3


class FlagState(Enum):
    """Where a flag stands: nobody has decided, it was found to be right, or wrong."""

    OPEN = 1
    UPHELD = 2
    DISMISSED = 3
