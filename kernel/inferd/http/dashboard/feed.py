"""What the kernel tells one identity, watched once for all its browsers."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Any, Final, TypeVar

from inferd.http.dashboard import rows
from inferd.http.dashboard.history import TIMES, History
from inferd.http.dashboard.state import State
from inferd_api.v1.lease_pb2 import LeaseState
from inferd_api.v1.moderation_pb2 import FlagState
from inferd_api.v1.task_pb2 import TaskState
from inferd_client.errors import (
    InferdError,
    KernelTooOldError,
    KernelUnreachableError,
    NotLeaderError,
    PermissionDeniedError,
    ShuttingDownError,
    UnauthenticatedError,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence

    from inferd.http.dashboard.state import Row
    from inferd.http_settings import Dashboard
    from inferd_api.v1.host_pb2 import Host
    from inferd_api.v1.task_pb2 import Task
    from inferd_client import AsyncClient

Thing = TypeVar("Thing")
LIVING: Final = (TaskState.TASK_STATE_QUEUED, TaskState.TASK_STATE_RUNNING, TaskState.TASK_STATE_SUSPENDED)
HELD: Final = (LeaseState.LEASE_STATE_PENDING, LeaseState.LEASE_STATE_ACTIVE)
AWAY: Final = (KernelUnreachableError, NotLeaderError, ShuttingDownError)
ENDED_ROWS: Final = 50
"""Tasks that have ended which are shown."""
AGAIN_S: Final = 1.0
"""Between two tries of what failed."""
DENIED_S: Final = 30.0
"""And of what is not allowed: rules may change."""
SLOWLY: Final = 5
"""What changes seldom is read every so many times `poll_s`."""
ENOUGH: Final = 0.9
"""Where fewer tasks than this part of `rows` are left, those are listed again that were left out."""
TOLD_WITH: Final = {"host": ("loads", "instances", "clock"), "tasks": ("ended",)}
"""Sections that are told with another one: who may not read that may not see these."""
KERNEL: Final = "kernel"
NOTES: Final = "notes"
DENIED: Final = "denied"


class Feed:
    """Watches as long as `run` runs. One writer: the gateway's loop.

    Args:
        client: Of the identity; it shows what the kernel lets that see.
        settings: Of the dashboard.

    Attributes:
        state: What is known.
        history: Of the last day, as far as it was watched.
    """

    def __init__(self, client: AsyncClient, settings: Dashboard) -> None:
        self._client = client
        self._settings = settings
        self.state = State()
        self.history = History()
        self._times: dict[str, list[float]] = {name: [] for name in TIMES}
        self._second = 0
        self._left_out = False  # tasks that have not ended
        self._instances_changed = asyncio.Event()

    async def run(self) -> None:
        """Watch until it is cancelled.

        Raises:
            UnauthenticatedError: The identity is known no more.
        """
        poll_s = self._settings.poll_s
        seldom_s = poll_s * SLOWLY
        asked, changed = self._client, self._instances_changed
        sources = (
            self._kept("identity", self._identify),
            self._kept("host", self._watch_host),
            self._kept("hosts", self._watch_hosts),
            self._kept("tasks", self._watch_tasks),
            self._read("models", asked.list_models, rows.model_row, name="name", pause_s=poll_s, early=changed),
            self._read("leases", self._leases, rows.lease_row, name="lease_id", pause_s=poll_s),
            self._read("quotas", asked.list_quota_uses, rows.quota_row, name="", pause_s=seldom_s),
            self._read(
                "evaluations", asked.list_evaluations, rows.evaluation_row, name="evaluation_id", pause_s=seldom_s
            ),
            self._read("trainings", asked.list_trainings, rows.training_row, name="training_id", pause_s=seldom_s),
            self._read("flagged", self._open_flags, rows.flag_row, name="flag_id", pause_s=seldom_s),
            self._read("pipelines", asked.list_pipeline_runs, rows.pipeline_row, name="run_id", pause_s=seldom_s),
        )
        running = [asyncio.ensure_future(each) for each in sources]
        try:
            await asyncio.gather(*running)
        except UnauthenticatedError as error:
            self.state.fail(error)
            raise
        finally:
            for each in running:
                each.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _kept(self, section: str, work: Callable[[], Awaitable[None]]) -> None:
        """Do it again and again where it fails; a note of the section says why.

        Raises:
            UnauthenticatedError: The identity is known no more.
        """
        while True:
            pause_s = AGAIN_S
            try:
                await work()
            except UnauthenticatedError:
                raise
            except AWAY as error:
                self.state.put(KERNEL, "state", {"away": True, "why": error.message})
            except KernelTooOldError as error:
                self._note(section, "too old", error.message)
                return
            except PermissionDeniedError as error:
                self._deny(section, error.message)
                pause_s = DENIED_S
            except InferdError as error:
                self._note(section, "failed", error.message)
            else:
                return
            await asyncio.sleep(pause_s)

    def _deny(self, section: str, why: str) -> None:
        """It may not be read, or not any more: nothing of it is shown, nor what was told with it before."""
        told_with = TOLD_WITH.get(section, ())
        for each in (section, *told_with):
            self.state.replace(each, {})
        if told_with and self.state.rows(NOTES).get(section, {}).get("kind") != DENIED:
            self.history = History()
            self._times = {name: [] for name in TIMES}
        self._note(section, DENIED, why)

    def _note(self, section: str, kind: str, why: str) -> None:
        self.state.put(NOTES, section, {"kind": kind, "why": why})

    def _well(self, section: str) -> None:
        """What was asked for was told."""
        self.state.drop(NOTES, section)
        self.state.put(KERNEL, "state", {"away": False, "why": ""})

    async def _identify(self) -> None:
        told = await self._client.whoami()
        own = {"name": told.principal.name, "roles": list(told.principal.roles), "tenant": told.tenant}
        self.state.put(KERNEL, "identity", own)

    async def _watch_host(self) -> None:
        """The kernel's own host, its queues, and the instances of all hosts."""
        async with aclosing(self._client.watch_host(interval_s=1.0)) as hosts:
            async for told in hosts:
                self._well("host")
                self.state.put("host", "local", rows.host_row(told.host))
                self.state.replace("loads", rows.load_rows(told.host))
                before = dict(self.state.rows("instances"))
                some = list(told.instances)[: self._settings.rows]
                self.state.replace("instances", {each.instance_id: rows.instance_row(each) for each in some})
                if before != self.state.rows("instances"):
                    self._instances_changed.set()
                self._point(told.host)

    def _point(self, host: Host) -> None:
        """Note the second that has passed."""
        second = int(time.time())
        if second <= self._second:
            return
        self._second = second
        capacity = sum(each.capacity_bytes for each in host.devices)
        free = sum(each.free_bytes for each in host.devices)
        gauges = {
            "tokens_per_second": host.tokens_per_second,
            "running": host.running_tasks,
            "queued": host.queued_tasks,
            "memory_fraction": 1 - free / capacity if capacity else 0.0,
        }
        times, self._times = self._times, {name: [] for name in TIMES}
        point = self.history.add(second, gauges, times)
        self.state.put("clock", "now", {"second": second, "point": point})

    async def _watch_hosts(self) -> None:
        """All hosts."""
        async with aclosing(self._client.watch_hosts(interval_s=1.0)) as told:
            first = True
            async for each in told:
                self._well("hosts")
                if first:
                    self.state.replace("hosts", {})
                    first = False
                for host in each.hosts:
                    if len(self.state.rows("hosts")) < self._settings.rows or host.host_id in self.state.rows("hosts"):
                        self.state.put("hosts", host.host_id, rows.hosts_row(host))
                for host_id in each.gone_host_ids:
                    self.state.drop("hosts", host_id)

    async def _watch_tasks(self) -> None:
        """The tenant's tasks that have not ended, the newest of them, and those that end."""
        listed: list[Task] | None = None
        listed_at = 0.0
        async with aclosing(self._client.watch_tasks(states=LIVING)) as watched:
            async for told in watched:
                self._well("tasks")
                if told.anew:
                    listed, self._left_out = [], False
                if listed is not None:
                    room = self._settings.rows - len(listed)
                    listed += list(told.tasks)[:room]  # the newest come first
                    self._left_out |= len(told.tasks) > room
                    if not told.more:
                        self._show(listed)
                        listed, listed_at = None, time.monotonic()
                    continue
                self._changed(told.tasks)
                for task_id in told.forgotten_task_ids:
                    self.state.drop("tasks", task_id)
                has_room = len(self.state.rows("tasks")) < self._settings.rows * ENOUGH
                if self._left_out and has_room and time.monotonic() - listed_at > self._settings.poll_s * SLOWLY:
                    await self._list_tasks()
                    listed_at = time.monotonic()

    async def _list_tasks(self) -> None:
        """Those that were left out have room again. What ends meanwhile is told behind this."""
        listed: list[Task] = []
        self._left_out = False
        async with aclosing(self._client.list_tasks(states=LIVING)) as tasks:
            async for task in tasks:
                if len(listed) == self._settings.rows:
                    self._left_out = True
                    break
                listed.append(task)
        self._show(listed)

    def _show(self, newest_first: Sequence[Task]) -> None:
        self.state.replace("tasks", {each.task_id: rows.task_row(each) for each in reversed(newest_first)})

    def _changed(self, tasks: Iterable[Task]) -> None:
        for task in tasks:
            if task.state in LIVING:
                self.state.put("tasks", task.task_id, rows.task_row(task))
                self._left_out |= self._trim("tasks", self._settings.rows)
                continue
            self.state.drop("tasks", task.task_id)
            self.state.put("ended", task.task_id, rows.ended_row(task))
            self._trim("ended", ENDED_ROWS)
            for name, value in (("first_token", rows.first_token_s(task)), ("whole", rows.whole_s(task))):
                if value is not None and len(self._times[name]) < self._settings.rows:
                    self._times[name].append(value)

    def _trim(self, section: str, most: int) -> bool:
        """Leave out the oldest row where there are too many; whether there were."""
        found = self.state.rows(section)
        if len(found) <= most:
            return False
        self.state.drop(section, next(iter(found)))
        return True

    def _leases(self) -> AsyncGenerator[Any]:
        return self._client.list_leases(states=HELD)

    def _open_flags(self) -> AsyncGenerator[Any]:
        return self._client.list_flags((FlagState.FLAG_STATE_OPEN,))

    async def _read(
        self,
        section: str,
        listed: Callable[[], AsyncGenerator[Thing]],
        row: Callable[[Thing], Row],
        *,
        name: str,
        pause_s: float,
        early: asyncio.Event | None = None,
    ) -> None:
        """Read a list again and again.

        Args:
            section: Where its rows are put.
            listed: Begins to read it.
            row: Makes a row of a thing.
            name: The field with its id; "" where it has none and its place in the list is its id.
            pause_s: Between two looks.
            early: What has the next look come early.

        Raises:
            UnauthenticatedError: The identity is known no more.
        """
        waits = early or asyncio.Event()

        async def look() -> None:
            while True:
                found: dict[str, Row] = {}
                async with aclosing(listed()) as things:
                    async for thing in things:
                        found[getattr(thing, name) if name else str(len(found))] = row(thing)
                        if len(found) == self._settings.rows:
                            break
                self.state.replace(section, found)
                self._well(section)
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause_s):
                        await waits.wait()
                waits.clear()

        await self._kept(section, look)
