"""Whether there is room for those that wait."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence as Items

    from inferd.engine.token.blocks import BlockPool
    from inferd.engine.token.holds import Holds
    from inferd.engine.token.limits import Bounds
    from inferd.engine.token.sequence import Sequence
    from inferd.engine.token.windows import Windows


class Admission:
    """What a sequence needs of rows and blocks before it has a place, held against what it may take. Changes nothing.

    Args:
        rows: The sequences that have a row.
        pool: The KV blocks.
        holds: What leases hold of rows and blocks.
        windows: The blocks of layers with a window; None where they are in the pool, too.
        bounds: What there is.
    """

    def __init__(
        self, rows: Items[Sequence], pool: BlockPool, holds: Holds, windows: Windows | None, *, bounds: Bounds
    ) -> None:
        self._rows = rows
        self._pool = pool
        self._holds = holds
        self._windows = windows
        self._bounds = bounds

    def has_row(self, sequence: Sequence, *, more: int = 0) -> bool:
        """Whether there is a row that a waiting sequence may take, if so many more were free."""
        return self._holds.open_rows(self._bounds.rows - len(self._rows) + more, sequence.place.hold) > 0

    def find_room(self, sequence: Sequence, *, own: bool = False, more: int = 0) -> list[int] | None:
        """The cached blocks of a waiting sequence if there are free ones for the rest of it; else None.

        Args:
            sequence: It waits.
            own: Only blocks that are kept for its lease count.
            more: So many more count as free.
        """
        free = self._holds.open_blocks(self._pool.free + more, sequence.place.hold, own=own)
        if free < 1:
            return None
        found = self._find(sequence)
        return found if self.least_blocks(sequence) - len(found) + self._pool.idle(found) <= free else None

    def fits_alone(self, sequence: Sequence) -> bool:
        """Whether there would be room for a sequence if all was free that is not held for others."""
        hold = sequence.place.hold
        return self.least_blocks(sequence) <= self._holds.most_blocks(hold) and self._holds.most_rows(hold) > 0

    def fits_beside(self, sequence: Sequence, others: Items[Sequence]) -> bool:
        """Whether there would be room for a waiting sequence if only `others` had places, whatever is cached."""
        taken = {block for each in others for block in each.place.blocks}
        rows = self._holds.open_rows(self._bounds.rows - len(others), sequence.place.hold)
        blocks = self._holds.open_blocks(self._bounds.blocks - len(taken), sequence.place.hold)
        return rows > 0 and self.least_blocks(sequence) <= blocks

    def least_blocks(self, sequence: Sequence) -> int:
        """Blocks without which a sequence is not admitted: those of its tokens and one more, if it may need that."""
        return min(self._pool.blocks_for(sequence.length) + 1, self._pool.blocks_for(sequence.most_tokens))

    def _find(self, sequence: Sequence) -> list[int]:
        """Cached blocks of a sequence's tokens; its last token is computed in any case, for its logits."""
        if sequence.chain is None or (sequence.pool is not None and sequence.pool.whole):
            return []
        most = sequence.unseen // self._pool.block_tokens
        digests = sequence.chain.digests(sequence.tokens, most)
        found = self._pool.find(digests)
        return found if self._windows is None else found[: self._windows.reach(digests[: len(found)])]
