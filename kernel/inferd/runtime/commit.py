"""Where changes of the core are kept before anything that follows from them is done."""

from collections.abc import Sequence

from inferd.core.changes import Change


def commit(changes: Sequence[Change]) -> None:
    """Keep what has changed. Nothing outlives a kernel yet: a durable store comes in here, and nowhere else.

    What a worker is sent, and what a client is told, follows from what is kept; never the other way round.
    """
