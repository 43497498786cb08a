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
from stores import Stores, held
from typer.testing import CliRunner

from inferd.cli.main import app
from inferd.config import Settings
from inferd.server import Kernel
from inferd.store.sealing.key_source import MARK
from inferd.store.sealing.sealed import Sealing
from inferd.store.store import Append, DamagedError, Kind, Put, ShreddedError
from inferd.testing.kernel import kernel_here
from inferd_client import AsyncClient
from inferd_client.errors import InvalidFieldError, StoreUnavailableError

DEADLINE_S = 30.0


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
        assert {each.tenant: each.keys for each in now.tenants} == {
            "": 1,
            "default": 2,
        }  # whose blobs have the older one
        wrapped = await client.rotate_store_keys(wrapping=True)
        assert (wrapped.count, len(lines(key))) == (5, 2)
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
        assert sorted(path.name.partition("-s")[2] for path in lying if path.suffix != ".sealing") == ["", ".part"]
        assert not [path for path in lying if b"canary" in path.read_bytes()]
        assert b"".join([chunk async for chunk in client.read_blob(whole)]) == said
        assert (await client.get_blob(digest)).received_bytes == 150_000
        assert (await client.put_blob(half)).digest == digest
        assert b"".join([chunk async for chunk in client.read_blob(digest)]) == half
    async with kernel(tmp_path, stores, sealing="off") as client:  # what is sealed is read on
        assert b"".join([chunk async for chunk in client.read_blob(whole)]) == said
        assert (await client.get_store_keys()).sealing is False
