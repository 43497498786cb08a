"""Where one sequence stands: its rank, and the row and KV blocks that it has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from inferd.engine.token.holds import Hold
    from inferd.engine.token.sequence import Sequence
    from inferd.engine.token.turns import Turn

WAITING: Final = -1
"""The row of a sequence that has none."""


class Place:
    """What one sequence has of the rows and blocks, and what decides when it has it. One writer: `Places`.

    Args:
        rank: See below.

    Attributes:
        rank: Its class with a minus in front, its virtual start, its handle, its sample: of those that run the last is
            preempted first.
        turn: Where it stands among those whose prompts are to be read; None: behind those of its class before it.
        hold: What is held for its lease; None for nothing.
        leader: The sample whose prompt's KV it takes over; None when it reads the prompt itself.
        row: Its row in the tables, or `WAITING`.
        blocks: KV blocks that it holds, in the order of its tokens.
        published: Of these, how many others can find.
        cached_tokens: Tokens of the prompt whose KV was found in the prefix cache.
        interruptions: How often it lost its blocks.
        beyond: Whether it is computed as sequences beyond the session's border are.
    """

    __slots__ = (
        "beyond",
        "blocks",
        "cached_tokens",
        "hold",
        "interruptions",
        "leader",
        "published",
        "rank",
        "row",
        "turn",
    )

    def __init__(self, *, rank: tuple[int, float, int, int]) -> None:
        self.rank = rank
        self.turn: Turn | None = None
        self.hold: Hold | None = None
        self.leader: Sequence | None = None
        self.row = WAITING
        self.blocks: list[int] = []
        self.published = 0
        self.cached_tokens = 0
        self.interruptions = 0
        self.beyond = False

    def exceeds_rows(self) -> bool:
        """Whether it has, alone or with others of its lease, more rows than are held for it."""
        return self.hold is None or self.hold.taken_rows > self.hold.rows

    def exceeds_blocks(self) -> bool:
        """Whether it has, alone or with others of its lease, more blocks than are held for it."""
        return self.hold is None or len(self.hold.shares) > self.hold.blocks

    @property
    def begun(self) -> bool:
        """Whether it has a row, or had one."""
        return self.row != WAITING or self.interruptions > 0

    def join(self, *, start: float, turn: Turn, hold: Hold | None) -> None:
        """Its task comes, with this virtual start in its class."""
        self.rank = (self.rank[0], start, *self.rank[2:])
        self.turn = turn
        self.hold = hold

    def follow(self, leader: Sequence) -> None:
        """It takes the prompt over from another sample, which has read it."""
        self.leader = leader

    def resume(self, cached_tokens: int) -> None:
        """Its prompt was begun before, in an engine that lost it."""
        self.cached_tokens = cached_tokens
        self.interruptions = 1

    def begin(self, cached_tokens: int) -> None:
        """Its prompt is begun."""
        self.cached_tokens = cached_tokens

    def seat(self, row: int, blocks: list[int], *, found: int) -> None:
        """It has a row, and blocks, of which the first `found` were found."""
        self.row = row
        self.blocks = blocks
        self.published = found

    def move(self, row: int) -> None:
        """It has another row."""
        self.row = row

    def publish(self, blocks: int) -> None:
        """So many of its blocks can be found."""
        self.published = blocks

    def leave(self) -> None:
        """It has neither row nor blocks."""
        self.row = WAITING
        self.blocks = []

    def cross(self) -> None:
        """It has become longer than the session's border, and nothing is kept of it."""
        self.beyond = True

    def interrupt(self) -> None:
        """It has lost its blocks to others."""
        self.interruptions += 1
