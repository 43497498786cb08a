"""The keys of a store: told, turned over while a kernel serves and while none does, and dropped for good."""

import asyncio
import hashlib
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest
from stores import Stores, held, opened_store
from time_limits import LONG_S
from typer.testing import CliRunner

from inferd.cli.main import app
from inferd.config import Settings
from inferd.runtime.blob_sealing import FilesProgress
from inferd.server import Kernel
from inferd.store.sealing.key_source import MARK
from inferd.store.sealing.sealed import Sealing
from inferd.store.sealing.turning import rotate
from inferd.store.store import Append, DamagedError, Kind, Put, ShreddedError
from inferd.testing.kernel import kernel_here, write_fake_model
from inferd_client import AsyncClient
from inferd_client.errors import (
    BlobDamagedError,
    BlobNotFoundError,
    InvalidFieldError,
    StoreUnavailableError,
    TaskNotFoundError,
)

DEADLINE_S = LONG_S


@pytest.fixture(autouse=True)
def _key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key and folders of their own, for the commands too."""
    monkeypatch.setenv("INFERD_STORE__KEY_FILE", str(tmp_path / "apart" / "key"))
    monkeypatch.setenv("INFERD_DATA_DIR", str(tmp_path / "data"))


def sealing() -> Sealing:
    return Sealing.of(Settings().store_place)


def lines(path: Path) -> list[str]:
    return [line for line in path.read_text().splitlines() if line.startswith(MARK)]


@asynccontextmanager
async def opened(folder: Path, stores: Stores, **more: Any) -> AsyncIterator[tuple[Kernel, AsyncClient]]:
    store = {**stores.settings, "reseal_rows": 1, **more}
    async with (
        kernel_here(folder, data_dir=folder / "data", store=store) as made,
        AsyncClient(made.addresses[0]) as client,
    ):
        yield made, client


@asynccontextmanager
async def kernel(folder: Path, stores: Stores, **more: Any) -> AsyncIterator[AsyncClient]:
    async with opened(folder, stores, **more) as (_, client):
        yield client


async def test_keys_are_turned_over_while_the_kernel_serves(tmp_path: Path, stores: Stores) -> None:
    """New keys seal, what old ones sealed is sealed anew, a new one wraps all, and all is read by the next kernel."""
    key = tmp_path / "apart" / "key"
    async with kernel(tmp_path, stores) as client:
        digest = (await client.put_blob(b"given before")).digest
        before = await client.get_store_keys()
        assert (before.sealing, before.whole, before.resealing) == (True, True, False)
        assert {each.tenant for each in before.tenants} >= {"", "default"}
        made = await client.rotate_store_keys()
        assert made.count == len(before.tenants)
        async with asyncio.timeout(DEADLINE_S):
            while (now := await client.get_store_keys()).resealing:  # noqa: ASYNC110 - of a kernel, which tells no more
                await asyncio.sleep(0)
        assert {each.tenant: each.keys for each in now.tenants} == {"": 1, "default": 1}
        assert not now.HasField("progress")
        wrapped = await client.rotate_store_keys(wrapping=True)
        assert (wrapped.count, len(lines(key))) == (4, 2)
        assert list(wrapped.keys.wrapping) != list(before.wrapping)
        await client.rotate_store_keys(wrapping=True, forget=True)
        assert len(lines(key)) == 1
        with pytest.raises(InvalidFieldError, match="'none' has no key"):
            await client.rotate_store_keys(tenant="none")
        later = (await client.put_blob(b"given later")).digest
    async with kernel(tmp_path, stores) as client:
        for each, said in ((digest, b"given before"), (later, b"given later")):
            assert b"".join([chunk async for chunk in client.read_blob(each)]) == said


async def test_a_kernel_that_keeps_nothing_has_no_keys(tmp_path: Path) -> None:
    """It says so, and makes no file."""
    async with kernel_here(tmp_path) as made, AsyncClient(made.addresses[0]) as client:
        with pytest.raises(StoreUnavailableError, match="keeps nothing"):
            await client.get_store_keys()
    assert not (tmp_path / "apart").exists()


def command(*words: object, fails: bool = False) -> Any:
    result = CliRunner().invoke(app, ["store", "keys", *map(str, words), "-o", "json"])
    assert bool(result.exit_code) == fails, result.output
    return json.loads(result.stdout or "{}") if not fails else result.output


def test_the_command_turns_them_over_and_drops_them(stores: Stores) -> None:
    """While no kernel runs: status, rotate and shred; of a shredded tenant nothing is there, and others have all."""
    with closing(stores.open(sealing=sealing())) as store:
        for tenant in ("one", "two"):
            store.write([Put(tenant, Kind.TASK, "t", b"x"), Append(tenant, Kind.TASK, "t", 1, b"y")])
        before = held(store)
    place = ("--url", stores.settings["url"])
    stands = command("status", *place)
    assert (stands["sealing"], stands["whole"]) == (True, True)
    assert [each["number"] for each in stands["tenants"]] == [0, 1, 1]
    turned = command("rotate", "--tenant", "two", *place)
    assert [(each["number"], each["keys"]) for each in turned["tenants"][1:]] == [(1, 1), (2, 1)]
    assert command("rotate", "--wrapping", *place)["count"] == 4  # that of the audit trail, too, and that of names
    assert "--wrapping" in command("rotate", "--forget", *place, fails=True)
    with closing(stores.open(sealing=sealing())) as store:
        assert {name: value for name, value in held(store).items() if name[0]} == before
    assert "--yes" in command("shred", "one", *place, fails=True)
    assert command("shred", "one", "--yes", *place)["keys"] == 1
    with closing(stores.open(sealing=sealing())) as store:
        left = {name: value for name, value in held(store).items() if name[0]}
        assert left == {name: value for name, value in before.items() if name[0] == "two"}
        store.write([Put("one", Kind.TASK, "new", b"z")])
        assert [record.value for record in store.some(Kind.TASK, [("one", "new")])] == [b"z"]


def test_what_was_sealed_by_keys_that_were_dropped_is_told(stores: Stores) -> None:
    """A row that the shredding has not come to yet is a typed error, and is left out where damaged ones are."""
    with closing(stores.open(sealing=sealing())) as store:
        store.write([Put("one", Kind.TASK, "t", b"x"), Put("two", Kind.TASK, "t", b"y")])
        assert store.keys is not None
        store.keys.shred("one")
        store.write([])
        told: list[tuple[str, DamagedError]] = []
        left = list(store.records(Kind.TASK, lambda tenant, _, error: told.append((tenant, error))))
        assert [(record.tenant, record.value) for record in left] == [("two", b"y")]
        assert [(tenant, type(error), error.metadata) for tenant, error in told] == [
            ("one", ShreddedError, {"cause": "shredded"})
        ]


async def test_blobs_of_before_are_sealed_when_the_kernel_starts(tmp_path: Path, stores: Stores) -> None:
    """Whole ones and one of which half came: nothing of them lies open then, both are there, and a cut goes on."""
    said, half = b"canary of a blob " * 9000, os.urandom(200_000)
    digest = f"sha256:{hashlib.sha256(half).hexdigest()}"
    async with opened(tmp_path, stores, sealing="off") as (made, client):
        whole = (await client.put_blob(said)).digest
        keeper = made.driver.keeper
        assert keeper is not None
        assert keeper.blobs is not None
        async with keeper.blobs.receiving("default", digest.removeprefix("sha256:"), len(half)) as entry:
            await keeper.blobs.add(entry, half[:150_000])
        plain = list((tmp_path / "data" / "blobs").rglob("*/*/??/*"))
        assert len(plain) == 2
        assert any(b"canary" in path.read_bytes() for path in plain)
        with pytest.raises(StoreUnavailableError, match="has no keys"):
            await client.get_store_keys()
    (left,) = [path for path in plain if path.suffix != ".part"]
    left.with_name("0" * 64 + "-s.sealing").write_bytes(b"cut off")  # of a kernel that was killed at it
    async with kernel(tmp_path, stores) as client:
        lying = list((tmp_path / "data" / "blobs").rglob("*/*/??/*"))
        assert sorted(path.suffix for path in lying if path.suffix != ".sealing") == ["", ".part"]
        assert all(path.name.partition(".")[0].endswith("-s") for path in lying)
        assert not [path for path in lying if b"canary" in path.read_bytes()]
        assert b"".join([chunk async for chunk in client.read_blob(whole)]) == said
        assert (await client.get_blob(digest)).received_bytes == 150_000
        assert (await client.put_blob(half)).digest == digest
        assert b"".join([chunk async for chunk in client.read_blob(digest)]) == half
    async with kernel(tmp_path, stores, sealing="off") as client:  # what is sealed is read on
        assert b"".join([chunk async for chunk in client.read_blob(whole)]) == said
        assert (await client.get_store_keys()).sealing is False


def sealing_numbers(folder: Path) -> list[int]:
    """By which keys of its tenant the files of blobs are sealed."""
    lying = [path for path in (folder / "data" / "blobs").rglob("*/*/??/*") if path.is_file()]
    return sorted(int.from_bytes(path.read_bytes()[8:12]) for path in lying)


async def test_files_of_blobs_are_sealed_anew_and_a_cut_goes_on(tmp_path: Path, stores: Stores) -> None:
    """Whole and growing ones, of which one is damaged: it keeps its keys, is told, and hinders no other."""
    said, half = os.urandom(3 << 20), os.urandom(200_000)
    async with opened(tmp_path, stores) as (made, client):
        digest = (await client.put_blob(said)).digest
        keeper = made.driver.keeper
        assert keeper is not None
        assert keeper.blobs is not None
        growing = hashlib.sha256(half).hexdigest()
        async with keeper.blobs.receiving("default", growing, len(half)) as entry:
            await keeper.blobs.add(entry, half[:150_000])
        assert len({*sealing_numbers(tmp_path)}) == 1

        class CutError(Exception):
            """The kernel is killed."""

        def cut(point: str) -> None:
            if point == "resealed":
                raise CutError

        keeper.blobs._files.at_point = cut
        await keeper.read(lambda store: rotate(store, None))
        with pytest.raises(CutError):
            await keeper.blobs.reseal(FilesProgress())
        assert len(sealing_numbers(tmp_path)) == 2, "what was begun is removed"
        assert len({*sealing_numbers(tmp_path)}) == 1
        assert b"".join([chunk async for chunk in client.read_blob(digest)]) == said
    before = sealing_numbers(tmp_path)
    async with kernel(tmp_path, stores) as client:
        await settled(client)
        after = sealing_numbers(tmp_path)
        assert after[0] > before[-1]
        assert (await client.put_blob(half)).digest == f"sha256:{growing}"
        for each, whole in ((digest, said), (f"sha256:{growing}", half)):
            assert b"".join([chunk async for chunk in client.read_blob(each)]) == whole
        assert {each.keys for each in (await client.get_store_keys()).tenants} == {1}
        path = next(p for p in (tmp_path / "data" / "blobs").rglob("*-s") if p.stat().st_size > 1 << 20)
        path.write_bytes(path.read_bytes()[:-1] + b"x")
        await client.rotate_store_keys()
        await settled(client)
        told = {each.tenant: each.keys for each in (await client.get_store_keys()).tenants}
        assert told == {"": 1, "default": 2}
        assert b"".join([chunk async for chunk in client.read_blob(f"sha256:{growing}")]) == half
        with pytest.raises(BlobDamagedError):
            assert [chunk async for chunk in client.read_blob(digest)]


async def settled(client: AsyncClient) -> None:
    """Wait until what older keys sealed is sealed anew."""
    async with asyncio.timeout(DEADLINE_S):
        while (await client.get_store_keys()).resealing:  # noqa: ASYNC110 - of a kernel, which tells no more
            await asyncio.sleep(0)


async def test_a_tenant_is_shredded_while_the_kernel_serves(tmp_path: Path, stores: Stores) -> None:
    """Its tasks end by that, typed; its rows, blobs and flags are gone for this kernel and the next."""
    rules = [{"name": "look", "words": ["la"], "action": "flag", "on": ["output"]}]
    store = {**stores.settings, "reseal_rows": 1}
    settings: Any = {"data_dir": tmp_path / "data", "store": store, "moderation": {"rules": rules}}
    async with kernel_here(tmp_path, **settings) as made, AsyncClient(made.addresses[0]) as client:
        await client.create_model("fake", str(write_fake_model(tmp_path, step_s=0.01)))
        digest = (await client.put_blob(b"to be shredded")).digest
        ended = await client.create_task("fake", "la", max_tokens=2)
        assert [event async for event in client.watch(ended.task_id)]
        running = await client.create_task("fake", "la", max_tokens=900, temperature=0)
        told = []
        async for event in client.watch(running.task_id):
            told.append(event)
            if len(told) == 3:
                gone = await client.shred_tenant("default")
                assert (gone.tasks, gone.blobs, gone.keys) == (2, 1, 2)
        assert "was shredded, and this with it" in told[-1].finished.error.message
        for task_id in (ended.task_id, running.task_id):
            with pytest.raises(TaskNotFoundError):
                await client.get_task(task_id)
        with pytest.raises(BlobNotFoundError):
            await client.get_blob(digest)
        assert not [flag async for flag in client.list_flags()]
        assert not sealing_numbers(tmp_path)
        standing = {each.tenant: each for each in (await client.get_store_keys()).tenants}
        assert standing["default"].shredded
        later = (await client.put_blob(b"of another time")).digest
    async with kernel_here(tmp_path, **settings) as made, AsyncClient(made.addresses[0]) as client:
        assert not [task async for task in client.list_tasks()]
        assert b"".join([chunk async for chunk in client.read_blob(later)]) == b"of another time"


def test_files_that_were_set_aside_unsealed_are_told(tmp_path: Path) -> None:
    """A damaged store of before the sealing, and none of after it; other files are nobody's business."""
    path = tmp_path / "store"
    with closing(opened_store(path, sealing=sealing())) as store:
        store.write([Put("one", Kind.TASK, "t", b"x")])
    sealed = tmp_path / "store.replaced-2026"
    sealed.write_bytes(path.read_bytes())
    for name in ("store.damaged-2026", "store.damaged-2026.txt", "store.other", "other.damaged-2026"):
        (tmp_path / name).write_bytes(b"SQLite format 3\0" + b"plain")
    assert command("status", "--file", path)["unsealed_files"] == [str(tmp_path / "store.damaged-2026")]
