"""What is written together, and apart where a part of it cannot be: that is not to refuse the others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from inferd.runtime.kept import typed
from inferd.store.store import UnwritableError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from inferd.errors import InferdError
    from inferd.store.store import Store, Write

UNWRITABLE = (UnwritableError, ValueError, TypeError, OverflowError)  # what writing raises because of what is written


def write_parts(store: Store, parts: Sequence[Callable[[], Sequence[Write]]]) -> list[InferdError | None]:
    """Write all in one; where something in it cannot be kept, its halves, and so on. Of each part why it is not kept.

    Raises:
        StoreUnavailableError: Nothing can be written now; parts may have been.
    """
    return _write(store, [part() for part in parts])


def _write(store: Store, parts: Sequence[Sequence[Write]]) -> list[InferdError | None]:
    if not any(parts):
        return [None] * len(parts)
    try:
        store.write([write for part in parts for write in part])
    except UNWRITABLE as error:
        if len(parts) == 1:
            return [typed(error)]
        half = len(parts) // 2
        return [*_write(store, parts[:half]), *_write(store, parts[half:])]
    return [None] * len(parts)
