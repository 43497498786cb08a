"""One attempt at a training by several workers: one leads, the others compute parts of its steps, all end together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from inferd.core.ids import NO_LEASE
from inferd.core.task_events import TensorOutput
from inferd.errors import InferdError, WorkerDiedError
from inferd.runtime.evaluation_work import read_piece
from inferd.runtime.front.trials import GaveWayError, NoRoomError
from inferd.runtime.training_work import Seat, training_task

if TYPE_CHECKING:
    from inferd.core.ids import LeaseId
    from inferd.core.task import TaskSpec
    from inferd.core.training import Training
    from inferd.runtime.front.tasks import Tasks
    from inferd.training_settings import Train

Tell = Callable[[str, dict[str, Any]], Awaitable[None]]
"""Is given what a worker says."""
Load = Callable[[int, Callable[[], Awaitable[None]]], Awaitable[None]]
"""Loads the one of this place, calls what is given once it is loaded, and takes it away when that returns."""

BLAME_S: Final = 1.0
"""In which it is found out whom the one that leads has lost: its connection ends sooner than that is known here."""


class TrainingGang:
    """The workers of one attempt. One use.

    Args:
        training: Which.
        tasks: By which its steps are done.
        settings: Bounds.
        load: Loads one of those that help.
    """

    def __init__(self, training: Training, *, tasks: Tasks, settings: Train, load: Load) -> None:
        self._training = training
        self._tasks = tasks
        self._settings = settings
        self._load = load
        self._begun = asyncio.Event()  # the one that leads awaits the others
        self._ranks: dict[int, int] = {}  # of those that are loaded, by place
        self._meeting = ""

    async def lead(self, lease_id: LeaseId, tell: Tell) -> None:
        """Have all that find room do the steps with the one that leads, which is loaded, to the end.

        Raises:
            NoRoomError: There are fewer than the recipe wants at least.
            GaveWayError: Others needed the room of one.
            InferdError: It failed, or one has died.
        """
        recipe, followers = self._training.spec.recipe, dict[int, asyncio.Task[None]]()
        try:
            why = await self._seat(followers)
            if len(self._ranks) + 1 < recipe.least_ranks:
                raise NoRoomError(f"{len(self._ranks) + 1} of at least {recipe.least_ranks} ranks have room: {why}")
            await self._drive_all(list(followers.values()), lease_id, tell)
        finally:
            for each in followers.values():
                each.cancel()
            await asyncio.gather(*followers.values(), return_exceptions=True)

    async def _seat(self, followers: dict[int, asyncio.Task[None]]) -> str:
        """Load one after the other, so that each start sees what the ones before have taken; why one is not there."""
        why = ""
        for place in range(1, self._training.spec.recipe.ranks):
            loaded = asyncio.Event()
            each = asyncio.ensure_future(self._load(place, partial(self._sit, place, loaded)))
            followers[place] = each
            waiting = asyncio.ensure_future(loaded.wait())
            try:
                await asyncio.wait({each, waiting}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                waiting.cancel()
            if not each.done():
                continue
            del followers[place]
            self._ranks.pop(place, None)
            try:
                each.result()
            except (NoRoomError, GaveWayError) as error:
                why = str(error)
            except InferdError as error:
                why = error.message
            if why:
                break  # the others would find no more
        return why

    async def _sit(self, place: int, loaded: asyncio.Event) -> None:
        """It is loaded: have it take part once the one that leads awaits it."""
        self._ranks[place] = len(self._ranks) + 1
        loaded.set()
        await self._begun.wait()
        seat = Seat(place=place, rank=self._ranks[place], ranks=len(self._ranks) + 1, meeting=self._meeting)
        await drive(self._tasks, training_task(self._training, NO_LEASE, self._settings, seat), _hear_nothing)

    async def _drive_all(self, followers: list[asyncio.Task[None]], lease_id: LeaseId, tell: Tell) -> None:
        async def hear(what: str, said: dict[str, Any]) -> None:
            if what == "awaits":
                self._meeting = str(said["meeting"])
                self._begun.set()
            else:
                await tell(what, said)

        seat = Seat(ranks=len(followers) + 1)
        leader = asyncio.ensure_future(
            drive(self._tasks, training_task(self._training, lease_id, self._settings, seat), hear)
        )
        try:
            await asyncio.wait({leader, *followers}, return_when=asyncio.FIRST_COMPLETED)
            if not leader.done():
                await asyncio.wait({leader}, timeout=BLAME_S)  # one that is lost ends the step, which is told
            elif isinstance(leader.exception(), WorkerDiedError) and followers:
                await asyncio.wait(followers, timeout=BLAME_S, return_when=asyncio.FIRST_COMPLETED)
            if leader.done() and leader.exception() is None:
                return
            for each in followers:
                if each.done():
                    each.result()
                    raise WorkerDiedError("one of the workers of the training ended before the one that leads")
            leader.result()
        finally:
            leader.cancel()
            await asyncio.gather(leader, return_exceptions=True)


async def drive(tasks: Tasks, spec: TaskSpec, tell: Tell) -> None:
    """Have a worker do what a task of a training says, to its end.

    Raises:
        InferdError: It failed, or its worker died.
    """
    async with tasks.run(spec, size_bytes=spec.demand.memory_bytes) as stream:
        async for batch in stream.follow(0):
            for _, event in batch:
                if isinstance(event, TensorOutput):
                    for what, said in read_piece(event).items():
                        await tell(what, said)


async def _hear_nothing(what: str, said: dict[str, Any]) -> None:
    """One that helps tells nothing."""
