"""Updates in fewer bytes: 8 bits a number, or only the longest ones; what was left out comes with the next update."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

BLOCK: Final = 256
"""Numbers that share a scale."""
_STEPS: Final = 127


def to_bytes(update: Floats) -> bytes:
    """A scale (4 bytes) for each 256 numbers, then a byte for each number."""
    padded = np.zeros(-(-len(update) // BLOCK) * BLOCK, np.float32)
    padded[: len(update)] = update
    blocks = padded.reshape(-1, BLOCK)
    scales = np.abs(blocks).max(axis=1) / np.float32(_STEPS)
    safe = np.where(scales > 0, scales, np.float32(1))
    steps = np.clip(np.rint(blocks / safe[:, None]), -_STEPS, _STEPS).astype(np.int8)
    return bytes(scales.astype("<f4")) + bytes(steps.reshape(-1)[: len(update)])


def of_bytes(written: bytes, size: int) -> Floats:
    """What was written.

    Raises:
        ValueError: It is not of so many numbers.
    """
    blocks = -(-size // BLOCK)
    if len(written) != 4 * blocks + size:
        raise ValueError(f"an update in 8 bits has {len(written)} bytes; one of {size} numbers has {4 * blocks + size}")
    scales = np.frombuffer(written, "<f4", blocks).astype(np.float64)
    return np.frombuffer(written, np.int8, offset=4 * blocks) * np.repeat(scales, BLOCK)[:size]


def to_longest(update: Floats, keep: int) -> bytes:
    """The places (4 bytes each, rising) of so many longest numbers, then these (4 bytes each)."""
    keep = max(1, min(keep, len(update)))
    places = np.sort(np.argpartition(-np.abs(update), keep - 1)[:keep])
    return places.astype("<u4").tobytes() + update[places].astype("<f4").tobytes()


def of_longest(written: bytes, size: int) -> Floats:
    """What was written, with zeros in all other places.

    Raises:
        ValueError: It is no such update.
    """
    keep = len(written) // 8
    places = np.frombuffer(written, "<u4", keep) if keep else np.zeros(0, np.uint32)
    if len(written) != 8 * keep or not keep or (np.diff(places.astype(np.int64)) <= 0).any() or places[-1] >= size:
        raise ValueError(f"an update of its longest numbers has {len(written)} bytes that are no places below {size}")
    found = np.zeros(size)
    found[places] = np.frombuffer(written, "<f4", offset=4 * keep)
    return found


@dataclass(slots=True)
class Feedback:
    """Compresses the updates of a client one after the other. One writer: the client.

    Args:
        size: Numbers of an update.
        share: Of the numbers that are sent; None for all of them in 8 bits.
    """

    size: int
    share: float | None
    left: Floats = field(init=False)
    """What the last one left out, which that of the next round has in it."""
    _before: Floats = field(init=False, repr=False)
    _turn: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.left = self._before = np.zeros(self.size)

    def compress(self, update: Floats, turn: int) -> bytes:
        """An update of a round with what was left out in those before, compressed.

        A further attempt at the same round begins from the same: what was left out in a lost one is in its update.
        """
        if turn != self._turn:
            self._before, self._turn = self.left, turn
        wanted = update + self._before
        if self.share is None:
            written = to_bytes(wanted)
            self.left = wanted - of_bytes(written, self.size)
        else:
            written = to_longest(wanted, round(self.share * self.size))
            self.left = wanted - of_longest(written, self.size)
        return written
