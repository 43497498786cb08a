"""Backups that a kernel makes while it runs, and what goes on from one."""

import asyncio
import json
from contextlib import aclosing
from pathlib import Path
from typing import Any

import grpc
import pytest
from connection import Connection, memory, read_all, read_until, reason_of, text_of
from google.protobuf.duration_pb2 import Duration
from stores import Sqlite, Stores
from test_kept_leases import SIZES
from test_kept_leases import get as get_lease
from test_kept_tasks import _place, get, kernel, wanted, watch  # noqa: F401 - the fixture gives kernels their stores
from time_limits import LONG_S
from typer.testing import CliRunner

from inferd.cli.main import app
from inferd.errors import LimitExceededError, ShuttingDownError
from inferd.runtime.backups import back_up
from inferd.runtime.front import hosts
from inferd.store.store import Append, Kind, Store
from inferd.testing.kernel import front_here
from inferd_api.v1 import host_service_pb2 as hs
from inferd_api.v1 import lease_pb2 as lp
from inferd_api.v1 import lease_service_pb2 as ls


def names(folder: Path) -> set[str]:
    return {each.name for each in folder.iterdir()}


def fill(store: Store) -> None:
    """More than one step of a backup."""
    store.write([Append("a", Kind.TASK, "t", number, bytes(9000)) for number in range(99)])


async def made(connection: Connection, path: Path, **more: Any) -> hs.BackupStoreResponse:
    """The last message of a backup."""
    call = connection.hosts.BackupStore(hs.BackupStoreRequest(path=str(path), **more))
    return [response async for response in call][-1]


async def refused(connection: Connection, path: str, **more: Any) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await made(connection, path, **more)  # type: ignore[arg-type] # what a client may send
    return reason_of(caught.value)[0]


async def lease(connection: Connection, ttl_s: int) -> lp.Lease:
    spec = lp.LeaseSpec(claims=[memory(1 << 30)], ttl=Duration(seconds=ttl_s))
    granted: lp.Lease = (await connection.leases.CreateLease(ls.CreateLeaseRequest(spec=spec))).lease
    return granted


def restore(stores: Stores, backup: Path, *more: str) -> dict[str, Any]:
    place = ["--file", str(stores.path)] if isinstance(stores, Sqlite) else ["--url", stores.settings["url"]]
    result = CliRunner().invoke(app, ["store", "restore", str(backup), *place, *more, "-o", "json"])
    assert result.exit_code == 0, result.output
    told: dict[str, Any] = json.loads(result.stdout)
    return told


async def test_what_was_under_way_at_a_backup_goes_on_from_it(stores: Stores, tmp_path: Path) -> None:
    """A running and a waiting task end as undisturbed; tokens rise above all given since, each time it is restored.

    What was acknowledged after the backup is not known; a lease is held with its token for what is left of its time.
    """
    async with kernel(tmp_path, devices=SIZES) as connection:
        await connection.create(max_sequences=1, step_s=0.04)
        running, waiting = [(await connection.tasks.CreateTask(wanted(tokens))).task.task_id for tokens in (50, 4)]
        held = await lease(connection, 1000)
        await read_until(watch(connection, running), "output")
        short = await lease(connection, 2)
        told = (await made(connection, tmp_path / "b")).backup
        assert (told.path, told.size_bytes) == (str(tmp_path / "b"), (tmp_path / "b").stat().st_size)
        later = (await connection.tasks.CreateTask(wanted(5, request_id="again"))).task.task_id
        tokens = [held.fencing_token, (await lease(connection, 1000)).fencing_token]
        await asyncio.wait_for(_ended(connection, short.lease_id), LONG_S)
    for time in range(2):
        answer = restore(stores, tmp_path / "b")
        assert (answer["unfinished_tasks"], answer["leases"], answer["leases_over"]) == (2, 2, 1)
        assert answer["aside"]
        async with kernel(tmp_path, devices=SIZES) as connection:
            kept = await get_lease(connection, held.lease_id)
            assert (kept.state, kept.fencing_token) == (lp.LEASE_STATE_ACTIVE, held.fencing_token)
            tokens.append((await lease(connection, 1000)).fencing_token)
            assert tokens == sorted(set(tokens))
            with pytest.raises(grpc.aio.AioRpcError):
                await get(connection, later)
            for task_id, words in ((running, 25), (waiting, 2)) if time else ():
                assert text_of(await read_all(watch(connection, task_id))) == "la" * words


async def _ended(connection: Connection, lease_id: str) -> None:
    call = connection.leases.WatchLease(ls.WatchLeaseRequest(lease_id=lease_id))
    async for response in call:
        if response.lease.state not in {lp.LEASE_STATE_ACTIVE, lp.LEASE_STATE_PENDING}:
            return


async def test_the_kernel_keeps_on_keeping_during_a_backup(stores: Stores, tmp_path: Path) -> None:
    """Between two steps of a backup a task is acknowledged and runs to its end; the copy is as of one instant."""
    async with kernel(tmp_path, store={"backup_step_s": 1e-6}) as connection:
        await connection.create()
        keeper = connection.kernel.driver.keeper
        assert keeper is not None
        await keeper.read(fill)
        steps = back_up(keeper, str(tmp_path / "b"), replaces=False, step_s=1e-6)
        async with aclosing(steps):
            assert (await anext(steps)).made is None
            task = (await connection.tasks.CreateTask(wanted())).task
            assert text_of(await read_all(watch(connection, task.task_id))) == "la" * 10
            rest = [step async for step in steps]
        assert [step.made is not None for step in rest] == [False] * (len(rest) - 1) + [True]
    told = restore(stores, tmp_path / "b")
    assert told["tasks"] == (1 if isinstance(stores, Sqlite) else 0)


async def test_a_backup_that_is_not_to_be_is_refused_by_name(stores: Stores, tmp_path: Path) -> None:
    """A path that is not one, a file that is there; who keeps nothing has nothing to back up."""
    async with kernel(tmp_path, store={"backup_step_s": 1e-6}) as connection:
        (tmp_path / "mine").write_text("mine")
        for path, more in (("b", {}), (f"{tmp_path}/mine", {}), (f"{tmp_path}/mine", {"replace": True}), ("/no/b", {})):
            assert await refused(connection, path, **more) == "INVALID_FIELD"
        assert await refused(connection, "") == "INVALID_FIELD"
        assert await refused(connection, "/proc/b") == "STORE_UNAVAILABLE"
        assert (tmp_path / "mine").read_text() == "mine"
        await made(connection, tmp_path / "b")
        assert await refused(connection, str(tmp_path / "b")) == "INVALID_FIELD"
        await made(connection, tmp_path / "b", replace=True)
    del stores
    async with kernel(tmp_path, store={"url": "memory:"}) as connection:
        assert await refused(connection, str(tmp_path / "c")) == "STORE_UNAVAILABLE"
    assert ".mine.inferd-partial" not in names(tmp_path)


async def test_a_backup_that_is_cut_off_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its client goes, or the kernel ends: no part of a file is left. A second one meanwhile is refused."""
    monkeypatch.setattr(hosts, "BACKUP_GAP_S", 0.0)
    store = {"url": f"sqlite:{tmp_path}/kept/store", "backup_step_s": 1e-6}
    async with front_here(tmp_path, store=store) as front:
        keeper = front.hosts._driver.keeper
        assert keeper is not None
        await keeper.read(fill)
        for end in ("client", "kernel"):
            steps = front.hosts.back_up(str(tmp_path / "b"), replaces=False)
            assert (await anext(steps)).made is None
            assert ".b.inferd-partial" in names(tmp_path)
            with pytest.raises(LimitExceededError, match=r"store\.backups is 1"):
                await anext(front.hosts.back_up(str(tmp_path / "c"), replaces=False))
            if end == "client":
                await steps.aclose()
            else:
                front.hosts._driver.closing.close()
                with pytest.raises(ShuttingDownError):
                    await anext(steps)
            assert not {"b", "c", ".b.inferd-partial", ".c.inferd-partial"} & names(tmp_path)
