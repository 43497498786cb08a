"""What a decoder must and must not write, by the place in its output, and by the times that it has written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from inferd.plugin.recipe import TimeTokens
    from inferd.plugin.session import Float32Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """What an output begins with, and which tokens are not in it.

    But for times it depends on the place only, never on what is there.

    Attributes:
        opening: The first tokens: each is one of some.
        begin_suppress: Tokens that are not the first one behind these.
        suppress: Tokens that are nowhere behind these.
        times: Tokens that say when something was said, see `Timing`; None for an output without.
    """

    opening: tuple[tuple[int, ...], ...] = ()
    begin_suppress: tuple[int, ...] = ()
    suppress: tuple[int, ...] = ()
    times: TimeTokens | None = None

    def apply(self, logits: Float32Array, place: int) -> None:
        """Forbid tokens in the logits of one row, shape (V,), that are for this place of the output; the first is 0."""
        if place < len(self.opening):
            kept = list(self.opening[place])
            values = logits[kept]
            logits[:] = -float("inf")
            logits[kept] = values
            return
        logits[list(self.suppress)] = -float("inf")
        if place == len(self.opening):
            logits[list(self.begin_suppress)] = -float("inf")
