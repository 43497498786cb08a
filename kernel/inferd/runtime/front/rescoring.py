"""How likely answers are behind parts of an input: sequences that begin alike, each a task."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING, Final, TypeVar

from inferd.core.task_events import Finished, PromptOutput
from inferd.errors import TaskCancelledError, TaskNotFoundError, present
from inferd.runtime.explanation_work import ID_BYTES, Asker, score_task
from inferd.runtime.front.explained import Cost
from inferd.runtime.front.room import patiently

if TYPE_CHECKING:
    from array import array
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence

    from inferd.core.prefix_plan import PrefixPlan
    from inferd.core.task import TaskSpec
    from inferd.runtime.driver import Driver
    from inferd.runtime.front.tasks import Tasks

T = TypeVar("T")

TRIES: Final = 20  # for a place in a queue
BREATH_TOKENS: Final = 20_000  # that are planned before others come to their turn: some milliseconds
LEAST_NATS: Final = -1e4  # of a token that the model rules out: so the difference of two such is a number


@dataclass(frozen=True, slots=True)
class Variant:
    """A coalition of spans with an answer behind it: its tokens, and how many of these are the answer's."""

    coalition: int
    which: int
    token_ids: array[int]
    told: int

    @property
    def key(self) -> tuple[bytes, int]:
        """Equal for equal sequences."""
        return blake2b(self.token_ids, digest_size=16).digest(), self.told

    def cost(self, cached_tokens: int) -> Cost:
        """What it costs where so many of its tokens are there."""
        size = len(self.token_ids)
        return Cost(sequences=1, tokens=size, computed_tokens=size - cached_tokens)


@dataclass(slots=True)
class _Sequence:
    """A sequence, the one whose beginning it has, and what came of it. One writer: `Rescoring`."""

    variant: Variant
    planned: Cost
    after: int | None
    prompt: PromptOutput | None = None


@dataclass(slots=True, kw_only=True)
class Rescoring:
    """Plans and computes sequences. One writer: itself.

    Attributes:
        driver: Of the kernel.
        tasks: By which they are computed.
        asker: For whom.
        in_flight: How many at once.
        alternatives: Told in the place of each token of the sequences that are `shown`.
        prefixes: What the cache saves.
        cost: What was computed so far.
        shown: Variants of which alternatives and entropies are told.
    """

    driver: Driver
    tasks: Tasks
    asker: Asker
    in_flight: int
    alternatives: int
    prefixes: PrefixPlan
    cost: Cost = field(default_factory=Cost)
    shown: set[int] = field(default_factory=set)
    _sequences: list[_Sequence] = field(default_factory=list)
    _numbers: dict[tuple[bytes, int], int] = field(default_factory=dict)  # by what they are
    _of: dict[tuple[int, int], int] = field(default_factory=dict)  # by coalition and answer

    def __len__(self) -> int:
        return len(self._sequences)

    def knows(self, coalition: int) -> bool:
        """Whether the worth of a coalition was asked for."""
        return (coalition, 0) in self._of

    async def add(self, variants: Iterable[Variant]) -> Cost:
        """Plan more sequences, in an order in which those that begin alike are near each other; what they cost."""
        total = Cost()
        async for each in _in_order(variants):
            number = self._numbers.setdefault(each.key, len(self._sequences))
            if number == len(self._sequences):
                planned = self.prefixes.add(each.token_ids, each.told)
                cost = each.cost(planned.cached_tokens)
                self._sequences.append(_Sequence(each, cost, planned.after))
                total += cost
            self._of[each.coalition, each.which] = number
        return total

    async def guess(self, variants: Iterable[Variant]) -> Cost:
        """What more sequences would cost."""
        prefixes, known, total = self.prefixes.copy(), set(self._numbers), Cost()
        async for each in _in_order(variants):
            if each.key not in known:
                known.add(each.key)
                total += each.cost(prefixes.add(each.token_ids, each.told).cached_tokens)
        return total

    def show(self, coalition: int, which: int) -> None:
        """Have alternatives and entropies told of the tokens of an answer behind a coalition."""
        self.shown.add(self._of[coalition, which])

    def prompt(self, coalition: int, which: int) -> PromptOutput:
        """What was told of a variant that was computed."""
        return present(self._sequences[self._of[coalition, which]].prompt)

    def nats(self, coalition: int, which: int) -> float:
        """How likely an answer is behind a coalition: the logarithm of its probability."""
        logprobs = present(self.prompt(coalition, which).logprobs)
        return sum(max(LEAST_NATS, each) for each in logprobs.logprobs)

    async def compute(self, tell: Callable[[int], Awaitable[None]]) -> None:
        """Compute what was added and is not computed, each sequence once that is there whose beginning it has.

        Args:
            tell: Called with how many of all are done, whenever one is.

        Raises:
            InferdError: A task failed; the others end.
        """
        numbers = [number for number, each in enumerate(self._sequences) if each.prompt is None]
        done = {number: asyncio.Event() for number in numbers}
        gate = asyncio.Semaphore(self.in_flight)

        async def compute(number: int) -> None:
            sequence = self._sequences[number]
            if sequence.after in done:
                await done[sequence.after].wait()
            async with gate:
                await self._score(number, sequence)
            done[number].set()
            await tell(self.cost.sequences)

        await do_all([compute(number) for number in numbers])

    async def _score(self, number: int, sequence: _Sequence) -> None:
        variant = sequence.variant
        alternatives = self.alternatives if number in self.shown else None
        spec = score_task(self.asker, variant.token_ids, told=variant.told, alternatives=alternatives)
        for event in await self.run(spec):
            if isinstance(event, PromptOutput):
                sequence.prompt = event
            elif isinstance(event, Finished):
                self.cost += Cost.of(event)

    async def run(self, spec: TaskSpec) -> list[object]:
        """Run a task and have it known no longer, as nobody else asks for it; what it told.

        Raises:
            InferdError: It was refused, or failed.
        """
        size_bytes = ID_BYTES * spec.demand.prompt_tokens
        return await patiently(lambda: run_task(self.driver, self.tasks, spec, size_bytes=size_bytes), tries=TRIES)


async def run_task(driver: Driver, tasks: Tasks, spec: TaskSpec, *, size_bytes: int) -> list[object]:
    """Run a task once and have it known no longer; what it told.

    Raises:
        InferdError: It was refused, or failed.
    """
    told: list[object] = []
    try:
        async with tasks.run(spec, size_bytes=size_bytes) as stream:
            async for batch in stream.follow(0):
                told += [event for _, event in batch]
    finally:
        with suppress(TaskNotFoundError):
            driver.withdraw(spec.task_id, spec.tenant, TaskCancelledError("it is no longer needed"))
    return told


async def _in_order(variants: Iterable[Variant]) -> AsyncIterator[Variant]:
    """Those that begin alike near each other; after so many tokens all others come to their turn.

    Bytes are compared, as ids would each become a number first: of 4000 sequences of 4000 that takes seconds.
    """
    since = 0
    for each in sorted(variants, key=lambda one: one.token_ids.tobytes()):
        yield each
        since += len(each.token_ids)
        if since >= BREATH_TOKENS:
            since = 0
            await asyncio.sleep(0)


async def do_all(doing: Sequence[Awaitable[T]]) -> list[T]:
    """Do all at once; the first one that fails ends the others."""

    async def one(each: Awaitable[T]) -> T:
        return await each

    try:
        async with asyncio.TaskGroup() as group:
            running = [group.create_task(one(each)) for each in doing]
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return [each.result() for each in running]
