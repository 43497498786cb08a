"""Names that models and their aliases may have: slashes part them, and none of them is a path that leads anywhere."""

import re
from typing import Final

MOST_NAME: Final = 128
NAME_FORM: Final = r"^[A-Za-z0-9_:-][A-Za-z0-9._:-]*(/\.*[A-Za-z0-9_:-][A-Za-z0-9._:-]*)*$"
NAME_RULE: Final = (
    "1 to 128 of letters, digits, '.', '_', '-', ':' and '/'; it must not begin with '.' or '/', and no part between"
    " slashes may be empty or of dots alone"
)
_FORM: Final = re.compile(NAME_FORM)


MOST_DIGITS: Final = 9  # of the number of a version
AT: Final = "@"
"""Between the name of a model and the number of a version of it, as in "chat@3"; no name has it."""

APART: Final = ":"
"""Between the name of a model of a repository and the number of a version that is not the newest, as in "chat:1"."""
_NUMBERED: Final = re.compile(rf"(.+){APART}([1-9][0-9]{{0,17}})")


def numbered(name: str) -> tuple[str, str] | None:
    """The model and the number of a name that means a version of one of a repository; None for one that cannot."""
    found = _NUMBERED.fullmatch(name)
    return None if found is None else (found[1], found[2])


def version_of(name: str) -> tuple[str, int] | None:
    """The model and the number of the version that a name means; None for a name that means none."""
    base, at, number = name.rpartition(AT)
    return (base, int(number)) if at and number.isdecimal() and len(number) <= MOST_DIGITS and is_name(base) else None


TAKEN: Final = ("functions", "package")
"""What stands before an at sign for functions and their packages: no new model has such a name."""
TAKEN_RULE: Final = f"neither of {' and '.join(TAKEN)}, which stand for functions"


def is_hidden(name: str) -> bool:
    """Whether it stands for what the kernel has in the place of a model, as for a training: no client acts on that."""
    return AT in name and version_of(name) is None and name.partition(AT)[0] not in TAKEN


def is_name(text: str) -> bool:
    """Whether a model, or an alias, may have it for its name."""
    return len(text) <= MOST_NAME and _FORM.fullmatch(text) is not None
