"""Runs of pipelines where two things happen at once: two readers, an end and a cancel, a request twice."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from inferd.core.ids import NO_LEASE, Tenant
from inferd.core.pipeline import PipelineFormat, PipelineState
from inferd.core.priority import Priority
from inferd.errors import LimitExceededError, StoreUnavailableError
from inferd.pipeline_errors import PipelineRunNotFoundError
from inferd.pipeline_settings import Pipelines as Settings
from inferd.runtime.front.pipelines import Pipelines, WantedRun
from inferd.runtime.pipelines.book import READ_JOURNALS
from inferd.services.pipeline_values import PipelineWire
from inferd.store.sqlite import SqliteStore
from inferd.store.store import Append, Store, Write
from inferd_client.pipeline_declarations import declare

PICK = {"steps": [{"name": "p", "branch": [{"value": "{input}"}]}]}
CALLER: Any = SimpleNamespace(tenant=Tenant("t"), lease_id=NO_LEASE)
OTHER: Any = SimpleNamespace(tenant=Tenant("u"), lease_id=NO_LEASE)


class Keeper:
    """A store, used in turns of the loop; while it is not open, writes of whole records wait."""

    def __init__(self, path: Path) -> None:
        self.store, self.forgets, self.blobs = SqliteStore(path), list[Any](), None
        self.open, self.waits = asyncio.Event(), asyncio.Event()
        self.open.set()
        self.away = 0  # times that it cannot be read

    def check(self) -> None:
        """It can be written."""

    async def read(self, reading: Callable[[Store], Any]) -> Any:
        await asyncio.sleep(0)
        if self.away:
            self.away -= 1
            raise StoreUnavailableError("the server is away", metadata={"cause": "connection lost"})
        return reading(self.store)

    async def keep_records(self, records: Sequence[Write]) -> None:
        if not self.open.is_set() and not all(isinstance(each, Append) for each in records):
            self.waits.set()
            await self.open.wait()
        await asyncio.sleep(0)
        self.store.write(records)


@asynccontextmanager
async def front(path: Path, **bounds: Any) -> AsyncIterator[tuple[Pipelines, Keeper]]:
    """Pipelines that are carried out, with a store."""
    keeper, settings = Keeper(path), Settings(**bounds)
    driver: Any = SimpleNamespace(
        keeper=keeper,
        check_open=lambda: None,
        clock=SimpleNamespace(now=lambda: 0.0, wall=lambda instant: 1e9 + instant),
        closing=SimpleNamespace(cut_short=_open),
    )
    tasks: Any = SimpleNamespace(streams=SimpleNamespace(place=lambda _: nullcontext()))
    shelf: Any = None
    rows: Any = None
    limits: Any = SimpleNamespace(pipelines=settings, limits=SimpleNamespace(prompt_bytes=1 << 20))
    made = Pipelines(driver, tasks, shelf, PipelineWire(settings, 1 << 20), limits, rows)
    await made.adopt()
    serving = asyncio.create_task(made.run())
    await asyncio.sleep(0)
    try:
        yield made, keeper
    finally:
        keeper.open.set()
        serving.cancel()
        with suppress(asyncio.CancelledError):
            await serving
        keeper.store.close()


@asynccontextmanager
async def _open() -> AsyncIterator[None]:
    yield


def wanted(request_id: str = "", json: str = '"x"') -> WantedRun:
    return WantedRun(
        written=declare(PICK).SerializeToString(),
        json=json,
        blob="",
        format=PipelineFormat.TEXT,
        request_id=request_id,
        ttl_s=None,
        priority=Priority.NORMAL,
        labels={},
        seed=1,
        fingerprint="f",
        check_only=False,
    )


async def ended(pipelines: Pipelines, run_id: str, caller: Any = CALLER) -> None:
    async with asyncio.timeout(30):
        async for _ in pipelines.watch(run_id, caller, after=0):
            pass


async def test_who_asks_at_once_after_a_restart_is_told_what_follows(tmp_path: Path) -> None:
    """The journal of a run is read once, however many want it at once: all see what is added to it."""
    async with front(tmp_path / "s.db") as (pipelines, _):
        run_id = (await pipelines.create(wanted(), CALLER)).order.run_id
        await ended(pipelines, run_id)
    async with front(tmp_path / "s.db") as (pipelines, _):
        known = pipelines.get(run_id, CALLER)
        first, second = await asyncio.gather(pipelines.journal(known), pipelines.journal(known))
        assert first is second is known.journal


@pytest.mark.parametrize("times", [1, 2])
async def test_a_cancel_while_the_end_is_written_finds_the_end(tmp_path: Path, times: int) -> None:
    """A run that is cancelled while its end is on its way into the store has that end, and its watchers are told."""
    async with front(tmp_path / "s.db") as (pipelines, keeper):
        known = await pipelines.create(wanted(), CALLER)
        keeper.open.clear()
        await keeper.waits.wait()
        cancels = [asyncio.create_task(pipelines.cancel(known.order.run_id, CALLER)) for _ in range(times)]
        await asyncio.sleep(0)
        keeper.open.set()
        await asyncio.gather(*cancels)
        assert known.order.state is PipelineState.SUCCEEDED
        await ended(pipelines, known.order.run_id)


async def test_a_cancel_before_the_journal_is_read_is_kept(tmp_path: Path) -> None:
    """A run that is cancelled before anything of it was done, even read, is CANCELLED, however often that is asked."""
    async with front(tmp_path / "s.db") as (pipelines, _):
        known = await pipelines.create(wanted(), CALLER)
        known.journal = None  # as after a restart
        await asyncio.gather(*(pipelines.cancel(known.order.run_id, CALLER) for _ in range(3)))
        assert known.order.state is PipelineState.CANCELLED
        await ended(pipelines, known.order.run_id)


async def test_one_request_at_once_makes_one_run(tmp_path: Path) -> None:
    """The same request, several times while ended runs give way, makes one run; bounds of places hold for several."""
    async with front(tmp_path / "s.db", runs=2, tenant_running=2) as (pipelines, keeper):
        for _ in range(2):
            await ended(pipelines, (await pipelines.create(wanted(), CALLER)).order.run_id)
        keeper.open.clear()
        making = [asyncio.create_task(pipelines.create(wanted("once"), CALLER)) for _ in range(4)]
        others = [asyncio.create_task(pipelines.create(wanted(), CALLER)) for _ in range(2)]
        await keeper.waits.wait()
        await asyncio.sleep(0)
        keeper.open.set()
        assert len({known.order.run_id for known in await asyncio.gather(*making)}) == 1
        told = await asyncio.gather(*others, return_exceptions=True)
        assert sum(isinstance(each, LimitExceededError) for each in told) == 1


async def test_a_tenant_that_makes_many_runs_loses_its_own(tmp_path: Path) -> None:
    """Where there is no room for more runs that have ended, those of the tenant that has most of them go first."""
    async with front(tmp_path / "s.db", runs=4) as (pipelines, _):
        kept = (await pipelines.create(wanted(), OTHER)).order.run_id
        await ended(pipelines, kept, OTHER)
        for _ in range(6):
            await ended(pipelines, (await pipelines.create(wanted(), CALLER)).order.run_id)
        assert pipelines.get(kept, OTHER).order.state is PipelineState.SUCCEEDED


@pytest.mark.parametrize("told", [False, True], ids=["its journal is to be read", "its journal is at hand"])
async def test_a_run_that_is_deleted_while_it_is_read_is_not_there(tmp_path: Path, *, told: bool) -> None:
    """Who reads what a run, or a step of it, gave, or how it stands, while it is deleted is told that there is none."""
    async with front(tmp_path / "s.db") as (pipelines, _):
        run_id = (await pipelines.create(wanted(), CALLER)).order.run_id
        await ended(pipelines, run_id)
    async with front(tmp_path / "s.db") as (pipelines, _):
        known = pipelines.get(run_id, CALLER)
        if told:
            await pipelines.journal(known)
        deleting = asyncio.create_task(pipelines.delete(run_id, CALLER))
        reads = [pipelines.read(run_id, CALLER, step=step, begin=0) for step in ("", "p")]
        for each in await asyncio.gather(*map(anext, reads), pipelines.journal(known), return_exceptions=True):
            assert isinstance(each, PipelineRunNotFoundError) or (told and each is known.journal), each
        await deleting
        with pytest.raises(PipelineRunNotFoundError):
            await pipelines.delete(run_id, CALLER)


async def test_a_store_that_is_away_holds_a_run_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the store cannot be read for a while a run stands still, and goes on from its journal; it does not fail."""
    monkeypatch.setattr("inferd.runtime.front.pipelines.RETRY_S", 0.0)
    async with front(tmp_path / "s.db") as (pipelines, keeper):
        keeper.away = 3
        known = await pipelines.create(wanted(), CALLER)
        await ended(pipelines, known.order.run_id)
        assert known.order.state is PipelineState.SUCCEEDED
        assert keeper.away == 0


async def test_what_runs_keep_of_their_pipelines_is_bounded(tmp_path: Path) -> None:
    """A pipeline that is too large is refused before it is read; of others the size counts for `pipelines.bytes`."""
    async with front(tmp_path / "s.db", written_bytes=1024) as (pipelines, _):
        with pytest.raises(LimitExceededError, match=r"1025 bytes and pipelines\.written_bytes is 1024"):
            await pipelines.create(replace(wanted(), written=b"x" * 1025), CALLER)
        known = await pipelines.create(wanted(), CALLER)
        await ended(pipelines, known.order.run_id)
        assert known.size_bytes == len(known.order.written) + (await pipelines.journal(known)).size_bytes


async def test_the_graphs_of_runs_that_have_ended_do_not_stay(tmp_path: Path) -> None:
    """A run that has ended has its graph read anew for who reads what it gave; of many only the last stay at hand."""
    async with front(tmp_path / "s.db") as (pipelines, _):
        made = []
        for _ in range(READ_JOURNALS + 2):
            made.append(known := await pipelines.create(wanted(), CALLER))
            await ended(pipelines, known.order.run_id)
        assert [known.parsed for known in made] == [None] * len(made)
        for known in made:
            read = [part async for part in pipelines.read(known.order.run_id, CALLER, step="p", begin=0)]
            assert read == [['"x"']]
        assert sum(known.parsed is not None for known in made) == READ_JOURNALS
    async with front(tmp_path / "s.db") as (pipelines, _):
        known = pipelines.get(made[0].order.run_id, CALLER)
        assert (known.parsed, known.step_names) == (None, ("p",))
