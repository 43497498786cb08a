"""The name that was meant, of those that are known."""

from difflib import get_close_matches
from functools import lru_cache
from heapq import nlargest

LONGEST_NAME = 128
COMPARED = 8  # names that are compared letter by letter: a millisecond each when they are long


def suggestion(name: str, known: list[str]) -> str:
    """The known name nearest to `name`, or "" when none is near."""
    if len(name) > LONGEST_NAME:
        return ""  # no name, and comparing it would take long
    wanted = _pairs(name.lower())
    likely = nlargest(
        COMPARED, known, key=lambda each: len(wanted & _pairs(each.lower())) / (len(each) + len(name) + 1)
    )
    near = get_close_matches(name.lower(), [k.lower() for k in likely], n=1, cutoff=0.5)
    return next((k for k in likely if near and k.lower() == near[0]), "")


@lru_cache(maxsize=4096)
def _pairs(name: str) -> frozenset[str]:
    """The pairs of neighbouring letters of a name, its ends among them: names that are near have many in common."""
    ended = f" {name} "
    return frozenset(ended[n : n + 2] for n in range(len(ended) - 1))
