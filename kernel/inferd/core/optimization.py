"""Which settings of a model are tried, one after the other, to serve a target within a bound on quality.

The original settings come first: all others are held against them. Then one setting after the other is varied while the
rest stay at the best that was found (a walk along coordinates), again until none of them helps any more. What is
measured so is measured briefly. The best few and the original are measured again, longer, at the end: the winner is the
best of these, and it is the original unless another one is better by more than a measurement is worth.

Nothing here waits or draws: what comes next follows from the knobs, the seed and what was told, and can be replayed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from hashlib import blake2b
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Mapping, Sequence

LEAST_GAIN: Final = 0.01
"""By which another one must be better than the original: less is not told apart from chance."""


FEW: Final = 4
"""Of fewer trials than so many times those at the end none is kept for these."""


class OptimizationTarget(Enum):
    """What is to become better; the values are those of `inferd.v1.OptimizationTarget`."""

    LATENCY = 1
    THROUGHPUT = 2
    MEMORY = 3


class TrialState(Enum):
    """Where a trial stands; the values are those of `inferd.v1.TrialState`."""

    RUNNING = 1
    MEASURED = 2
    REJECTED = 3  # it costs more quality than is allowed
    NO_ROOM = 4  # it would have taken what others hold, and was not loaded
    GAVE_WAY = 5  # others needed what it held
    FAILED = 6


@dataclass(frozen=True, slots=True)
class Knob:
    """A setting that is varied.

    Attributes:
        name: Of the setting.
        values: Those that are tried, the one that it has left out.
    """

    name: str
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Variety:
    """What is tried of a setting that is worth it, by its name.

    Attributes:
        name: Of the setting.
        values: Those to try; empty for all choices of the setting.
        cores: Whether it is how many cores are computed on: then powers of two are tried, and all.
        memory: Whether it matters for memory.
    """

    name: str
    values: tuple[str, ...] = ()
    cores: bool = False
    memory: bool = True


VARIETIES: Final = (
    Variety("quantization"),
    Variety("dtype"),
    Variety("kv_format"),
    Variety("intra_threads", cores=True, memory=False),
    Variety("threads", cores=True, memory=False),
    Variety("max_step_tokens", ("128", "256", "1024", "2048")),
    Variety("draft_tokens", ("0", "2", "4", "8"), memory=False),
)
"""The settings that are varied where a model's backend has them, those that tend to matter most first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What a trial has shown.

    Attributes:
        tokens_per_s: Output of all tasks at once.
        first_token_s: From asking to the first token of a task alone, in seconds.
        token_s: From token to token of it.
        answer_s: All of it.
        memory_bytes: Resident memory of the worker behind all that.
        perplexity: Of the text.
        loss: By how much of the original's it is higher; below 0 where it is lower.
        loss_error: Standard error of that, by the differences at all places of the text.
        agreement: At how many places of the text the likeliest token is that of the original, from 0 to 1.
        rounds: How often it was measured; of times the best are told.
        disturbed: Whether tasks of others ran meanwhile.
    """

    tokens_per_s: float
    first_token_s: float
    token_s: float
    answer_s: float
    memory_bytes: int
    perplexity: float
    loss: float = 0.0
    loss_error: float = 0.0
    agreement: float = 1.0
    rounds: int = 1
    disturbed: bool = False

    def score(self, target: OptimizationTarget) -> float:
        """How well it serves a target: more is better, twice as much is twice as good."""
        match target:
            case OptimizationTarget.THROUGHPUT:
                return self.tokens_per_s
            case OptimizationTarget.LATENCY:
                return 1.0 / self.answer_s
            case OptimizationTarget.MEMORY:
                return 1.0 / max(1, self.memory_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityBound:
    """What may be lost.

    Attributes:
        loss: Most part by which the perplexity may be higher than the original's.
        agreement: Least part of places at which the likeliest token is the same.
    """

    loss: float
    agreement: float = 0.0

    def allows(self, *, loss: float, agreement: float) -> bool:
        """Whether a trial may cost so much. A loss that is no number is none that may be."""
        return loss <= self.loss and agreement >= self.agreement


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchLimits:
    """How far a search goes.

    Attributes:
        trials: Most of them, those at the end too.
        finalists: How many are measured again at the end, the original left out.
        final_rounds: How often each of these is.
    """

    trials: int = 24
    finalists: int = 2
    final_rounds: int = 3


Settings = tuple[tuple[str, str], ...]
ORIGINAL: Final[Settings] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What is tried next.

    Attributes:
        number: From 1.
        settings: What is otherwise than in the original, by name.
        rounds: How often it is to be measured.
        final: Whether it is one of those at the end.
    """

    number: int
    settings: Settings = ORIGINAL
    rounds: int = 1
    final: bool = False


@dataclass(slots=True)
class Search:
    """Says what to try, and is told what came of it. One writer: whoever runs the trials.

    Args:
        knobs: What is varied.
        target: What is to become better.
        limits: How far it goes.
        seed: In which order the values of a knob come, so that what drifts meanwhile favours none of them always.
    """

    knobs: Sequence[Knob]
    target: OptimizationTarget
    limits: SearchLimits = field(default_factory=SearchLimits)
    seed: int = 0
    _measured: dict[Settings, Measurement] = field(default_factory=dict)
    _finals: dict[Settings, Measurement] = field(default_factory=dict)
    _tried: dict[Settings, None] = field(default_factory=dict)
    _count: int = 0
    _hurried: bool = False
    _plan: Generator[tuple[Settings, bool]] | None = None

    def next(self) -> Trial | None:
        """What to try now; None when all has been. What came of the one before was told, or nothing came of it."""
        if self._plan is None:
            self._plan = self._steps()
        step = next(self._plan, None)
        if step is None:
            return None
        self._count += 1
        settings, final = step
        rounds = self.limits.final_rounds if final else 1
        return Trial(number=self._count, settings=settings, rounds=rounds, final=final)

    def tell(self, trial: Trial, measured: Measurement) -> None:
        """A trial was measured and costs no more quality than it may."""
        self._measured[trial.settings] = measured
        if trial.final:
            self._finals[trial.settings] = measured

    def tell_rejected(self, trial: Trial, measured: Measurement) -> None:
        """A trial costs more quality than it may: it is as if it had not been."""

    @property
    def trials(self) -> int:
        """Most of them."""
        return self.limits.trials

    def hurry(self) -> None:
        """Come to the end: try nothing new."""
        self._hurried = True

    @property
    def has_finals(self) -> bool:
        """Whether the original was measured again at the end, so that those count that were, too."""
        return ORIGINAL in self._finals

    @property
    def best(self) -> Settings:
        """The best so far, of those that were measured alike."""
        among = self._finals if self.has_finals else self._measured
        return self._choose(among)

    def _choose(self, among: Mapping[Settings, Measurement]) -> Settings:
        best = self._rank(among)[0] if among else ORIGINAL
        if ORIGINAL in among and best != ORIGINAL:
            least = among[ORIGINAL].score(self.target) * (1 + LEAST_GAIN)
            return best if among[best].score(self.target) >= least else ORIGINAL
        return best

    def _rank(self, among: Mapping[Settings, Measurement]) -> list[Settings]:
        return sorted(among, key=lambda each: -among[each].score(self.target))

    def _steps(self) -> Generator[tuple[Settings, bool]]:
        """All that is tried, and whether it is at the end."""
        yield ORIGINAL, False
        most, finals = self.limits.trials, self.limits.finalists + 1 if self.limits.finalists else 0
        for settings in self._walk(most - finals if most >= FEW * finals else most):
            yield settings, False
        ranked = [each for each in self._rank(self._measured) if each != ORIGINAL][: self.limits.finalists]
        if not ranked or self.limits.trials < len(self._tried) + len(ranked) + 1:
            return
        for settings in (ORIGINAL, *ranked):
            yield settings, True

    def _walk(self, most: int) -> Generator[Settings]:
        """One knob after the other, until none helps any more or so many were tried."""
        self._tried[ORIGINAL] = None
        moved = True
        while moved:
            moved = False
            for knob in self.knobs:
                before = self._best_measured()
                for settings in self._around(before, knob):
                    if settings in self._tried:
                        continue
                    if len(self._tried) >= most or self._hurried:
                        return
                    self._tried[settings] = None
                    yield settings
                moved = moved or self._best_measured() != before

    def _best_measured(self) -> Settings:
        return self._rank(self._measured)[0] if self._measured else ORIGINAL

    def _around(self, settings: Settings, knob: Knob) -> Iterable[Settings]:
        """The same with each other value of a knob, that of the original too."""
        rest = {name: value for name, value in settings if name != knob.name}
        values = sorted(knob.values, key=lambda value: blake2b(f"{self.seed} {knob.name} {value}".encode()).digest())
        yield tuple(sorted(rest.items()))
        for value in values:
            yield tuple(sorted({**rest, knob.name: value}.items()))


def core_counts(cores: int) -> tuple[str, ...]:
    """How many cores are tried of so many: powers of two, and all."""
    counts = [1 << power for power in range(cores.bit_length()) if 1 << power < cores]
    return tuple(map(str, (*counts, cores))) if cores else ()


def find_knobs(
    choices: Mapping[str, tuple[str, ...]],
    now: Mapping[str, str],
    *,
    target: OptimizationTarget,
    cores: int,
    only: Sequence[str],
) -> list[Knob]:
    """What may be varied of a model.

    Args:
        choices: The settings that it has, each with its choices, none where it is no choice.
        now: What each is now.
        target: What is to become better.
        cores: So many may be computed on; 0 where that has no meaning.
        only: The settings to vary; none for all.
    """
    knobs = []
    for variety in VARIETIES:
        name = variety.name
        if name not in choices or (only and name not in only):
            continue
        if (target is OptimizationTarget.MEMORY and not variety.memory) or (
            name == "threads" and "intra_threads" in choices
        ):
            continue
        values = core_counts(cores) if variety.cores else variety.values or choices[name]
        others = tuple(value for value in values if value != now.get(name))
        if others:
            knobs.append(Knob(name, others))
    return knobs
