"""Documents in the order of their scores."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Ranked:
    """A document that was scored.

    Attributes:
        index: Which of those that were given.
        score: As the model gives it: the higher, the better it answers the query.
    """

    index: int
    score: float
