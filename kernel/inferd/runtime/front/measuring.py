"""Measuring a trial by ordinary tasks: what it makes of a text, and how fast it answers."""

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain, islice, repeat
from secrets import token_hex
from statistics import fmean, stdev

from inferd.core.ids import ModelName, Tenant
from inferd.core.optimization import Measurement
from inferd.core.task import TaskSpec
from inferd.core.task_events import Finished, PromptOutput, Receipt
from inferd.errors import InvalidFieldError, present
from inferd.runtime.driver import Driver
from inferd.runtime.front.tasks import Tasks
from inferd.runtime.trial_work import ID_BYTES, trial_task

WINDOW_TOKENS = 1024  # of the text, each read by a task of its own
LEAST_TEXT_TOKENS = 64
TASK_ID_BYTES = 16
MOST_NATS = 700.0  # of a perplexity that a float can tell


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What a trial is given.

    Attributes:
        windows: Parts of the text on which quality is measured.
        prompts: Of the tasks at once; the first one is that of the task alone, too.
        output_tokens: What each of these gives.
    """

    windows: Sequence[Sequence[int]]
    prompts: Sequence[Sequence[int]]
    output_tokens: int

    @property
    def text_tokens(self) -> int:
        """Tokens of the text on which quality is measured."""
        return sum(map(len, self.windows))


def make_workload(
    token_ids: Sequence[int], *, context_tokens: int, in_flight: int, prompt_tokens: int, output_tokens: int
) -> Workload:
    """What trials of a model are given, of the tokens of a text; of a short one its parts come again.

    Raises:
        InvalidFieldError: The text is too short, or a task too long for the model.
    """
    if len(token_ids) < LEAST_TEXT_TOKENS:
        raise InvalidFieldError(
            f"text has {len(token_ids)} tokens; it must have at least {LEAST_TEXT_TOKENS}", field="text"
        )
    if prompt_tokens + output_tokens > context_tokens:
        raise InvalidFieldError(
            f"prompt_tokens is {prompt_tokens} and output_tokens {output_tokens}; the context of the model has room for"
            f" {context_tokens} together",
            field="prompt_tokens",
        )
    size = min(WINDOW_TOKENS, context_tokens - 1)
    windows = [token_ids[begin : begin + size] for begin in range(0, len(token_ids), size)]
    endless = chain.from_iterable(repeat(token_ids))
    return Workload(
        windows=[window for window in windows if len(window) > 1],
        prompts=[list(islice(endless, prompt_tokens)) for _ in range(in_flight)],
        output_tokens=output_tokens,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What a trial made of the text.

    Attributes:
        logprobs: Of the token at each place.
        best: The likeliest token at each place.
    """

    logprobs: Sequence[float]
    best: Sequence[int]

    @property
    def perplexity(self) -> float:
        """Of the text."""
        return math.exp(min(-fmean(self.logprobs), MOST_NATS))

    def loss(self, original: "Reading") -> float:
        """By which part the perplexity is higher than the original's."""
        return self.perplexity / original.perplexity - 1

    def loss_error(self, original: "Reading") -> float:
        """The standard error of the loss: how far it may be off because the text has so few places."""
        changes = [before - now for now, before in zip(self.logprobs, original.logprobs, strict=True)]
        error = stdev(changes) / math.sqrt(len(changes)) if len(changes) > 1 else math.inf
        return error * (1 + self.loss(original))

    def agreement(self, original: "Reading") -> float:
        """At which part of the places the likeliest token is the original's."""
        same = sum(mine == theirs for mine, theirs in zip(self.best, original.best, strict=True))
        return same / max(1, len(self.best))


@dataclass(frozen=True, slots=True)
class Ran:
    """What a task gave.

    Attributes:
        prompt: What it told of its prompt.
        receipt: What it cost.
        seconds: From asking to the end.
    """

    prompt: PromptOutput | None
    receipt: Receipt
    seconds: float


@dataclass(slots=True)
class Speed:
    """How fast a trial is: the best of what was measured so far. One writer: the bench."""

    tokens_per_s: float = 0.0
    first_token_s: float = math.inf
    token_s: float = math.inf
    answer_s: float = math.inf


@dataclass(slots=True, kw_only=True)
class Bench:
    """Measures one trial. One writer: itself.

    Attributes:
        driver: Of the kernel.
        tasks: By which it is measured.
        tenant: Whose tasks they are.
        name: The trial.
        workload: What it is given.
    """

    driver: Driver
    tasks: Tasks
    tenant: Tenant
    name: ModelName
    workload: Workload
    _disturbed: bool = False
    _speed: Speed = field(default_factory=Speed)

    async def read(self) -> Reading:
        """Have the text read, whose perplexity is a measure of quality.

        Raises:
            InferdError: A task failed.
        """
        ran = await self._run_all(
            [self._task(window, output_tokens=1, tells_prompt=True) for window in self.workload.windows]
        )
        told = [present(present(each.prompt).logprobs) for each in ran]
        return Reading(
            logprobs=[each for logprobs in told for each in logprobs.logprobs],
            best=[each for logprobs in told for each in logprobs.top_ids],
        )

    async def measure(self, reading: Reading, original: Reading, *, rounds: int) -> Measurement:
        """Measure how fast it is, so many times, and what it takes of memory then.

        Raises:
            InferdError: A task failed.
        """
        for _ in range(rounds):
            await self._measure_once()
        speed = self._speed
        return Measurement(
            tokens_per_s=speed.tokens_per_s,
            first_token_s=speed.first_token_s,
            token_s=speed.token_s,
            answer_s=speed.answer_s,
            memory_bytes=await self._memory_bytes(),
            perplexity=reading.perplexity,
            loss=reading.loss(original),
            loss_error=reading.loss_error(original),
            agreement=reading.agreement(original),
            rounds=rounds,
            disturbed=self._disturbed,
        )

    async def _measure_once(self) -> None:
        load, clock, speed = self.workload, self.driver.clock, self._speed
        began = clock.now()
        await self._run_all([self._task(prompt, output_tokens=load.output_tokens) for prompt in load.prompts])
        took_s = max(clock.now() - began, 1e-9)
        speed.tokens_per_s = max(speed.tokens_per_s, len(load.prompts) * load.output_tokens / took_s)
        (alone,) = await self._run_all([self._task(load.prompts[0], output_tokens=load.output_tokens)])
        if (first_s := alone.receipt.first_token_s) is not None:
            speed.first_token_s = min(speed.first_token_s, first_s)
            speed.token_s = min(speed.token_s, max(0.0, alone.seconds - first_s) / (load.output_tokens - 1))
        speed.answer_s = min(speed.answer_s, max(alone.seconds, 1e-9))

    async def _memory_bytes(self) -> int:
        """Resident memory of its worker; what it is reckoned to need where it computes elsewhere."""
        model = self.driver.views.model(self.name)
        for instance in model.instances.values():
            if instance.need is not None and not self.driver.views.devices[instance.device_id].cores:
                return instance.need.total_bytes
            if (worker := self.driver.supervisor.workers.get(instance.instance_id)) is not None:
                return await worker.resident_bytes()
        return 0

    def _task(self, prompt: Sequence[int], *, output_tokens: int, tells_prompt: bool = False) -> TaskSpec:
        return trial_task(
            token_hex(TASK_ID_BYTES),
            self.tenant,
            self.name,
            prompt=prompt,
            output_tokens=output_tokens,
            tells_prompt=tells_prompt,
        )

    async def _run_all(self, specs: Sequence[TaskSpec]) -> list[Ran]:
        """Run tasks at once; the first one that fails ends the others."""
        self._look_around()
        try:
            async with asyncio.TaskGroup() as group:
                running = [group.create_task(self._run(spec)) for spec in specs]
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from None
        self._look_around()
        return [each.result() for each in running]

    async def _run(self, spec: TaskSpec) -> Ran:
        began, prompt, finished = self.driver.clock.now(), None, None
        async with self.tasks.run(spec, size_bytes=ID_BYTES * spec.demand.prompt_tokens) as stream:
            async for batch in stream.follow(0):
                for _, event in batch:
                    if isinstance(event, PromptOutput):
                        prompt = event
                    elif isinstance(event, Finished):
                        finished = event
        return Ran(prompt, present(finished).receipt, self.driver.clock.now() - began)

    def _look_around(self) -> None:
        census = self.driver.views.census
        self._disturbed = self._disturbed or census.all.running > census.of_model(self.name).running
