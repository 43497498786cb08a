"""How a process of inferd starts quickly: what is imported stays, and is not looked through for garbage meanwhile."""

import gc
from typing import Final

STARTING_OBJECTS: Final = 1_000_000
"""Objects between two collections while a process starts; with Python's own 700 collecting is a fifth of an import."""

_usual = gc.get_threshold()


def begin_start() -> None:
    """Collect rarely from now on. A short command stays so to its end, which leaves some MiB of garbage at most.

    What serves others, or goes on for long, ends it: what clients send may hang on few objects, and is much.
    """
    gc.set_threshold(STARTING_OBJECTS, *_usual[1:])


def end_start(*, full_collections: int = _usual[2]) -> None:
    """Collect as usual from now on, and never look through what has been made so far.

    Args:
        full_collections: Collections of the middle generation for each of all.
    """
    gc.freeze()
    gc.set_threshold(*_usual[:2], full_collections)
