"""Which sequence is at which place of the area, and what of the pool's blocks is there already.

The pool is what counts: a place is filled from it, and what a run has written is copied to it. So any place may be
given to another sequence at any time. What a place holds is known by the numbers of blocks and of their versions, which
rise whenever a block is written to.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inferd.plugin import TokenLimits
from inferd_onnx.decoder.area import Area
from inferd_onnx.decoder.plan import Run

Indices = NDArray[np.int64]
NOBODY = -1


class Slots:
    """Places and the pool. One writer: the session.

    Args:
        area: Places.
        pool: Blocks, shape (blocks, layers * 2, heads, block_tokens, width).
        limits: Of the session.
        area_tokens: Most tokens whose keys and values may be in the area at once.
    """

    def __init__(self, area: Area, pool: NDArray[Any], limits: TokenLimits, *, area_tokens: int) -> None:
        self._area = area
        self._pool = pool
        self._size = limits.block_tokens
        self._area_tokens = area_tokens
        places, width = area.numbers.shape[1], -(-limits.context_tokens // self._size)
        self._blocks = np.full((places, width), NOBODY, np.int64)  # that a place holds
        self._seen = np.zeros((places, width), np.int64)  # their versions when they came there
        self._versions = np.zeros(limits.blocks, np.int64)
        self._latest = np.full(limits.blocks, NOBODY, np.int64)  # the place that held a block last
        self._used = np.zeros(places, np.int64)  # when
        self._touched = np.zeros(places, np.int64)  # tokens of a place that memory was taken for
        self._now = 0

    def enter(self, run: Run) -> int:
        """Give the sequences of a run places side by side, with all that they have so far; the first of the places."""
        self._now += 1
        count = len(run.lengths)
        places = self._find(run)
        first = self._choose_first(places)
        free = [place for place in range(first, first + count) if place not in places]
        for row, place in enumerate(places):
            if not first <= place < first + count:
                target = free.pop()
                if place != NOBODY:
                    self._move(place, target, int(run.begins[row]))
                places[row] = target
        self._used[places] = self._now
        order = np.argsort(places)
        run.reorder(order)
        places = places[order]
        self._make_room(places, run.lengths)
        for row, place in enumerate(places):
            self._fill(int(place), run, row)
        return first

    def leave(self, run: Run, first: int) -> None:
        """Copy to the pool what a run has written, and remember where it is."""
        counts = run.lengths - run.begins
        rows = np.repeat(np.arange(len(counts)), counts)
        positions = np.concatenate([np.arange(b, e) for b, e in zip(run.begins, run.lengths, strict=True)])
        blocks = run.tables[rows, positions // self._size]
        self._pool[blocks, :, :, positions % self._size] = self._area.numbers[:, first + rows, :, positions]
        self._versions[np.unique(blocks)] += 1
        index = positions // self._size
        self._blocks[first + rows, index] = blocks
        self._seen[first + rows, index] = self._versions[blocks]
        self._latest[blocks] = first + rows

    def copy_blocks(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Copy blocks of the pool, in order.

        Raises:
            ValueError: A block is outside the pool. Nothing has changed.
        """
        for block in (block for pair in pairs for block in pair):
            if not 0 <= block < len(self._pool):
                raise ValueError(f"bad pair: block {block}; it must be from 0 to {len(self._pool) - 1}")
        for source, target in pairs:
            self._pool[target] = self._pool[source]
            self._versions[target] += 1

    def _find(self, run: Run) -> Indices:
        """The places that hold all of a sequence; `NOBODY` for those that are nowhere."""
        places = np.full(len(run.lengths), NOBODY, np.int64)
        for row, begin in enumerate(run.begins.tolist()):
            needed = -(-begin // self._size)
            if not needed:
                continue
            table = run.tables[row, :needed]
            place = int(self._latest[table[-1]])
            if place != NOBODY and place not in places and self._is_same(place, table):
                places[row] = place
        return places

    def _is_same(self, place: int, table: Indices) -> bool:
        needed = len(table)
        return bool(
            np.array_equal(self._blocks[place, :needed], table)
            and np.array_equal(self._seen[place, :needed], self._versions[table])
        )

    def _choose_first(self, places: Indices) -> int:
        """Where so many places side by side hold most of the sequences; among equals those not used for longest."""
        count, total = len(places), len(self._used)
        member = np.zeros(total + 1, np.int64)
        member[1:][places[places != NOBODY]] = 1
        sums = np.cumsum(member)
        held = sums[count:] - sums[: total - count + 1]
        others = np.lib.stride_tricks.sliding_window_view(self._used, count).max(axis=1)
        best = np.flatnonzero(held == held.max())
        return int(best[np.argmin(others[best])])

    def _move(self, source: int, target: int, tokens: int) -> None:
        """Move a sequence. What was at its new place is still in the pool."""
        self._area.copy(source, target, tokens)
        self._touched[target] = max(self._touched[target], tokens)
        self._blocks[target], self._seen[target] = self._blocks[source], self._seen[source]
        self._blocks[source] = NOBODY
        held = self._blocks[target]
        self._latest[held[held != NOBODY]] = target

    def _make_room(self, places: Indices, lengths: Indices) -> None:
        """Give back the memory of other places, the ones not used for longest first, and then of ends."""
        self._touched[places] = np.maximum(self._touched[places], lengths)
        over = int(self._touched.sum()) - self._area_tokens
        if over <= 0:
            return
        for place in np.argsort(self._used, kind="stable"):
            if over > 0 and self._used[place] != self._now and self._touched[place]:
                over -= int(self._touched[place])
                self._release(int(place), 0)
        for place, length in zip(places.tolist(), lengths.tolist(), strict=True):
            if over > 0 and self._touched[place] > length:
                over -= int(self._touched[place]) - length
                self._release(place, length)

    def _release(self, place: int, tokens: int) -> None:
        self._area.release(place, tokens)
        self._blocks[place, -(-tokens // self._size) :] = NOBODY
        self._touched[place] = tokens

    def _fill(self, place: int, run: Run, row: int) -> None:
        """Bring what a sequence has so far from the pool, where its place does not hold it."""
        needed = -(-int(run.begins[row]) // self._size)
        table = run.tables[row, :needed]
        same = (self._blocks[place, :needed] == table) & (self._seen[place, :needed] == self._versions[table])
        for index in np.flatnonzero(~same).tolist():
            begin, block = index * self._size, int(table[index])
            self._area.numbers[:, place, :, begin : begin + self._size] = self._pool[block]
        self._blocks[place, :needed], self._seen[place, :needed] = table, self._versions[table]
        self._latest[table] = place
        # What the run is about to write over: should it fail, nobody may take it for what it was.
        self._blocks[place, needed : -(-int(run.lengths[row]) // self._size)] = NOBODY
