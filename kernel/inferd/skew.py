"""Which versions of inferd work together: a kernel and the agents and workers of other hosts."""

import re
from typing import Final

from inferd import __version__

OWN: Final = __version__
ADOPT: Final = "adopt"
"""What kernels are told that they know who take workers over that their agents have kept."""
_FORM: Final = re.compile(r"(\d{1,6})\.(\d{1,6})(?![0-9]).{0,50}")
STEPS: Final = 1  # minor versions that may lie between two that work together


def works_with(other: str, own: str | None = None) -> bool:
    """Whether another version of inferd works with this one: that of the same minor, or one before it or behind it."""
    mine, its = _FORM.fullmatch(own or OWN), _FORM.fullmatch(other)
    if mine is None or its is None:
        return other == (own or OWN)
    return mine[1] == its[1] and abs(int(mine[2]) - int(its[2])) <= STEPS


def skew_words(who: str, other: str) -> str:
    """Why a version does not work with this kernel's, and what helps."""
    return (
        f"{who} is of version {other[:40]!r}, the kernel of {OWN}: they work together where their minor versions are"
        " the same or follow each other; install the kernel's version there (upgrades go one minor at a time, the"
        " kernel first)"
    )
