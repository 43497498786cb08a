"""One explanation of a label: what a classifier finds in parts of a text, and what follows for each of its labels."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from inferd.core.explained_spans import without
from inferd.core.explanation import INSIDE, attribute, judge, rank
from inferd.core.task_events import Finished, TensorOutput
from inferd.errors import InvalidFieldError, UnsupportedInputError, present, suggestion
from inferd.runtime.classifying import read_labels
from inferd.runtime.explanation_work import label_task, texts_of
from inferd.runtime.front.explained import Cost, Explained, Plan, Progress, Target
from inferd.runtime.front.explanation import check_bound, design_of, find_spans
from inferd.runtime.front.inside import ALWAYS, refuse_method
from inferd.runtime.front.rescoring import TRIES, do_all, run_task
from inferd.runtime.front.room import patiently

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from inferd.core.explained_spans import Span
    from inferd.core.explanation import Design, Score
    from inferd.explanation_settings import Explanations
    from inferd.runtime.driver import Driver
    from inferd.runtime.explanation_work import Asker, Text
    from inferd.runtime.front.explained import Tell, Wanted
    from inferd.runtime.front.tasks import Tasks

TOLD_LABELS: Final = 20
"""Labels that scores are told for, the likeliest ones."""
TOLD_PARTS: Final = 100
LEAST: Final = 1e-30
"""Of a probability, so that its logarithm is a number."""


@dataclass(slots=True, kw_only=True)
class LabelRun:
    """One explanation of a label. One writer: itself.

    Attributes:
        driver: Of the kernel, as the next two.
        tasks: By which it is computed.
        limits: How far it may go.
        wanted: What is asked for; its answer is a label.
        asker: For whom.
        tell: Is given what there is to tell.
        input_name: The input of the model that takes the text.
    """

    driver: Driver
    tasks: Tasks
    limits: Explanations
    wanted: Wanted
    asker: Asker
    tell: Tell
    input_name: str
    _texts: Sequence[Text] = ()
    _spans: Sequence[Span] = ()
    _found: dict[int, Mapping[str, float]] = field(default_factory=dict)  # by coalition: the chance of each label
    _cost: Cost = field(default_factory=Cost)
    _told_parts: int = 0
    _telling: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def plan(self) -> Plan:
        """What it would cost; nothing is computed.

        Raises:
            InferdError: It cannot be, or costs more than may be.
        """
        if self.wanted.method in INSIDE:
            raise refuse_method(self.wanted, ALWAYS, "a classifier")
        self._texts = texts_of(self.wanted.given)
        if len(self._texts) != 1:
            raise UnsupportedInputError(
                f"a classifier reads one text, and the conversation has {len(self._texts)}: give it as a prompt",
                field="spec.chat",
            )
        if self.wanted.adapter:
            raise InvalidFieldError("a classifier has no adapters; leave spec.adapter out", field="spec.adapter")
        self._spans = find_spans(self.wanted, self._texts)
        check_bound("spans", len(self._spans), self.limits.spans)
        design = design_of(self.wanted, len(self._spans))
        check_bound("sequences", design.most, self.limits.sequences)
        wanted = len(design.coalitions()) + (len(set(design.ranked(design.guesses[0]))) if design.guesses else 0)
        return Plan(spans=design.spans, answer_tokens=0, cost=Cost(sequences=min(wanted, design.most)))

    async def go(self) -> None:
        """From the plan to what was found.

        Raises:
            InferdError: As `plan`, or a task failed.
        """
        plan = await self.plan()
        await self.tell(plan)
        design = design_of(self.wanted, len(self._spans))
        await self._compute([design.all], plan)
        labels = self._labels(design)
        await self._compute(design.coalitions(), plan)
        scores = self._scores(design, labels)
        order = rank(scores[0])
        await self._compute(design.ranked(order), plan)
        worths = self._worths(labels)
        await self.tell(
            Explained(
                wanted=self.wanted,
                texts=self._texts,
                spans=self._spans,
                answer=labels[0],
                targets=[
                    Target(name=name, value=worths[design.all][n], baseline=worths[0][n], scores=scores[n])
                    for n, name in enumerate(self._names(labels))
                ],
                tokens=[[] for _ in range(2)],
                faithfulness=judge(design, worths, order),
                planned=plan.cost,
                cost=self._cost,
            )
        )

    def _labels(self, design: Design) -> list[str]:
        """What is explained first, and then the others, the likeliest first."""
        found = self._found[design.all]
        ordered = sorted(found, key=lambda label: -found[label])
        for name, label in (("answer", self.wanted.answer), ("against", self.wanted.against)):
            if label and label not in found:
                near = suggestion(label, list(found))
                hint = f"; did you mean {near!r}?" if near else ""
                raise InvalidFieldError(
                    f"spec.{name} is {label[:80]!r}, which is none of the {len(found)} labels that the model tells"
                    f"{hint} It tells {', '.join(ordered[:TOLD_LABELS])}",
                    field=f"spec.{name}",
                )
        first = [self.wanted.answer or ordered[0]]
        if self.wanted.against:
            if self.wanted.against == first[0]:
                which = "as spec.answer" if self.wanted.answer else "as the likeliest label, the default of spec.answer"
                raise InvalidFieldError(
                    f"spec.against is {first[0][:80]!r}, the same {which}; name another label", field="spec.against"
                )
            first.append(self.wanted.against)
        return [*first, *[label for label in ordered if label not in first][: TOLD_LABELS - len(first)]]

    def _names(self, labels: Sequence[str]) -> list[str]:
        return [f"{labels[0]} - {labels[1]}", *labels] if self.wanted.against else list(labels)

    def _worths(self, labels: Sequence[str]) -> dict[int, tuple[float, ...]]:
        """What coalitions are worth for each target: the logarithm of the chance of each label."""
        worths = {}
        for coalition, found in self._found.items():
            if missing := next((label for label in labels if label not in found), None):
                raise UnsupportedInputError(
                    f"the model tells {len(found)} labels of a text, and not always {missing[:80]!r}: have it tell all"
                    " of them (`top`, of its recipe or of its settings)",
                    field="spec.model",
                )
            each = [math.log(max(LEAST, found[label])) for label in labels]
            worths[coalition] = (each[0] - each[1], *each) if self.wanted.against else tuple(each)
        return worths

    def _scores(self, design: Design, labels: Sequence[str]) -> list[list[Score]]:
        worths = self._worths(labels)
        return [list(attribute(design, worths, target=target)) for target in range(len(self._names(labels)))]

    async def _compute(self, coalitions: Sequence[int], plan: Plan) -> None:
        """Ask about the text with these spans, of those that are not known."""
        gate = asyncio.Semaphore(self.limits.in_flight)

        async def ask(coalition: int) -> None:
            async with gate:
                self._found[coalition] = await self._ask(coalition)
            done = self._cost.sequences
            if (part := done * TOLD_PARTS // max(done, plan.cost.sequences)) > self._told_parts:
                self._told_parts = part
                async with self._telling:
                    await self.tell(Progress(done, max(done, plan.cost.sequences)))

        await do_all([ask(each) for each in dict.fromkeys(coalitions) if each not in self._found])

    async def _ask(self, coalition: int) -> Mapping[str, float]:
        """The chance of each label of the text with some spans."""
        out = [span for number, span in enumerate(self._spans) if not coalition >> number & 1]
        text = without(self._texts[0].text, out)

        async def once() -> list[object]:
            spec = label_task(self.asker, text, input_name=self.input_name)
            return await run_task(self.driver, self.tasks, spec, size_bytes=spec.demand.memory_bytes)

        told = None
        for event in await patiently(once, tries=TRIES):
            if isinstance(event, TensorOutput):
                told = event
            elif isinstance(event, Finished):
                self._cost += Cost(sequences=1, device_s=event.receipt.device_s or 0.0)
        try:
            labels = read_labels(present(told))
        except ValueError as error:
            raise refuse(self.asker.model, str(error)) from None
        if wrong := next((label for label, chance in labels.items() if chance is None or not 0 <= chance <= 1), None):
            raise refuse(
                self.asker.model,
                f"it gives label {wrong[:80]!r} the score {labels[wrong]}, which is no probability; have its recipe say"
                " which `activation` makes one",
            )
        return {label: present(chance) for label, chance in labels.items()}


def refuse(model: str, why: str) -> UnsupportedInputError:
    """The error of a model whose labels cannot be explained."""
    return UnsupportedInputError(f"model {model!r} is no classifier of texts: {why}", field="spec.model")
