"""What is asked of an explanation, and what it tells, as values."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from inferd.core.explained_spans import Span, SpanUnit
from inferd.core.explanation import ExplanationMethod, Faithfulness, Score

if TYPE_CHECKING:
    from inferd.core.priority import Priority
    from inferd.core.task_events import Finished
    from inferd.runtime.explanation_work import Input, Text


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedExamples:
    """Where examples are looked for.

    Attributes:
        index: Name of an index; "" for a dataset.
        dataset: Name of a dataset, and its version, 0 for the highest.
        version: See `dataset`.
        model: That makes vectors of the dataset's texts.
        column: With these texts.
        count: How many are told.
    """

    index: str = ""
    dataset: str = ""
    version: int = 0
    model: str = ""
    column: str = "text"
    count: int = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One that is near: 1 less the cosine of the angle of both vectors is its distance."""

    id: str
    title: str
    text: str = field(repr=False)
    distance: float
    metadata: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is asked for.

    Attributes:
        model: Name of the model.
        given: What the answer was given to, as the worker reads it.
        priority: Class of its tasks.
        answer: It; "" for that of the model itself.
        max_answer_tokens: Most tokens of that.
        against: Another answer; "" for none.
        method: How scores are found.
        unit: What texts are cut into.
        spans: Those that the caller names, as message, part, begin and end; none for all that there are.
        samples: Orders that are drawn.
        seed: Of all that is drawn.
        random_orders: That curves are held against.
        alternatives: Told in the place of each token of the answers.
        adapter: Name of the adapter; "" for none.
        steps: Points of the way of gradients.
        examples: Where examples are looked for; None for none.
    """

    model: str
    given: Input = field(repr=False)
    priority: Priority
    answer: str = field(default="", repr=False)
    max_answer_tokens: int = 32
    against: str = field(default="", repr=False)
    method: ExplanationMethod = ExplanationMethod.LEAVE_ONE_OUT
    unit: SpanUnit = SpanUnit.WORD
    spans: Sequence[tuple[int, int, int, int]] = ()
    samples: int = 16
    seed: int = 0
    random_orders: int = 4
    alternatives: int = 5
    adapter: str = ""
    steps: int = 16
    examples: WantedExamples | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Sequences, their tokens, how many of these are computed, and seconds of devices that took."""

    sequences: int = 0
    tokens: int = 0
    computed_tokens: int = 0
    device_s: float = 0.0

    @classmethod
    def of(cls, finished: Finished) -> Cost:
        """That of one sequence whose task has ended."""
        usage = finished.outcome.usage
        return cls(
            sequences=1,
            tokens=usage.prompt_tokens,
            computed_tokens=usage.prompt_tokens - usage.cached_tokens,
            device_s=finished.receipt.device_s or 0.0,
        )

    def __add__(self, other: Cost) -> Cost:
        """Both together."""
        return Cost(
            sequences=self.sequences + other.sequences,
            tokens=self.tokens + other.tokens,
            computed_tokens=self.computed_tokens + other.computed_tokens,
            device_s=self.device_s + other.device_s,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is going to be computed: of so many `spans`, an answer of so many tokens, at this `cost`."""

    spans: int
    answer_tokens: int
    cost: Cost


@dataclass(frozen=True, slots=True)
class Progress:
    """So many sequences of all were computed."""

    done: int
    sequences: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A token of an answer; `top` are the likeliest ones in its place, with their pieces and logarithms."""

    token_id: int
    piece: bytes
    logprob: float
    entropy: float
    top: Sequence[tuple[int, bytes, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What is explained, its worth with all spans and with none, and the scores of the spans for it.

    Of gradients `replaced` is its worth with line feeds in place of their tokens.
    """

    name: str
    value: float
    baseline: float
    scores: Sequence[Score]
    replaced: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """What was found; `tokens` of each answer, `planned` what it was said to cost and `cost` what it did.

    `examples` are the nearest ones, the nearest first.
    """

    wanted: Wanted
    texts: Sequence[Text]
    spans: Sequence[Span]
    answer: str
    targets: Sequence[Target]
    tokens: Sequence[Sequence[Token]]
    faithfulness: Faithfulness | None
    planned: Cost
    cost: Cost
    examples: Sequence[Example] = ()


Told = Plan | Progress | Explained
Tell = Callable[[Told], Awaitable[None]]
