"""Workers are killed and stopped while they stream: every stream must be as it is undisturbed.

A wave is 32 streams at once. While they flow, its worker is ended once or twice, in one of `MANNERS`; a third death
would be one too many for a task that innocently runs alone.
"""

import asyncio
import os
import random
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from starving import starve

from inferd_api.v1.sampling_pb2 import Grammar
from inferd_api.v1.task_pb2 import TaskEvent
from inferd_client import AsyncClient

STREAMS = 32
MANNERS: Mapping[str, Callable[[int], object]] = {
    "killed": lambda pid: os.kill(pid, signal.SIGKILL),
    "stopped": lambda pid: os.kill(pid, signal.SIGSTOP),
    "starved": starve,
}
DEATHS = (1, 2)  # in a wave
WAVE_S = 120.0
TOPICS = ("the sea", "a wood in winter", "three bridges", "how to bake bread", "an old clock", "rain", "the number 7")


@dataclass(frozen=True, slots=True)
class Request:
    """A task: its prompt, and its options as `AsyncClient.run` takes them."""

    prompt: str
    options: Mapping[str, Any]


@dataclass(slots=True)
class Told:
    """What a stream has told, and when.

    Attributes:
        texts: By sample.
        token_ids: By sample.
        logprobs: By sample, each token with its likeliest ones.
        prompt: Of the prompt, where it was asked for.
        finishes: By sample, and of the task.
        usage: Tokens of the prompt and of the output; what came from the prefix cache may differ.
        resumed: How often it went on.
        pause_s: Longest time between two events of which the first was no end of waiting.
    """

    texts: dict[int, str] = field(default_factory=dict)
    token_ids: dict[int, list[int]] = field(default_factory=dict)
    logprobs: dict[int, list[Any]] = field(default_factory=dict)
    prompt: list[Any] = field(default_factory=list)
    finishes: list[Any] = field(default_factory=list)
    usage: tuple[int, int] = (0, 0)
    resumed: int = 0
    pause_s: float = 0.0

    @property
    def contents(self) -> tuple[Any, ...]:
        """All that must not depend on what happened to workers."""
        return self.texts, self.token_ids, self.logprobs, self.prompt, sorted(self.finishes), self.usage

    def add(self, event: TaskEvent) -> None:
        """Take an event."""
        kind = event.WhichOneof("kind")
        if kind == "resumed":
            self.resumed += 1
        if kind == "finished":
            self.finishes.append((-1, event.finished.reason))
            usage = event.finished.usage
            self.usage = (usage.prompt_tokens, usage.output_tokens)
        if kind != "output":
            return
        output, sample = event.output, event.output.sample
        self.texts[sample] = self.texts.get(sample, "") + output.text
        self.token_ids.setdefault(sample, []).extend(output.token_ids)
        self.logprobs.setdefault(sample, []).extend(_rounded(each) for each in output.logprobs)
        self.prompt.extend(_rounded(each) for each in output.prompt_logprobs)
        if output.finish_reason:
            self.finishes.append((sample, output.finish_reason))


def _rounded(logprob: Any) -> Any:
    return logprob.token_id, round(logprob.logprob, 4), [(top.token_id, round(top.logprob, 4)) for top in logprob.top]


def requests(seed: int, *, output_tokens: int) -> list[Request]:
    """The tasks of a wave, half of them greedy and half drawn at temperature 1, of every kind."""
    chance = random.Random(seed)
    kinds: Sequence[dict[str, Any]] = (
        {},
        {"n": 3},
        {"logprobs": 2},
        {"stop": ["e ", "zq"]},
        {"grammar": Grammar(regex="[a-z ]{20,}")},
        {"repetition_penalty": 1.1, "presence_penalty": 0.3, "frequency_penalty": 0.2},
        {"min_tokens": 12, "prompt_logprobs": 1, "bad_words": ["the"]},
        {"echo": True, "logit_bias": {97: 2.0}},
    )
    made = []
    for number in range(STREAMS):
        options = dict(kinds[number // 2 % len(kinds)])
        options |= {"temperature": 0.0} if number % 2 == 0 else {"temperature": 1.0, "seed": chance.getrandbits(31)}
        options["max_tokens"] = chance.randint(output_tokens // 2, output_tokens)
        options["ignore_eos"] = "grammar" not in options
        words = [chance.choice(TOPICS) for _ in range(chance.randint(1, 40))]
        made.append(Request(f"{seed}.{number}: write about {' and '.join(words)}.", options))
    return made


async def follow(client: AsyncClient, model: str, request: Request, told: Told, flowing: asyncio.Event) -> None:
    """Run a task to its end; `flowing` is set when it has output."""
    last = 0.0
    async for event in client.run(model, request.prompt, **request.options):
        told.add(event)
        now = time.monotonic()
        if last:
            told.pause_s = max(told.pause_s, now - last)
        if event.WhichOneof("kind") == "output":
            last = now
            flowing.set()


async def wave(
    client: AsyncClient, model: str, tasks: Sequence[Request], *, manners: Sequence[str] = (), seed: int = 0
) -> list[Told]:
    """Run tasks at once; end their worker in each of these manners, each time when a random one of them flows.

    Raises:
        TimeoutError: They did not come to their end.
        InferdError: A stream broke.
    """
    chance = random.Random(seed)
    told = [Told() for _ in tasks]
    flowing = [asyncio.Event() for _ in tasks]
    async with asyncio.timeout(WAVE_S), asyncio.TaskGroup() as group:
        running = [group.create_task(follow(client, model, *each)) for each in zip(tasks, told, flowing, strict=True)]
        for manner in manners:
            open_ones = [number for number, task in enumerate(running) if not task.done()]
            if not open_ones:
                break
            number = chance.choice(open_ones)
            flowing[number].clear()
            waiting = asyncio.create_task(flowing[number].wait())
            await asyncio.wait((waiting, running[number]), return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
            await end_worker(client, model, manner)
    return told


async def end_worker(client: AsyncClient, model: str, manner: str) -> None:
    """End the workers of a model; one that is gone before it can be is none of them."""
    ended = 0
    while not ended:
        for pid in await workers(client, model):
            with suppress(ProcessLookupError, FileNotFoundError):
                await asyncio.to_thread(MANNERS[manner], pid)
                ended += 1


async def workers(client: AsyncClient, model: str) -> list[int]:
    """Process ids of the workers of a model."""
    return [instance.pid for instance in (await client.get_model(model)).instances if instance.pid]
