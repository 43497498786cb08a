"""Which rows of a step are of pictures, what they see and where they stand: for backends whose models see."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inferd.plugin.pictures import PlacedPicture
    from inferd.plugin.session import Int64Array, TokenBatch


class PictureRows(NamedTuple):
    """A picture of which a step has tokens.

    Attributes:
        placed: It.
        rows: Of the step, that are of it.
        which: Of its vectors each of these rows is.
    """

    placed: PlacedPicture
    rows: Int64Array
    which: Int64Array


def find_rows(batch: TokenBatch) -> list[PictureRows]:
    """The pictures of which a step has tokens, sequence by sequence."""
    found = []
    for sequence, pictures in enumerate(batch.pictures or ()):
        begin, end = int(batch.starts[sequence]), int(batch.starts[sequence + 1])
        first = int(batch.positions[begin])
        for placed in pictures:
            low, high = np.searchsorted(placed.places, (first, first + end - begin))
            if low < high:
                rows = placed.places[low:high].astype(np.int64) - first + begin
                found.append(PictureRows(placed, rows, np.arange(low, high)))
    return found


def find_reach(batch: TokenBatch) -> Int64Array | None:
    """The last position that each token sees where those of a picture see each other, shape (T,).

    None where that is each token's own.
    """
    reached = None
    for placed, rows, _ in find_rows(batch):
        reached = batch.positions.astype(np.int64) if reached is None else reached
        ends = _find_ends(placed.places)
        reached[rows] = ends[np.searchsorted(placed.places, batch.positions[rows])]
    return reached


def _find_ends(places: Any) -> Int64Array:
    """For each place of a picture the last one of those that lie one behind the other with it."""
    breaks = np.flatnonzero(np.diff(places) != 1)
    lasts = np.append(breaks, len(places) - 1)
    ends: Int64Array = places[lasts[np.searchsorted(lasts, np.arange(len(places)))]].astype(np.int64)
    return ends


def turn(batch: TokenBatch) -> Int64Array | None:
    """Positions in time, rows and columns of a step's tokens, shape (3, T), as `turn_sequence` has them.

    None where no sequence has pictures: all three are a token's own position.
    """
    if batch.pictures is None:
        return None
    positions = np.tile(batch.positions.astype(np.int64), (3, 1))
    for sequence, pictures in enumerate(batch.pictures):
        if pictures:
            own = slice(batch.starts[sequence], batch.starts[sequence + 1])
            positions[:, own] = turn_sequence(pictures, batch.positions[own].astype(np.int64))
    return positions


def turn_sequence(pictures: Sequence[PlacedPicture], positions: Int64Array) -> Int64Array:
    """Positions in time, rows and columns (3, N) of tokens of a sequence, as `get_rope_index` of transformers has them.

    A picture of R rows and C columns takes as many positions as the larger of both: its tokens have the time of its
    beginning, and rows and columns from there on; what follows goes on behind that.
    """
    turned = np.tile(positions, (3, 1))
    for placed in pictures:
        begin, grid = int(placed.places[0]), placed.picture.outline.grid
        if grid is None:
            continue
        count = grid[0] * grid[1]
        behind = positions >= begin + count
        inside = (positions >= begin) & ~behind
        row, column = np.divmod(positions[inside] - begin, grid[1])
        start = turned[0, inside] - (positions[inside] - begin)
        turned[:, behind] -= count - max(grid)
        turned[:, inside] = np.stack([start, start + row, start + column])
    return turned
