"""A worker that gives its outputs in memories that are not what they must be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from inferd import shared
from inferd.worker import tensor_frames

if TYPE_CHECKING:
    from inferd.worker.tensor_frames import Shared

HOWS = ("unsealed", "short", "beyond", "absent")


def spoil_memories(how: str) -> None:
    """Let every memory of this process be wrong from now on.

    Args:
        how: One of `HOWS`.

    Raises:
        ValueError: It is none of them.
    """
    if how not in HOWS:
        raise ValueError(f"memory is {how!r}; it must be one of {', '.join(HOWS)}")
    share = tensor_frames.share

    def spoilt(outputs: Any) -> Shared | None:
        given = share(outputs)
        return None if given is None else _spoil(given, how)

    tensor_frames.share = spoilt


def _spoil(given: Shared, how: str) -> Shared:
    size_bytes = given.memory.size_bytes
    if how == "unsealed":
        memory = shared.Memory.make(size_bytes)
    elif how == "short":
        memory = shared.Memory.of(bytes(size_bytes // 2))
    else:
        memory = given.memory
    if how == "beyond":
        return given._replace(places={place: (2**63, size) for place, (_, size) in given.places.items()})
    return given._replace(memory=memory, number=7 if how == "absent" else 0)
