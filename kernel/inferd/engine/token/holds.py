"""What leases hold of the rows and the KV blocks: capacity that the sequences of others leave free."""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING, Final

from inferd.errors import LeaseEndedError

if TYPE_CHECKING:
    from collections.abc import Iterable

MOST_LEASES: Final = 10_000
"""Leases whose fencing tokens are remembered; of those that hold nothing the oldest is forgotten first."""

_log = logging.getLogger(__name__)


class Hold:
    """What one lease holds, and what its sequences have of it. One writer: `Holds`.

    Attributes:
        fencing_token: Of the lease's grant.
        rows: Rows that it holds.
        blocks: KV blocks that it holds.
        taken_rows: Rows that its sequences have.
        shares: The blocks that its sequences have, with how many of them have each.
        kept_rows: Rows that others leave free for it.
        kept_blocks: Blocks that others leave free for it.
    """

    __slots__ = ("blocks", "fencing_token", "kept_blocks", "kept_rows", "rows", "shares", "taken_rows")

    def __init__(self) -> None:
        self.fencing_token = 0
        self.rows = self.blocks = 0
        self.taken_rows = 0
        self.shares: Counter[int] = Counter()
        self.kept_rows = self.kept_blocks = 0


class Holds:
    """The holds of all leases on one worker, and what they keep from others.

    A lease's sequences take of its hold first and then of what is free. Where the holds together exceed what there is,
    since each is of whole blocks, they get what there is in the order of their coming.

    One writer: the thread of the steps.

    Args:
        rows: Rows that there are.
        blocks: KV blocks that there are.

    Attributes:
        rows: Rows that are held.
        blocks: Blocks that are held.
        kept_rows: Of these, rows that must be free: their holders have not taken them.
        kept_blocks: Of these, blocks that must be free.
    """

    def __init__(self, *, rows: int, blocks: int) -> None:
        self.rows = self.blocks = 0
        self.kept_rows = self.kept_blocks = 0
        self._most_rows = rows
        self._most_blocks = blocks
        self._leases: dict[str, Hold] = {}  # the one that changed last is the last

    def change(self, lease_id: str, fencing_token: int, *, rows: int, blocks: int) -> None:
        """A lease holds so much from now on; nothing when both are 0. An older grant than was seen is ignored."""
        hold = self._leases.get(lease_id) or Hold()
        if fencing_token < hold.fencing_token:
            _log.warning("a hold of lease %s is ignored: its token %d is old", lease_id, fencing_token)
            return
        self.rows += rows - hold.rows
        self.blocks += blocks - hold.blocks
        hold.fencing_token, hold.rows, hold.blocks = fencing_token, rows, blocks
        self._update(hold)
        self._leases.pop(lease_id, None)
        self._leases[lease_id] = hold
        if len(self._leases) > MOST_LEASES:
            self._forget()

    def find(self, lease_id: str, fencing_token: int) -> Hold | None:
        """The hold that a task draws on; None when it runs under no lease, or under one that never held anything here.

        Raises:
            LeaseEndedError: The lease has given its hold back, or holds it by another grant.
        """
        hold = self._leases.get(lease_id)
        if hold is None:
            return None
        metadata = {"lease_id": lease_id, "fencing_token": str(fencing_token)}
        if not hold.rows and not hold.blocks:
            raise LeaseEndedError(
                f"lease {lease_id} has ended; send the task under one that is held", metadata=metadata
            )
        if hold.fencing_token != fencing_token:
            raise LeaseEndedError(
                f"the task was sent under grant {fencing_token} of lease {lease_id}, which is held by grant "
                f"{hold.fencing_token} now; send it again",
                metadata=metadata,
            )
        return hold

    def open_rows(self, free: int, hold: Hold | None) -> int:
        """How many of `free` rows a sequence may take."""
        kept = 0 if hold is None else min(free, hold.kept_rows)
        return max(kept, free - self.kept_rows + kept)

    def open_blocks(self, free: int, hold: Hold | None, *, own: bool = False) -> int:
        """How many of `free` blocks a sequence may take; with `own` only of those that are kept for its lease."""
        kept = 0 if hold is None else min(free, hold.kept_blocks)
        return kept if own else max(kept, free - self.kept_blocks + kept)

    def most_rows(self, hold: Hold | None) -> int:
        """Rows that sequences under a hold could have if there were no others."""
        own = 0 if hold is None else hold.rows
        return max(own, self._most_rows - self.rows + own)

    def most_blocks(self, hold: Hold | None) -> int:
        """Blocks that sequences under a hold could have if there were no others."""
        own = 0 if hold is None else hold.blocks
        return max(own, self._most_blocks - self.blocks + own)

    def take(self, hold: Hold, blocks: Iterable[int], *, rows: int = 0) -> None:
        """A sequence of a lease has got these."""
        hold.shares.update(blocks)
        hold.taken_rows += rows
        self._update(hold)

    def release(self, hold: Hold, blocks: Iterable[int], *, rows: int = 0) -> None:
        """A sequence of a lease has let go of these."""
        for block in blocks:
            hold.shares[block] -= 1
            if not hold.shares[block]:
                del hold.shares[block]
        hold.taken_rows -= rows
        self._update(hold)

    def _update(self, hold: Hold) -> None:
        """Bring what is kept for a lease up to date."""
        rows, blocks = max(0, hold.rows - hold.taken_rows), max(0, hold.blocks - len(hold.shares))
        self.kept_rows += rows - hold.kept_rows
        self.kept_blocks += blocks - hold.kept_blocks
        hold.kept_rows, hold.kept_blocks = rows, blocks

    def _forget(self) -> None:
        ended = next((name for name, hold in self._leases.items() if not hold.rows and not hold.blocks), None)
        if ended is not None:
            del self._leases[ended]
