"""Which instance takes the next task."""

from collections.abc import Iterable

from inferd.core.model import Instance


def choose_instance(instances: Iterable[Instance]) -> Instance | None:
    """The instance with the most free places, the oldest among equals; None when none has any."""
    best = max(instances, key=lambda i: (i.free_places, -i.created), default=None)
    return best if best is not None and best.free_places > 0 else None
