"""What the tokens of an input are worth, as the model's own backend tells: by gradients and by attention."""

from __future__ import annotations

import asyncio
from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING

from inferd.core.explained_spans import Span
from inferd.core.explanation import INSIDE, ExplanationMethod, Score
from inferd.core.task_events import EmbeddingOutput, Finished
from inferd.core.token_spans import find_text, sum_up, tokens_of
from inferd.errors import BackendFailedError, LimitExceededError, UnsupportedInputError
from inferd.runtime.explanation_work import attribute_task, bare_text, methods_of, pieces_of, reduced
from inferd.runtime.front.explained import Cost
from inferd.runtime.front.rescoring import Variant, do_all

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from inferd.core.token_spans import Parts
    from inferd.runtime.explanation_work import Answer, Input, Text
    from inferd.runtime.front.explained import Wanted
    from inferd.runtime.front.rescoring import Rescoring

    Ask = Callable[[Input], Awaitable[Answer]]

REPLACED = -1
"""Stands for a coalition: all spans with line feeds in place of their tokens."""
ALWAYS = (ExplanationMethod.LEAVE_ONE_OUT, ExplanationMethod.SHAPLEY, ExplanationMethod.EXAMPLES)
LINE_FEED = "\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Inside:
    """The tokens of an input, and which of them stand for which span.

    Attributes:
        method: By what they are told.
        prompt: They.
        parts: Of each span.
        baseline_id: The token that stands for nothing.
        steps: Points of the way of gradients.
    """

    method: ExplanationMethod
    prompt: array[int]
    parts: Sequence[Parts]
    baseline_id: int
    steps: int

    @property
    def places(self) -> list[int]:
        """The tokens that stand for a span, or a part of one."""
        return sorted({token for parts in self.parts for token, _ in parts})

    @property
    def points(self) -> list[float]:
        """The points of the way, the middles of as many parts of it."""
        if self.method is ExplanationMethod.ATTENTION:
            return [1.0]
        return [(step + 0.5) / self.steps for step in range(self.steps)]

    def cost(self, answers: Sequence[array[int]]) -> Cost:
        """What it costs to look into the network with each of these answers."""
        count, tokens = len(self.points), sum(len(self.prompt) + len(answer) for answer in answers)
        return Cost(sequences=count * len(answers), tokens=count * tokens, computed_tokens=count * tokens)

    def replaced(self, answers: Sequence[array[int]]) -> list[Variant]:
        """What is rescored besides: each answer behind line feeds."""
        if self.method is not ExplanationMethod.GRADIENTS:
            return []
        ids = array("I", self.prompt)
        for place in self.places:
            ids[place] = self.baseline_id
        return [Variant(REPLACED, which, ids + answer, len(answer)) for which, answer in enumerate(answers)]

    async def compute(
        self, scoring: Rescoring, answers: Sequence[array[int]], tell: Callable[[int], Awaitable[None]]
    ) -> list[list[float]]:
        """What each span is worth for each answer.

        Args:
            scoring: By which tasks are run, and where their cost is added up.
            answers: They.
            tell: Called with how many sequences are done, whenever one is.

        Raises:
            InferdError: A task failed.
        """
        gate, places = asyncio.Semaphore(scoring.in_flight), self.places

        async def look(answer: array[int], at: float) -> list[float]:
            async with gate:
                spec = attribute_task(
                    scoring.asker,
                    self.prompt + answer,
                    method=self.method.value,
                    told=len(answer),
                    places=places,
                    baseline_id=self.baseline_id,
                    at=at,
                )
                values: list[float] = []
                for event in await scoring.run(spec):
                    if isinstance(event, EmbeddingOutput):
                        values = list(event.values)
                    elif isinstance(event, Finished):
                        size, device_s = event.outcome.usage.prompt_tokens, event.receipt.device_s or 0.0
                        scoring.cost += Cost(sequences=1, tokens=size, computed_tokens=size, device_s=device_s)
            await tell(scoring.cost.sequences)
            if len(values) != len(self.prompt):
                raise BackendFailedError(
                    f"the backend told what {len(values)} tokens are worth, and the input has {len(self.prompt)}",
                    metadata={"cause": "attribution"},
                )
            return values

        points = self.points
        found = await do_all([look(answer, at) for answer in answers for at in points])
        scores = []
        for which in range(len(answers)):
            each = found[which * len(points) : (which + 1) * len(points)]
            mean = [sum(values) / len(points) for values in zip(*each, strict=True)]
            scores.append([sum_up(mean, parts) for parts in self.parts])
        return scores


def scores_of(found: Sequence[Sequence[float]], *, against: bool) -> list[list[Score]]:
    """Scores for each target: for the difference of both answers first, where there are two."""
    targets = [list(each) for each in found]
    if against:
        targets.insert(0, [one - other for one, other in zip(*found, strict=True)])
    return [[Score(value) for value in each] for each in targets]


async def look_inside(
    ask: Ask,
    wanted: Wanted,
    prompt: array[int],
    texts: Sequence[Text],
    spans: Sequence[Span],
    *,
    longest_answer: int,
    most_tokens: int,
) -> Inside:
    """Find which tokens of an input stand for which span, of a model that tells what tokens are worth.

    Raises:
        UnsupportedInputError: A template writes a text otherwise than it is.
        LimitExceededError: The sequence has more than `most_tokens`.
    """
    if (size := len(prompt) + longest_answer) > most_tokens:
        raise LimitExceededError(
            f"the input and the answer have {size} tokens and explanations.attributed_tokens is {most_tokens}: with"
            f" {wanted.method.name} all are computed at once; shorten them, take another method, or raise that",
            metadata={"bound": "explanations.attributed_tokens", "value": str(size), "limit": str(most_tokens)},
        )
    pieces = await _pieces(ask, prompt)
    written = b"".join(pieces)
    places: list[tuple[int, int] | None] = []
    behind = 0
    for number, text in enumerate(texts):
        place = None
        if text.text.strip():
            span = Span(number, 0, len(text.text.encode()))
            ids = (await ask(reduced(wanted.given, texts, [span]))).token_ids
            left = b"".join(await _pieces(ask, array("I", ids)))
            place = find_text(written, left, text.text.encode(), behind)
            if place is None and any(each.text == number for each in spans):
                raise UnsupportedInputError(
                    f"text {number} of the input does not stand in the prompt as it is, since the model's template or"
                    f" tokenizer writes it otherwise: its tokens are not told apart for {wanted.method.name}; take"
                    " LEAVE_ONE_OUT or SHAPLEY",
                    field="spec.method",
                )
        behind = behind if place is None else place[1]
        places.append(place)
    return Inside(
        method=wanted.method,
        prompt=prompt,
        parts=tokens_of(pieces, spans, places),
        baseline_id=await _line_feed(ask),
        steps=wanted.steps,
    )


async def check_method(ask: Ask, wanted: Wanted) -> None:
    """Refuse what the model's backend does not tell.

    Raises:
        UnsupportedInputError: It does not, or not with an adapter.
    """
    if wanted.method not in INSIDE:
        return
    told = {ExplanationMethod(number) for number in (await ask(methods_of())).attributions}
    if wanted.method not in told:
        raise refuse_method(wanted, [*ALWAYS, *sorted(told, key=lambda each: each.value)], "its backend")
    if wanted.adapter:
        raise UnsupportedInputError(
            f"{wanted.method.name} looks into the model without its adapters; leave spec.adapter out, or take"
            " LEAVE_ONE_OUT or SHAPLEY",
            field="spec.adapter",
        )


def refuse_method(wanted: Wanted, known: Sequence[ExplanationMethod], who: str) -> UnsupportedInputError:
    """The error of a model that is not explained by a method, with those that it is."""
    names = ", ".join(each.name for each in known)
    return UnsupportedInputError(
        f"model {wanted.model!r} is not explained by {wanted.method.name}, which {who} does not give; it is by {names}",
        field="spec.method",
        metadata={"methods": names},
    )


async def _pieces(ask: Ask, token_ids: array[int]) -> list[bytes]:
    return list((await ask(pieces_of(token_ids))).pieces) if token_ids else []


async def _line_feed(ask: Ask) -> int:
    """The token that stands for nothing."""
    ids = list((await ask(bare_text(LINE_FEED))).token_ids)
    if not ids:
        raise UnsupportedInputError(
            "the model has no token for a line feed, which stands for nothing in GRADIENTS; take LEAVE_ONE_OUT",
            field="spec.method",
        )
    return ids[-1]
