"""What may be asked of the audit trail."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from inferd.errors import present

if TYPE_CHECKING:
    from inferd.runtime.kept_trail import Place
    from inferd.runtime.trail import Trail

MOST_LINES = 1000  # of a page


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Where the trail stands.

    Attributes:
        count: How many lines it has had.
        first: The number of the oldest line that is kept; 0 for none.
        checkpoint: The last checkpoint, as a line.
        public: The public half of the key that signs, in hexadecimal.
        durable: Whether it outlives the kernel.
        failing: Whether the last write of it failed.
        lost: Entries that were not kept since the kernel was started.
    """

    count: int
    first: int
    checkpoint: str
    public: str
    durable: bool
    failing: bool
    lost: int


class Audit:
    """Tells what the trail has.

    Args:
        trail: Of the kernel.

    Attributes:
        trail: As given.
    """

    def __init__(self, trail: Trail | None) -> None:
        self.trail = present(trail)

    def standing(self) -> Standing:
        """Where it stands."""
        trail = self.trail
        return Standing(
            count=trail.count,
            first=trail.first,
            checkpoint=trail.checkpoint,
            public=trail.public,
            durable=trail.durable,
            failing=trail.failing,
            lost=trail.lost,
        )

    async def lines(self, place: Place, most: int) -> tuple[list[str], Place | None]:
        """Lines from a place on, as they are kept, and where the next ones begin; None for no more.

        Raises:
            StoreUnavailableError: They cannot be read.
        """
        return await self.trail.lines(place, min(most, MOST_LINES))

    async def behind(self, after: int) -> Place:
        """Where the lines behind one of a number begin, once what was told so far is among them."""
        await self.trail.settled()
        return self.trail.place_behind(after)
