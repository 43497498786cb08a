"""A kernel that leads no more removes no blob of the one that follows it, wherever it was stopped."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from postgres_server import PostgresServer
from stores import Postgres
from time_limits import LONG_S

from inferd.blob_settings import Blobs as BlobSettings
from inferd.errors import StoreUnavailableError, present
from inferd.runtime.blobs import Blobs
from inferd.store.arrival import Arrival
from inferd.store.blob_files import BlobFiles
from inferd.store.blob_parts import writing
from inferd.store.postgres import PostgresStore
from inferd.store.store import Store

DATA = bytes(range(256)) * 4096 + b"the end"  # a piece and some bytes
CHUNK = 64 << 10  # that is sealed as one
DIGEST = sha256(DATA).hexdigest()


@pytest.fixture
def stores(postgres: PostgresServer, database: str) -> Postgres:
    """The store of both kernels."""
    return Postgres(postgres, database)


async def give(blobs: Blobs) -> None:
    async with blobs.receiving("t", DIGEST, len(DATA)) as entry:
        while not entry.complete:
            await blobs.add(entry, DATA[entry.received_bytes :])
        await blobs.finish(entry)


async def read(blobs: Blobs) -> bytes:
    return b"".join([piece async for piece in blobs.pieces("t", DIGEST)])


def files(folder: Path) -> list[Path]:
    return [path for path in (folder / "blobs").rglob("*") if path.is_file() and not path.name.startswith("inferd-")]


def let_go(store: PostgresStore) -> None:
    """Have the server end the session of a store, as a kernel that stands by does."""
    with store._server.connect_aside() as other:
        other.execute("SELECT pg_terminate_backend(%s, 10000)", (present(store._session).info.backend_pid,))


class Leader:
    """A kernel that leads, as far as its blobs go."""

    def __init__(self, stores: Postgres, folder: Path) -> None:
        self.store: PostgresStore = stores.open()
        self.store.lead()
        self.blobs = Blobs(folder / "blobs", self._rows, BlobSettings(), wall=lambda: 1000.0)

    async def _rows(self, do: Callable[[Store], Any]) -> Any:
        return do(self.store)


@asynccontextmanager
async def leader(stores: Postgres, folder: Path) -> AsyncIterator[Leader]:
    made = Leader(stores, folder)
    try:
        await made.blobs.read()
        yield made
        made.blobs.close()
    finally:
        made.store.close()


REMOVALS: dict[str, Callable[[Blobs], Awaitable[object]]] = {
    "delete": lambda blobs: blobs.remove("t", DIGEST),
    "shred": lambda blobs: blobs.shred("t"),
    "sweep": lambda blobs: blobs._sweep_files(),
}


STOPS = [("delete", "before"), ("delete", "amid"), ("delete", "behind"), ("shred", "amid"), ("sweep", "amid")]


@pytest.mark.parametrize(("how", "where"), STOPS)
async def test_a_late_remover_takes_nothing_from_its_follower(
    tmp_path: Path, stores: Postgres, monkeypatch: pytest.MonkeyPatch, how: str, where: str
) -> None:
    """Stopped before it looks, between its look and the removal, or behind that: what was acknowledged is there."""
    async with leader(stores, tmp_path) as old:
        await give(old.blobs)
        if how == "sweep":  # for it the file is left over
            await old.blobs._write([])
            old.blobs._forget(old.blobs._book.find("t", DIGEST))
        stopped, goes_on = asyncio.Event(), asyncio.Event()

        async def stop() -> None:
            stopped.set()
            await goes_on.wait()

        _stop_at(where, old, stop, monkeypatch)
        removing = asyncio.ensure_future(REMOVALS[how](old.blobs))
        async with asyncio.timeout(LONG_S):
            await stopped.wait()
            let_go(old.store)
            async with leader(stores, tmp_path) as new:
                monkeypatch.undo()
                await give(new.blobs)
                goes_on.set()
                with suppress(StoreUnavailableError):
                    await removing
                assert await read(new.blobs) == DATA
                await new.blobs._sweep_files()
                await new.blobs._sweep_rows()
                assert await read(new.blobs) == DATA
                assert len(files(tmp_path)) == 1


def _stop_at(where: str, old: Leader, stop: Callable[[], Awaitable[None]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a leader be stopped at its first removal of a file."""
    removing = old.blobs._removing
    check, do = removing.check, removing._do

    async def before() -> None:
        await stop()
        await check()

    async def amid(what: Callable[..., Any], *values: Any) -> Any:
        if getattr(what, "__name__", "") == "set_aside" and values[0]:
            await stop()
        return await do(what, *values)

    async def behind(what: Callable[..., Any], *values: Any) -> Any:
        done = await do(what, *values)
        if getattr(what, "__name__", "") == "set_aside" and values[0]:
            await stop()
        return done

    if where == "before":
        monkeypatch.setattr(removing, "check", before)
    else:
        monkeypatch.setattr(removing, "_do", amid if where == "amid" else behind)


async def test_what_a_former_leader_could_not_put_back_is_found(tmp_path: Path, stores: Postgres) -> None:
    """One that was killed between both leaves a blob under another name: it is read, and stays."""
    for again in ("read", "start"):
        async with leader(stores, tmp_path) as kernel:
            await give(kernel.blobs)
            (path,) = files(tmp_path)
            other = BlobFiles(kernel.blobs._files.folder, keys=kernel.store.keys)
            assert other.set_aside([path]) != [path]
            if again == "read":
                assert await read(kernel.blobs) == DATA
                continue
            await kernel.blobs._sweep_files()
            await kernel.blobs._sweep_rows()
            assert files(tmp_path) == [path]


@pytest.mark.parametrize("begun", [0, 2 * CHUNK])
async def test_a_late_piece_cuts_off_nothing(tmp_path: Path, stores: Postgres, begun: int) -> None:
    """A kernel that was stopped before it wrote bytes of an upload writes none into what its follower goes on with."""
    async with leader(stores, tmp_path) as old, old.blobs.receiving("t", DIGEST, len(DATA)) as late:
        if begun:
            await old.blobs.add(late, DATA[:begun])
        let_go(old.store)
        async with leader(stores, tmp_path) as new, new.blobs.receiving("t", DIGEST, len(DATA)) as entry:
            assert entry.received_bytes == begun
            await new.blobs.add(entry, DATA[begun : 6 * CHUNK])
            with suppress(StoreUnavailableError):
                await old.blobs.add(late, DATA[begun : begun + CHUNK])
            await new.blobs.add(entry, DATA[6 * CHUNK :])
            await new.blobs.finish(entry)
            assert await read(new.blobs) == DATA
            assert len(files(tmp_path)) == 1


async def test_a_part_that_is_being_written_is_not_taken_up(tmp_path: Path, stores: Postgres) -> None:
    """A kernel that was stopped amid a write has the file open: its follower begins the upload anew, in another one."""
    async with leader(stores, tmp_path) as old, old.blobs.receiving("t", DIGEST, len(DATA)) as late:
        await old.blobs.add(late, DATA[: 2 * CHUNK])
        (part,) = files(tmp_path)
        with writing(part) as file:
            let_go(old.store)
            async with leader(stores, tmp_path) as new:
                await give(new.blobs)
                os.ftruncate(file, 0)
                assert await read(new.blobs) == DATA
                assert len(files(tmp_path)) == 1


async def test_what_was_acknowledged_is_found_where_a_former_leader_takes_it_up(
    tmp_path: Path, stores: Postgres
) -> None:
    """One that was stopped when it was to look what has come of an upload takes a whole blob: it is read, and stays."""
    async with leader(stores, tmp_path) as new:
        late = BlobFiles(new.blobs._files.folder, keys=new.store.keys)
        for again in (lambda: read(new.blobs), new.blobs._sweep_rows):
            await give(new.blobs)
            assert Arrival(late, "t", DIGEST).take_up(len(DATA))
            assert [path.suffix for path in files(tmp_path)] == [".part"]
            await again()
            assert await read(new.blobs) == DATA


async def test_what_another_kernel_took_is_gone_on_with(tmp_path: Path, stores: Postgres) -> None:
    """Where a late kernel takes up the upload of its follower one write fails, and the next call goes on behind it."""
    async with leader(stores, tmp_path) as new:
        late = BlobFiles(new.blobs._files.folder, keys=new.store.keys)
        async with new.blobs.receiving("t", DIGEST, len(DATA)) as entry:
            await new.blobs.add(entry, DATA[: 2 * CHUNK])
            assert Arrival(late, "t", DIGEST).take_up(len(DATA))
            with pytest.raises(StoreUnavailableError, match="another kernel has it; give it again"):
                await new.blobs.add(entry, DATA[2 * CHUNK :])
        async with new.blobs.receiving("t", DIGEST, len(DATA)) as entry:
            assert entry.received_bytes == 2 * CHUNK
        await give(new.blobs)
        assert await read(new.blobs) == DATA


async def test_two_kernels_that_seal_a_blob_anew_damage_nothing(tmp_path: Path, stores: Postgres) -> None:
    """One that was stopped amid a rotation writes, and removes, no file into which its follower seals the blob."""
    async with leader(stores, tmp_path) as kernel:
        await give(kernel.blobs)
        kernel.store.keys.rotate("t")
        kernel.store.write([])
        folder = kernel.blobs._files.folder
        old, new = (BlobFiles(folder, keys=kernel.store.keys).resealing("t", DIGEST, whole=True) for _ in range(2))
        for steps, count in ((old, 2), (new, 3)):
            for _ in range(count):
                next(steps)
        next(old)
        old.close()
        assert [*new] != []
        assert await read(kernel.blobs) == DATA
        assert len(files(tmp_path)) == 1


async def test_the_last_step_of_a_rotation_that_is_late_puts_nothing_back(tmp_path: Path, stores: Postgres) -> None:
    """Where another kernel has sealed a blob by a newer key meanwhile, its file stays."""
    async with leader(stores, tmp_path) as kernel:
        await give(kernel.blobs)
        keys, folder = present(kernel.store.keys), kernel.blobs._files.folder
        late, new = (BlobFiles(folder, keys=keys) for _ in range(2))

        def follow(point: str) -> None:
            if point == "resealed":
                keys.rotate("t")
                assert [*new.resealing("t", DIGEST, whole=True)]

        keys.rotate("t")
        late.at_point = follow
        assert [*late.resealing("t", DIGEST, whole=True)]
        assert await read(kernel.blobs) == DATA
        assert not [*new.resealing("t", DIGEST, whole=True)][1:], "it is sealed by the newest key"


async def test_a_blob_that_is_given_anew_as_it_goes_is_whole(
    tmp_path: Path, stores: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given behind its row's end, before its file is set aside: the file is this one's then, and does not go."""
    async with leader(stores, tmp_path) as kernel:
        await give(kernel.blobs)
        check, calls = kernel.blobs._removing.check, list[None]()

        async def given_meanwhile() -> None:
            calls.append(None)
            await check()
            if len(calls) == 1:
                await give(kernel.blobs)

        monkeypatch.setattr(kernel.blobs._removing, "check", given_meanwhile)
        await kernel.blobs.remove("t", DIGEST)
        assert await read(kernel.blobs) == DATA


async def test_bytes_that_go_on_behind_others_make_no_new_file(tmp_path: Path, stores: Postgres) -> None:
    """An upload whose file was taken away fails, and is not acknowledged with a hole in it."""
    async with leader(stores, tmp_path) as kernel:
        for at in (4, len(DATA)):
            async with kernel.blobs.receiving("t", DIGEST, len(DATA)) as entry:
                await kernel.blobs.add(entry, DATA[:at])
                kernel.blobs._files.remove(files(tmp_path))
                with pytest.raises(StoreUnavailableError):
                    await (kernel.blobs.add(entry, DATA[at:]) if at < len(DATA) else kernel.blobs.finish(entry))
                assert entry.arrival is not None
                assert entry.arrival.gone
                entry.received_bytes = 0
