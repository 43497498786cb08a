"""Which layers of a model keep wide weights, where all of them together would be too large.

The model as it is comes first, then the one with all layers narrow, then that with each part of its depth wide: by how
much likelier the text becomes is what that part is worth. Of all sets of parts that fit into the budget the one that is
worth most is measured at the end, beside the model as it is. That worths add up is an assumption, and the last trial
tells what came of it: it counts by what was measured alone.

Nothing here waits or draws: what comes next follows from the sizes and what was told, and can be replayed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import compress, product
from typing import TYPE_CHECKING, Final

from inferd.core.optimization import ORIGINAL, Measurement, Settings, Trial

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

QUANTIZATION: Final = "quantization"
"""The setting by which a backend makes weights narrow, and the one that names the layers that stay wide."""
WIDE_LAYERS: Final = "wide_layers"
NARROW: Final = "4bit"
MOST_PARTS: Final = 12
"""Of the depth: all sets of them are looked at."""
EXTRA_TRIALS: Final = 4
"""Besides those of the parts: the model as it is, the narrow one, and both at the end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Bytes of weights.

    Attributes:
        narrow: With all layers narrow.
        parts: By how many more each part takes where it is wide.
        budget: Most of them.
    """

    narrow: int
    parts: tuple[int, ...]
    budget: int


def name_parts(chosen: Sequence[int], count: int) -> str:
    """The value of `wide_layers` for parts of the depth, numbers from 0 of so many."""
    return ",".join(f"{part}/{count}" for part in chosen)


def narrow_settings(chosen: Sequence[int], count: int) -> Settings:
    """Of a trial in which these parts of so many stay wide."""
    named = {QUANTIZATION: NARROW, **({WIDE_LAYERS: name_parts(chosen, count)} if chosen else {})}
    return tuple(sorted(named.items()))


def choose(sizes: Sizes, worth: Sequence[float]) -> tuple[int, ...]:
    """The parts that are worth most together within the budget; of equals those that take least.

    Args:
        sizes: Of the weights.
        worth: Of each part, by how much the loss falls where it is wide; what is worth nothing is left narrow.
    """
    best: tuple[float, int, tuple[int, ...]] = (0.0, 0, ())
    for taken in product((0, 1), repeat=len(worth)):
        size = sum(compress(sizes.parts, taken))
        value = sum(compress(worth, taken))
        if sizes.narrow + size <= sizes.budget and (value, -size) > best[:2]:
            best = (value, -size, tuple(compress(range(len(worth)), taken)))
    return best[2]


@dataclass(slots=True)
class MixedWidths:
    """Says what to try, and is told what came of it, as `Search`. One writer: whoever runs the trials.

    Args:
        sizes: Of the weights; the narrow ones are within the budget.
        final_rounds: How often those at the end are measured.
    """

    sizes: Sizes
    final_rounds: int = 3
    _losses: dict[Settings, float] = field(default_factory=dict)
    _allowed: set[Settings] = field(default_factory=set)
    _has_finals: bool = False
    _chosen: Settings = ORIGINAL
    _count: int = 0
    _hurried: bool = False
    _plan: Generator[tuple[Settings, bool]] | None = None

    @property
    def trials(self) -> int:
        """Most of them."""
        return len(self.sizes.parts) + EXTRA_TRIALS

    def next(self) -> Trial | None:
        """What to try now; None when all has been."""
        if self._plan is None:
            self._plan = self._steps()
        step = next(self._plan, None)
        if step is None:
            return None
        self._count += 1
        settings, final = step
        rounds = self.final_rounds if final else int(settings == ORIGINAL)
        return Trial(number=self._count, settings=settings, rounds=rounds, final=final)

    def tell(self, trial: Trial, measured: Measurement) -> None:
        """A trial was measured and costs no more quality than it may."""
        self._losses[trial.settings] = measured.loss
        if trial.final:
            self._allowed.add(trial.settings)
            self._has_finals = self._has_finals or trial.settings == ORIGINAL

    def tell_rejected(self, trial: Trial, measured: Measurement) -> None:
        """A trial costs more quality than it may: what it costs tells which parts matter."""
        self._losses[trial.settings] = measured.loss

    def hurry(self) -> None:
        """Come to the end: look at no more parts."""
        self._hurried = True

    @property
    def has_finals(self) -> bool:
        """Whether the original was measured again at the end."""
        return self._has_finals

    @property
    def best(self) -> Settings:
        """The mix that was found, where it costs no more quality than it may; else the original."""
        return self._chosen if self._chosen in self._allowed and self._has_finals else ORIGINAL

    @property
    def shortfall(self) -> str:
        """Why there is no mix within the budget, for people; "" where there is one."""
        if self.best != ORIGINAL:
            return ""
        within = f"no mix of widths within {self.sizes.budget} bytes of weights"
        loss = self._losses.get(self._chosen) if self._chosen != ORIGINAL else None
        if loss is None or not self._has_finals:
            return f"{within} was measured to its end"
        told = " ".join(f"{name}={value}" for name, value in self._chosen)
        return f"{within} costs as little as is allowed: the best, {told}, costs {loss:.2%}"

    def _steps(self) -> Generator[tuple[Settings, bool]]:
        count = len(self.sizes.parts)
        yield ORIGINAL, False
        bare = narrow_settings((), count)
        yield bare, False
        if bare not in self._losses:
            return  # it could not be loaded: nothing to hold the parts against
        for part in range(count):
            if self._hurried:
                break
            if 0 < self.sizes.parts[part] <= self.sizes.budget - self.sizes.narrow:
                yield narrow_settings((part,), count), False
        worth = [self._losses[bare] - self._loss(part) for part in range(count)]
        self._chosen = narrow_settings(choose(self.sizes, worth), count)
        yield ORIGINAL, True
        yield self._chosen, True

    def _loss(self, part: int) -> float:
        """Of the model with that part wide; of one that was not measured as if it were worth nothing."""
        count = len(self.sizes.parts)
        return self._losses.get(narrow_settings((part,), count), self._losses[narrow_settings((), count)])
