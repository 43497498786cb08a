"""One explanation: what is asked of the model, and what follows from its answers."""

from __future__ import annotations

import asyncio
from array import array
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from inferd.core.explained_spans import Span, check_spans, split
from inferd.core.explanation import INSIDE, Design, ExplanationMethod, attribute, judge, rank
from inferd.core.prefix_plan import PrefixPlan
from inferd.core.task import FinishReason
from inferd.core.task_events import Finished, Output
from inferd.errors import InvalidFieldError, LimitExceededError, PromptTooLongError, present
from inferd.runtime.explanation_work import Asker, Text, answer_task, bare_text, pieces_of, reduced, texts_of
from inferd.runtime.front.explained import Cost, Explained, Plan, Progress, Target, Tell, Token, Wanted
from inferd.runtime.front.inside import REPLACED, Inside, check_method, look_inside, scores_of
from inferd.runtime.front.rescoring import TRIES, Rescoring, Variant, do_all
from inferd.runtime.front.room import patiently
from inferd.runtime.instances import answering

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inferd.core.model import InstanceFacts
    from inferd.explanation_settings import Explanations
    from inferd.runtime.driver import Driver
    from inferd.runtime.explanation_work import Answer, Input
    from inferd.runtime.front.tasks import Tasks

ANSWER, AGAINST = 0, 1
ASKED_AT_ONCE: Final = 8  # texts that become tokens
NOTHING: Final = bare_text("\n")  # stands where nothing is left of a prompt: an answer has to follow something
NO_TOKEN: Final = (1 << 32) - 1  # stands for those of an answer that is not known yet
TOLD_PARTS: Final = 100  # how often it is told how far it is
FIX: Final = "draw fewer orders, explain by larger spans, or name those that matter"


@dataclass(slots=True, kw_only=True)
class Run:
    """One explanation. One writer: itself.

    Attributes:
        driver: Of the kernel, as the next two.
        tasks: By which it is computed.
        limits: How far it may go.
        wanted: What is asked for.
        asker: For whom.
        tell: Is given what there is to tell.
    """

    driver: Driver
    tasks: Tasks
    limits: Explanations
    wanted: Wanted
    asker: Asker
    tell: Tell
    _texts: Sequence[Text] = ()
    _spans: Sequence[Span] = ()
    _answers: list[array[int]] = field(default_factory=list)
    _answer: str = ""
    _longest: int = 0  # tokens of a sequence
    _inside: Inside | None = None
    _told_parts: int = 0
    _telling: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def plan(self) -> Plan:
        """What it would cost; nothing is computed.

        Raises:
            InferdError: It cannot be, or costs more than may be.
        """
        scoring = await self._prepare(computes=False)
        return await self._plan(scoring, self._design())

    async def go(self) -> None:
        """From the plan to what was found.

        Raises:
            InferdError: As `plan`, or a task failed.
        """
        scoring = await self._prepare(computes=True)
        design = self._design()
        plan = await self._plan(scoring, design)
        await self.tell(plan)

        async def tell(done: int) -> None:
            await self._tell_progress(done, len(scoring) + looks if computes_all else plan.cost.sequences)

        inside = self._inside
        looks = 0 if inside is None else inside.cost(self._answers).sequences
        computes_all = not design.random_orders
        await scoring.compute(tell)
        worths = self._worths(scoring, design.coalitions())
        if inside is not None:
            found = await inside.compute(scoring, self._answers, tell)
            scores = scores_of(found, against=bool(self.wanted.against))
        else:
            scores = [attribute(design, worths, target=target) for target in range(len(self._names))]
        order = rank(scores[0])
        ranked = [each for each in design.ranked(order) if each not in worths]
        await scoring.add(await self._variants(ranked))
        computes_all = True
        await scoring.compute(tell)
        worths |= self._worths(scoring, ranked)
        replaced = self._replaced(scoring)
        await self.tell(
            Explained(
                wanted=self.wanted,
                texts=self._texts,
                spans=self._spans,
                answer=self._answer,
                targets=[
                    Target(
                        name=name,
                        value=worths[design.all][n],
                        baseline=worths[0][n],
                        scores=scores[n],
                        replaced=replaced[n] if replaced else None,
                    )
                    for n, name in enumerate(self._names)
                ],
                tokens=[await self._tokens(scoring, design.all, which) for which in range(len(self._answers))],
                faithfulness=judge(design, worths, order),
                planned=plan.cost,
                cost=scoring.cost,
            )
        )

    @property
    def _names(self) -> tuple[str, ...]:
        return ("answer - against", "answer", "against") if self.wanted.against else ("answer",)

    def _design(self) -> Design:
        return design_of(self.wanted, len(self._spans))

    async def _prepare(self, *, computes: bool) -> Rescoring:
        """Find the spans and the answers."""
        wanted = self.wanted
        self._texts = texts_of(wanted.given)
        self._spans = find_spans(wanted, self._texts)
        check_bound("spans", len(self._spans), self.limits.spans)
        given = await self._tokenize(wanted.given)  # has the model loaded
        await check_method(self._ask, wanted)
        facts = self._facts()
        scoring = Rescoring(
            driver=self.driver,
            tasks=self.tasks,
            asker=self.asker,
            in_flight=self.limits.in_flight,
            alternatives=wanted.alternatives,
            prefixes=PrefixPlan(0 if facts is None else facts.block_tokens),
        )
        self._answer = wanted.answer
        if wanted.answer:
            self._answers = [await self._bare(wanted.answer, "spec.answer")]
        elif computes:
            self._answers = [await self._own_answer(scoring, len(given))]
        else:
            self._answers = [array("I", [NO_TOKEN] * wanted.max_answer_tokens)]
        if wanted.against:
            self._answers.append(await self._bare(wanted.against, "spec.against"))
        self._check_length(given)
        if wanted.method in INSIDE:
            self._inside = await look_inside(
                self._ask,
                wanted,
                given,
                self._texts,
                self._spans,
                longest_answer=max(map(len, self._answers)),
                most_tokens=self.limits.attributed_tokens,
            )
        return scoring

    async def _plan(self, scoring: Rescoring, design: Design) -> Plan:
        """Add the sequences that are needed in any case; those of the curves are taken to be like random ones."""
        sequences = design.most * len(self._answers)
        check_bound("sequences", sequences, self.limits.sequences)
        check_bound("held_tokens", sequences * self._longest, self.limits.held_tokens)
        cost = await scoring.add(await self._variants(design.coalitions()))
        if self._inside is not None:
            cost += await scoring.add(self._inside.replaced(self._answers))
            cost += self._inside.cost(self._answers)
        check_bound("tokens", cost.computed_tokens, self.limits.tokens)
        for which in range(len(self._answers)):
            scoring.show(design.all, which)
        guesses = []
        for order in design.guesses:
            unknown = [each for each in design.ranked(order) if not scoring.knows(each)]
            guesses.append(await scoring.guess(await self._variants(unknown)))
        cost += _mean(guesses)
        check_bound("tokens", cost.computed_tokens, self.limits.tokens)
        return Plan(spans=design.spans, answer_tokens=len(self._answers[ANSWER]), cost=cost)

    def _facts(self) -> InstanceFacts | None:
        instance = answering(self.driver.views.model(self.asker.model), self.asker.lease_id)
        return None if instance is None else instance.facts

    async def _variants(self, coalitions: Sequence[int]) -> list[Variant]:
        """Each coalition with each answer behind it."""
        gate = asyncio.Semaphore(ASKED_AT_ONCE)

        async def read(coalition: int) -> array[int]:
            async with gate:
                out = [span for number, span in enumerate(self._spans) if not coalition >> number & 1]
                return await self._tokenize(reduced(self.wanted.given, self._texts, out)) or await self._tokenize(
                    NOTHING
                )

        found = await do_all([read(coalition) for coalition in coalitions])
        return [
            Variant(coalition, which, token_ids + answer, len(answer))
            for coalition, token_ids in zip(coalitions, found, strict=True)
            for which, answer in enumerate(self._answers)
        ]

    def _check_length(self, token_ids: array[int]) -> None:
        facts = self._facts()
        self._longest = tokens = len(token_ids) + max(map(len, self._answers))
        if facts is not None and tokens >= facts.context_tokens:
            raise PromptTooLongError(
                f"the input and the answer have {tokens} tokens and fill the model's context of "
                f"{facts.context_tokens} tokens; shorten them",
                metadata={"prompt_tokens": str(tokens), "limit_tokens": str(facts.context_tokens)},
            )

    def _worths(self, scoring: Rescoring, coalitions: Sequence[int]) -> dict[int, tuple[float, ...]]:
        """What coalitions are worth for each target."""
        worths = {}
        for coalition in coalitions:
            each = [scoring.nats(coalition, which) for which in range(len(self._answers))]
            worths[coalition] = (each[ANSWER] - each[AGAINST], *each) if self.wanted.against else tuple(each)
        return worths

    def _replaced(self, scoring: Rescoring) -> tuple[float, ...]:
        """The worth of line feeds for each target; nothing where it was not asked."""
        if not scoring.knows(REPLACED):
            return ()
        return self._worths(scoring, [REPLACED])[REPLACED]

    async def _tokens(self, scoring: Rescoring, coalition: int, which: int) -> list[Token]:
        """What is told of each token of an answer."""
        prompt = scoring.prompt(coalition, which)
        logprobs = present(prompt.logprobs)
        width = len(logprobs.top_ids) // max(1, len(logprobs.token_ids))
        pieces = await self._pieces([*logprobs.token_ids, *logprobs.top_ids])
        found = []
        for place, token_id in enumerate(logprobs.token_ids):
            best = [(logprobs.top_ids[n], logprobs.top_logprobs[n]) for n in range(place * width, (place + 1) * width)]
            found.append(
                Token(
                    token_id=token_id,
                    piece=pieces[token_id],
                    logprob=logprobs.logprobs[place],
                    entropy=prompt.entropies[place] if place < len(prompt.entropies) else 0.0,
                    top=[(other, pieces[other], logprob) for other, logprob in best],
                )
            )
        return found

    async def _pieces(self, ids: Sequence[int]) -> dict[int, bytes]:
        unique = sorted(set(ids))
        return dict(zip(unique, (await self._ask(pieces_of(unique))).pieces, strict=True))

    async def _tokenize(self, given: Input) -> array[int]:
        return array("I", (await self._ask(given)).token_ids)

    async def _bare(self, text: str, field: str) -> array[int]:
        token_ids = await self._tokenize(bare_text(text))
        most = self.limits.answer_tokens
        if not 0 < len(token_ids) <= most:
            raise InvalidFieldError(
                f"{field} has {len(token_ids)} tokens; it must have 1 to explanations.answer_tokens, which is {most}",
                field=field,
            )
        return token_ids

    async def _ask(self, given: Input) -> Answer:
        """Ask the model what is no task."""
        questions, asker = self.driver.questions, self.asker
        return await patiently(
            lambda: questions.query(asker.model, given, tenant=asker.tenant, lease_id=asker.lease_id), tries=TRIES
        )

    async def _own_answer(self, scoring: Rescoring, prompt_tokens: int) -> array[int]:
        """What the model answers itself."""
        most = self.wanted.max_answer_tokens
        spec = answer_task(self.asker, self.wanted.given, prompt_tokens=prompt_tokens, most_tokens=most)
        ids, texts, ended = array("I"), [], None
        for event in await scoring.run(spec):
            if isinstance(event, Output):
                ids.extend(event.token_ids)
                texts.append(event.text)
            elif isinstance(event, Finished):
                ended = event
        if present(ended).outcome.reason is FinishReason.END_OF_TEXT:
            ids = ids[:-1]  # which ends it
        if not ids:
            raise InvalidFieldError("the model answers nothing; give the answer to explain", field="spec.answer")
        self._answer = "".join(texts)
        return ids

    async def _tell_progress(self, done: int, sequences: int) -> None:
        if (part := done * TOLD_PARTS // sequences) > self._told_parts:
            self._told_parts = part
            async with self._telling:
                await self.tell(Progress(done, sequences))


def design_of(wanted: Wanted, spans: int) -> Design:
    """What is to be found out about so many spans."""
    return Design(
        method=wanted.method,
        spans=spans,
        samples=wanted.samples if wanted.method is ExplanationMethod.SHAPLEY else 0,
        random_orders=wanted.random_orders,
        seed=wanted.seed,
    )


def check_bound(name: str, value: int, limit: int) -> None:
    """Hold an explanation to what `explanations.…` allows.

    Raises:
        LimitExceededError: It has more.
    """
    if value > limit:
        raise LimitExceededError(
            f"the explanation has {value} {name} and explanations.{name} is {limit}; {FIX}",
            metadata={"bound": f"explanations.{name}", "value": str(value), "limit": str(limit)},
        )


def find_spans(wanted: Wanted, texts: Sequence[Text]) -> list[Span]:
    """The spans that are named, or all that there are, in their order.

    Raises:
        InvalidFieldError: They are none, or there is none.
    """
    if not wanted.spans:
        found = [Span(number, *part) for number, text in enumerate(texts) for part in split(text.text, wanted.unit)]
        if not found:
            raise InvalidFieldError("the input says nothing that could be taken out", field="spec.input")
        return found
    places = {(text.message, text.part): number for number, text in enumerate(texts)}
    named = []
    for number, (message, part, begin, end) in enumerate(wanted.spans):
        if (message, part) not in places:
            at = f"spec.spans[{number}]"
            raise InvalidFieldError(f"{at} is in message {message}, part {part}; the input has none there", field=at)
        named.append(Span(places[message, part], begin, end))
    check_spans(named, [text.text for text in texts])
    return sorted(named)


def _mean(costs: Sequence[Cost]) -> Cost:
    count = max(1, len(costs))
    return Cost(
        sequences=round(sum(each.sequences for each in costs) / count),
        tokens=round(sum(each.tokens for each in costs) / count),
        computed_tokens=round(sum(each.computed_tokens for each in costs) / count),
    )
