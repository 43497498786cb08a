"""Which parts of an input are left out to find what mattered for an answer, and what follows from the answers. Pure.

A coalition is a set of spans that are there, as a whole number: bit `n` for span `n`. What it is worth is a number for
each target: the logarithm of the probability of an answer, in nats, or the score of a class.

Leave-one-out: a span's score is by how much the worth of all falls without it. Shapley (sampled): the mean, over
random orders in which spans come in one after the other, of what its coming adds (Castro et al., 2009); orders come in
pairs, one the reverse of the other, whose errors tend to cancel out (Mitchell et al., 2022). The sum of all scores is
what all spans are worth more than none, exactly, however few orders there are.

Whether scores are faithful is found by leaving out the highest first (deletion; the worth should fall at once) and by
putting the highest in first (insertion; it should rise at once), beside random orders (Petsiuk et al., 2018).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from hashlib import blake2b
from itertools import accumulate
from operator import or_
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Order = tuple[int, ...]
    Worths = Mapping[int, Sequence[float]]

CURVE_POINTS: Final = 10
"""Of a curve, besides its first; fewer where there are fewer spans."""


class ExplanationMethod(Enum):
    """How scores are found; the values are those of `inferd.v1.ExplanationMethod`."""

    LEAVE_ONE_OUT = 1
    SHAPLEY = 2
    GRADIENTS = 3
    ATTENTION = 4
    EXAMPLES = 5


INSIDE: Final = frozenset({ExplanationMethod.GRADIENTS, ExplanationMethod.ATTENTION})
"""Methods that look into the network: their scores are no differences of what coalitions are worth."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    """What is to be found out.

    Attributes:
        method: How.
        spans: Of how many spans.
        samples: Orders that are drawn, an even number; leave-one-out draws none.
        random_orders: Orders that curves are held against; 0 to draw no curves.
        seed: Of all that is drawn.
    """

    method: ExplanationMethod
    spans: int
    samples: int = 0
    random_orders: int = 0
    seed: int = 0

    @property
    def all(self) -> int:
        """All spans."""
        return (1 << self.spans) - 1

    @property
    def sampled(self) -> list[Order]:
        """The orders of Shapley, those of a pair one behind the other."""
        if self.method is not ExplanationMethod.SHAPLEY:
            return []
        pairs = [_shuffle(self.spans, self.seed, "order", number) for number in range(self.samples // 2)]
        return [order for pair in pairs for order in (pair, pair[::-1])]

    @property
    def others(self) -> list[Order]:
        """The random orders that curves are held against."""
        return [_shuffle(self.spans, self.seed, "other", number) for number in range(self.random_orders)]

    @property
    def guesses(self) -> list[Order]:
        """Orders that stand for that of the scores as long as nobody knows it."""
        return [_shuffle(self.spans, self.seed, "guess", number) for number in range(2)] if self.random_orders else []

    @property
    def sizes(self) -> list[int]:
        """How many spans are out, or in, at the points of a curve; the same from both ends."""
        points = min(CURVE_POINTS, self.spans)
        half = {round(self.spans * point / points) for point in range(points // 2 + 1)}
        return sorted(half | {self.spans - size for size in half})

    def coalitions(self) -> list[int]:
        """All whose worth is wanted before anything is known, each once."""
        wanted = [self.all, 0]
        if self.method is ExplanationMethod.LEAVE_ONE_OUT:
            wanted += [self.all ^ (1 << span) for span in range(self.spans)]
        for order in self.sampled:
            wanted += _firsts(order)
        for order in self.others:
            firsts = _firsts(order)
            wanted += [firsts[size] for size in self.sizes]
        return list(dict.fromkeys(wanted))

    @property
    def most(self) -> int:
        """How many coalitions there are at most, found without drawing any."""
        alone = self.method is ExplanationMethod.LEAVE_ONE_OUT
        scored = 2 + (self.spans if alone else self.samples * max(0, self.spans - 1))
        drawn = (self.random_orders + 2) * len(self.sizes) if self.random_orders else 0
        return min(1 << self.spans, scored + drawn)

    def ranked(self, order: Order) -> list[int]:
        """All whose worth is wanted to draw the curves of an order, each once."""
        if not self.random_orders:
            return []
        firsts = _firsts(order)
        wanted = [each for size in self.sizes for each in (firsts[size], self.all ^ firsts[size])]
        return list(dict.fromkeys(wanted))


@dataclass(frozen=True, slots=True)
class Score:
    """What a span is worth, and the standard error of that; None where it was not drawn, or from one pair alone."""

    value: float
    error: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Curves:
    """What was left when spans went out, and there when they came in, in one order.

    Attributes:
        deletion: The worth without the first so many of the order, at each of `Faithfulness.sizes`.
        insertion: The worth of the first so many of it alone.
    """

    deletion: Sequence[float]
    insertion: Sequence[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Faithfulness:
    """Whether scores say what matters: their curves beside those of random orders.

    Attributes:
        sizes: How many spans are out, or in, at each point.
        ranked: The curves of the scores, the highest first.
        random: Those of random orders.
    """

    sizes: Sequence[int]
    ranked: Curves
    random: Sequence[Curves]

    def area(self, curve: Sequence[float]) -> float:
        """The mean of a curve over its way, in the unit of the worth."""
        steps = zip(self.sizes, self.sizes[1:], curve, curve[1:], strict=False)
        return sum((end - begin) * (one + other) / 2 for begin, end, one, other in steps) / self.sizes[-1]


def attribute(design: Design, worths: Worths, *, target: int = 0) -> list[Score]:
    """The scores of all spans.

    Args:
        design: What was asked.
        worths: Of each of `Design.coalitions`, for each target.
        target: Which of them.
    """
    if design.method is ExplanationMethod.LEAVE_ONE_OUT:
        of_all = worths[design.all][target]
        return [Score(of_all - worths[design.all ^ (1 << span)][target]) for span in range(design.spans)]
    added: list[list[float]] = [[] for _ in range(design.spans)]
    for order in design.sampled:
        values = [worths[first][target] for first in _firsts(order)]
        for span, before, now in zip(order, values, values[1:], strict=False):
            added[span].append(now - before)
    return [_mean_of_pairs(each) for each in added]


def rank(scores: Sequence[Score]) -> Order:
    """The spans, the highest score first; of equals the first."""
    return tuple(sorted(range(len(scores)), key=lambda span: (-scores[span].value, span)))


def judge(design: Design, worths: Worths, order: Order, *, target: int = 0) -> Faithfulness | None:
    """The curves of an order beside those of random ones; None where none are wanted.

    The curve of what comes in by a random order is, from its other end, that of what goes out by the reverse of it,
    which is as random: so each serves twice.
    """
    if not design.random_orders:
        return None

    def of(order: Order, without: int = 0) -> list[float]:
        firsts = _firsts(order)
        return [worths[without ^ firsts[size]][target] for size in design.sizes]

    random = []
    for other in design.others:
        insertion = of(other)
        random.append(Curves(deletion=insertion[::-1], insertion=insertion))
    ranked = Curves(deletion=of(order, design.all), insertion=of(order))
    return Faithfulness(sizes=design.sizes, ranked=ranked, random=random)


def _firsts(order: Order) -> list[int]:
    """The coalitions of the first spans of an order, from none to all."""
    return list(accumulate((1 << span for span in order), or_, initial=0))


def _mean_of_pairs(added: Sequence[float]) -> Score:
    pairs = [fmean(added[at : at + 2]) for at in range(0, len(added), 2)]
    error = stdev(pairs) / math.sqrt(len(pairs)) if len(pairs) > 1 else None
    return Score(fmean(pairs), error)


def _shuffle(spans: int, seed: int, what: str, number: int) -> Order:
    """An order that is drawn: by a hash, so that it is the same everywhere and always."""

    def drawn(span: int) -> bytes:
        return blake2b(f"{seed} {what} {number} {span}".encode(), digest_size=16).digest()

    return tuple(sorted(range(spans), key=drawn))
