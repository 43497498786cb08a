"""Kernels are killed at failpoints under load, one after the other with the same store; then their history is checked.

A history is a store and the kernels that had it. Each kernel is given new tasks and the same ones again, by their
`request_id`; what it acknowledges must be there at the end, once, with the stream that it has undisturbed.
"""

import asyncio
import random
import signal
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from chaos import Request, Told, requests

from inferd.testing.kernel import KernelProcess, kernel_process
from inferd_api.v1.task_pb2 import TaskEvent, TaskState
from inferd_client import AsyncClient
from inferd_client.errors import InferdError, KernelUnreachableError, ShuttingDownError, TaskStateError

POINTS: Mapping[str, int] = {
    "store.begin": 60,
    "store.before_commit": 60,
    "store.after_commit": 60,
    "store.read": 40,
    "frame.sent.load": 1,
    "frame.sent.proceed": 1,
    "frame.sent.submit": 24,
    "frame.sent.cancel": 3,
    "frame.got.hello": 1,
    "frame.got.needs": 1,
    "frame.got.loaded": 1,
    "frame.got.step": 80,
    "task.accepted": 8,
    "task.detached": 8,
    "task.restored": 24,
    "task.dispatch": 24,
    "task.succeed": 16,
    "task.interrupt": 6,
    "task.suspend": 2,
    "task.resume": 2,
    "task.cancel": 2,
    "instance.need": 1,
    "instance.reserve": 1,
    "instance.loaded": 1,
    "model.changed": 4,
}
"""Where a kernel is killed, and at which time that it comes there at the latest."""
NEW_TASKS = 8  # in the life of a kernel
CANCELLED, SUSPENDED, REPEATED = 0.1, 0.15, 0.5  # parts of the tasks, of which the last are created again later
LAST_S = 120.0  # in which the last kernel of a history ends all of its tasks
BROKEN = (KernelUnreachableError, ShuttingDownError)
ENDS = {TaskState.TASK_STATE_SUCCEEDED, TaskState.TASK_STATE_CANCELLED}


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What is killed: the kernel's environment, its model, and how long it may live."""

    environment: Mapping[str, str]
    model: str
    source: str
    output_tokens: int
    life_s: float


@dataclass(slots=True, eq=False)
class Kept:
    """A task that is to be kept.

    Attributes:
        number: Of its request.
        key: Its `request_id`.
        ids: What its creations were answered with.
        events: What its watchers were told, over all kernels.
        cancelled: Whether `CancelTask` was answered with its end.
        to_cancel: Whether it is to be cancelled when it has output.
        to_suspend: Whether it is to be suspended then, and to go on.
    """

    number: int
    key: str
    to_cancel: bool
    to_suspend: bool
    ids: set[str] = field(default_factory=set)
    events: list[TaskEvent] = field(default_factory=list)
    cancelled: bool = False

    @property
    def ended(self) -> bool:
        """Whether its end was told."""
        return bool(self.events) and self.events[-1].HasField("finished")


@dataclass(slots=True)
class Tally:
    """What came of histories.

    Attributes:
        kills: By the point, or "by hand" where that was not come to.
        tasks: How many were acknowledged.
        wrong: What is not as it was to be.
        starts_s: How long each kernel took until it served.
    """

    kills: Counter[str] = field(default_factory=Counter)
    tasks: int = 0
    wrong: list[str] = field(default_factory=list)
    starts_s: list[float] = field(default_factory=list)


def told_of(events: Sequence[TaskEvent]) -> Told:
    """What a stream has told."""
    told = Told()
    for event in events:
        told.add(event)
    return told


async def undisturbed(client: AsyncClient, model: str, tasks: Sequence[Request]) -> tuple[list[Told], set[str]]:
    """What each task tells a client of a kernel that nothing happens to, and their ids."""

    async def told(request: Request) -> tuple[Told, str]:
        task = await client.create_task(model, request.prompt, **request.options)
        return told_of([event async for event in client.watch(task.task_id)]), task.task_id

    made = await asyncio.gather(*map(told, tasks))
    return [each for each, _ in made], {task_id for _, task_id in made}


class History:
    """A store and the kernels that have it, one after the other.

    Args:
        setting: What is killed; its environment names the store, which is empty.
        folder: Of the kernels.
        tasks: What is asked for.
        tally: Where what comes of it is told.
        wanted: What each tells undisturbed; where that is not known, its first kernel says it.
    """

    def __init__(
        self, setting: Setting, folder: Path, tasks: Sequence[Request], tally: Tally, wanted: Sequence[Told] = ()
    ) -> None:
        self._setting = setting
        self._folder = folder
        self._tasks = tasks
        self.wanted = wanted
        self._others = set[str]()
        self._tally = tally
        self._kept: list[Kept] = []

    async def run(self, lives: Sequence[int], seed: int) -> None:
        """A kernel that is made a model, those that are killed, and one that ends all; then the check."""
        with kernel_process(self._folder, environment=self._setting.environment) as process:
            async with AsyncClient(process.address) as client:
                await client.create_model(self._setting.model, source=self._setting.source)
                if not self.wanted:
                    self.wanted, self._others = await undisturbed(client, self._setting.model, self._tasks)
        for life in lives:
            await self._life(random.Random(f"{seed}.{life}"), life)
        await self._end()

    async def _life(self, chance: random.Random, life: int) -> None:
        """A kernel that is killed."""
        point = chance.choice(list(POINTS))
        count = int((POINTS[point] + 1) ** chance.random()) - 1  # as often at the first times as at all later ones
        failpoint = f"{point}={f'{count}*off->' if count else ''}1*kill"
        begun = [
            Kept(chance.randrange(len(self._tasks)), f"{life}.{number}", *_fate(chance)) for number in range(NEW_TASKS)
        ]
        repeated = [each for each in self._kept if chance.random() < REPEATED][-NEW_TASKS:]
        self._kept += begun
        environment = {**self._setting.environment, "INFERD_FAILPOINTS": failpoint}
        started = time.monotonic()
        try:
            with kernel_process(self._folder, environment=environment) as process:
                self._tally.starts_s.append(time.monotonic() - started)
                hit = await self._load(process, [*repeated, *begun])
        except RuntimeError:  # it was killed before it served
            hit = True
        self._tally.kills[point if hit else "by hand"] += 1

    async def _load(self, process: KernelProcess, created: Sequence[Kept]) -> bool:
        """Have clients at a kernel until it is gone, which it is after a while in any case; whether by itself."""
        async with AsyncClient(process.address) as client:
            serving = asyncio.create_task(self._serve(client, created))
            gone = asyncio.create_task(asyncio.to_thread(process.process.wait))
            await asyncio.wait((gone, serving), timeout=self._setting.life_s, return_when=asyncio.FIRST_COMPLETED)
            hit = gone.done() or process.process.poll() is not None
            if not hit:
                process.process.send_signal(signal.SIGKILL)
            await gone
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)
            if serving.done() and not serving.cancelled() and (error := serving.exception()) is not None:
                raise error
        return hit

    async def _serve(self, client: AsyncClient, created: Sequence[Kept]) -> None:
        flowing = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            for place, kept in enumerate(created):
                group.create_task(self._create(client, kept, flowing, later=place % 2 == 1))
            for kept in self._kept:
                if kept.ids and kept not in created:
                    group.create_task(self._follow(client, kept, flowing))

    async def _create(self, client: AsyncClient, kept: Kept, flowing: asyncio.Event, *, later: bool) -> None:
        if later:  # when others have output
            await flowing.wait()
        request = self._tasks[kept.number]
        with suppress(*BROKEN):
            task = await client.create_task(self._setting.model, request.prompt, request_id=kept.key, **request.options)
            kept.ids.add(task.task_id)
            await self._follow(client, kept, flowing)
            flowing.set()

    async def _follow(self, client: AsyncClient, kept: Kept, flowing: asyncio.Event) -> None:
        """Read on behind what was told, and do what is to be done when there is output."""
        if kept.ended:
            return
        (task_id, *_) = kept.ids
        with suppress(*BROKEN):
            async for event in client.watch(task_id, kept.events[-1].sequence if kept.events else 0):
                kept.events.append(event)
                if event.HasField("output"):
                    flowing.set()
                if event.HasField("output") and kept.to_suspend:
                    kept.to_suspend = False
                    with suppress(TaskStateError):  # it has ended meanwhile
                        await client.suspend_task(task_id)
                        await client.resume_task(task_id)
                if event.HasField("output") and kept.to_cancel and not kept.cancelled:
                    kept.cancelled = (await client.cancel_task(task_id)).state in ENDS

    async def _end(self) -> None:
        """The last kernel of all ends every task; what each then has told is what it was to tell."""
        with kernel_process(self._folder, environment=self._setting.environment) as process:
            async with AsyncClient(process.address) as client, asyncio.timeout(LAST_S):
                for kept in self._kept:
                    for task_id in kept.ids:
                        with suppress(InferdError):  # what was suspended goes on
                            await client.resume_task(task_id)
                await self._serve(client, [kept for kept in self._kept if not kept.ids])
                listed = Counter([task.task_id async for task in client.list_tasks()])
                known = {task_id for kept in self._kept for task_id in kept.ids}
                self._tally.tasks += len(known)
                self._tally.wrong += [
                    f"task {task_id} was acknowledged and is lost" for task_id in known - listed.keys()
                ]
                more = listed.keys() - known - self._others
                self._tally.wrong += [f"task {task_id} was made by nobody" for task_id in more]
                for kept in self._kept:
                    await self._check(client, kept)

    async def _check(self, client: AsyncClient, kept: Kept) -> None:
        wrong = [f"{len(kept.ids)} tasks for one key: {kept.ids}"] if len(kept.ids) != 1 else []
        for task_id in kept.ids:
            try:
                again = [event async for event in client.watch(task_id)]
                state = (await client.get_task(task_id)).state
            except InferdError as error:
                wrong.append(f"cannot be read: {error}")
                continue
            wrong += self._differences("its watchers were told", kept, kept.events)
            wrong += self._differences("it tells", kept, again)
            if again and state != again[-1].finished.state:
                wrong.append(f"it is {state}, and its stream says {again[-1].finished.state}")
        self._tally.wrong += [f"key {kept.key} ({dict(self._tasks[kept.number].options)}): {each}" for each in wrong]

    def _differences(self, who: str, kept: Kept, events: Sequence[TaskEvent]) -> list[str]:
        """How a stream differs from the undisturbed one; of a cancelled task it may be the beginning of that."""
        numbers = [event.sequence for event in events]
        wrong = [] if numbers == sorted(set(numbers)) else [f"{who} events {numbers}"]
        ends = [event.HasField("finished") for event in events]
        if ends.count(True) != 1 or not ends[-1]:
            return [*wrong, f"{who} {ends.count(True)} ends in {len(ends)} events"]
        state, told, wanted = events[-1].finished.state, told_of(events), self.wanted[kept.number]
        if state == TaskState.TASK_STATE_CANCELLED and kept.to_cancel:
            whole = {n: wanted.token_ids.get(n, [])[: len(ids)] for n, ids in told.token_ids.items()}
            return wrong if told.token_ids == whole else [*wrong, f"{who} other tokens before it was cancelled"]
        if kept.cancelled and state not in ENDS:
            wrong.append(f"{who} {state} of a cancelled task")
        names = ("text", "token ids", "logprobs", "prompt", "finish reasons", "usage")
        parts = [name for name, a, b in zip(names, told.contents, wanted.contents, strict=True) if a != b]
        return [*wrong, f"{who} another {', '.join(parts)}; state {state}"] if parts else wrong


def _fate(chance: random.Random) -> tuple[bool, bool]:
    """Whether a task is to be cancelled, and whether it is to be suspended."""
    return chance.random() < CANCELLED, chance.random() < SUSPENDED


def wanted_of(setting: Setting, seed: int) -> list[Request]:
    """The tasks that are asked for."""
    return requests(seed, output_tokens=setting.output_tokens)
