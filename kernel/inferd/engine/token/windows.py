"""KV blocks of layers that see the last tokens only: a pool of their own, which holds what is still seen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from inferd.engine.token.blocks import BlockPool

if TYPE_CHECKING:
    from collections.abc import Sequence as Items

    from inferd.engine.token.limits import Bounds
    from inferd.engine.token.sequence import Sequence

NO_BLOCK: Final = -1
"""What a block table holds where a sequence has no block."""


class Windows:
    """Beside each block of a sequence in the pool of all layers there is one in this pool, as long as it is seen.

    The pool has room for the windows of as many sequences as run at once and for the tokens of a step
    (`least_window_blocks`): whoever has a row has what it needs here, and nobody is preempted for it. Blocks that are
    out of the window of a sequence can be found by others until their memory is needed.

    One writer: the batcher.

    Attributes:
        pool: The blocks.
        tables: By row, the blocks that its tokens are in; `NO_BLOCK` for those that nothing sees any more.
    """

    def __init__(self, *, bounds: Bounds) -> None:
        self.pool = BlockPool(blocks=bounds.window_blocks, block_tokens=bounds.block_tokens)
        self.tables = np.full((bounds.rows, self.pool.blocks_for(bounds.sequence_tokens)), NO_BLOCK, np.int32)
        self._window = bounds.window_tokens
        self._held: dict[Sequence, list[int]] = {}  # of those that have a row, in the order of their tokens
        self._number = bounds.blocks  # of the first block here, where blocks of both pools are copied

    def reach(self, digests: Items[bytes]) -> int:
        """How many of the first blocks of a sequence are of use: what the token behind them sees can be found here."""
        best = run = 0
        for count, digest in enumerate(digests, start=1):
            run = run + 1 if self.pool.find((digest,)) else 0
            if run >= count - self._first(count * self.pool.block_tokens):
                best = count
        return best

    def seat(self, sequence: Sequence, count: int) -> None:
        """Give a sequence that gets a row what is seen behind its first blocks, so many as `reach` has said."""
        self._held[sequence] = []
        if sequence.chain is None or not count:
            return
        first = self._first(count * self.pool.block_tokens)
        found = self.pool.find(sequence.chain.digests(sequence.tokens, count)[first:])
        self.pool.share(found)
        self._held[sequence] += [NO_BLOCK] * first + found
        self.tables[sequence.place.row, :count] = self._held[sequence]

    def cover(self, sequence: Sequence, end: int) -> None:
        """Give a sequence blocks for its tokens before position `end`."""
        held = self._held[sequence]
        for place in range(len(held), self.pool.blocks_for(end)):
            held.append(self.pool.take())
            self.tables[sequence.place.row, place] = held[-1]

    def trim(self, sequence: Sequence, computed: int) -> None:
        """Give back the blocks that no token of a sequence sees from position `computed` on."""
        held, gone = self._held[sequence], []
        for place in range(self._first(computed) - 1, -1, -1):
            if held[place] == NO_BLOCK:
                break
            gone.append(held[place])
            held[place] = self.tables[sequence.place.row, place] = NO_BLOCK
        if sequence.chain is None or not sequence.chain.lasting:
            self.pool.withdraw(gone)
        self.pool.release(gone[::-1])

    def shrink(self, sequence: Sequence, used: int) -> None:
        """Take back the blocks of a sequence behind the first `used`."""
        self.pool.release(self._held[sequence][used:])
        del self._held[sequence][used:]
        self.tables[sequence.place.row, used:] = NO_BLOCK

    def publish(self, sequence: Sequence, place: int, digest: bytes) -> None:
        """Let a full block of a sequence be found, if it still has that."""
        if self._held[sequence][place] != NO_BLOCK:
            self.pool.publish(self._held[sequence][place], digest)

    def withdraw(self, sequence: Sequence) -> None:
        """Let the blocks of a sequence be found no more."""
        self.pool.withdraw(filter(_is_block, self._held[sequence]))

    def vacate(self, sequence: Sequence) -> None:
        """Free the blocks of a sequence that loses its row."""
        held = self._held.pop(sequence)
        self.tables[sequence.place.row, : len(held)] = NO_BLOCK
        self.pool.release(filter(_is_block, held))

    def copy(self, source: Sequence, target: Sequence, place: int) -> tuple[int, int] | None:
        """The pair that takes a block of one sequence over into another, which gets one; None if that is gone."""
        if self._held[source][place] == NO_BLOCK:
            return None
        self.cover(target, (place + 1) * self.pool.block_tokens)
        return self._number + self._held[source][place], self._number + self._held[target][place]

    def _first(self, position: int) -> int:
        """The first block that the token at a position sees."""
        return max(0, position + 1 - self._window) // self.pool.block_tokens


def _is_block(block: int) -> bool:
    return block != NO_BLOCK
