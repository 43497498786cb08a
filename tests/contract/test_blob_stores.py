"""What every store does with blobs: rows in it, and files in a folder beside it."""

import asyncio
import errno
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import blob_child
import pytest
from stores import Stores

from inferd.blob_settings import Blobs as BlobSettings
from inferd.core.blob import BlobState
from inferd.errors import (
    BlobDamagedError,
    BlobHeldError,
    BlobNotFoundError,
    InferdError,
    InvalidFieldError,
    LimitExceededError,
    StoreUnavailableError,
)
from inferd.runtime.blobs import Blobs
from inferd.runtime.failpoints import BLOB_POINTS
from inferd.store.store import Kind, Store

MIB = 1 << 20
NOTHING = {"blob.dropped", "blob.removed"}
DATA = bytes(range(256)) * 4096 * 2 + b"the end"  # two pieces and some bytes
DIGEST = sha256(DATA).hexdigest()


class Clock:
    """A time that is set."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def opened(
    stores: Stores, folder: Path, *, clock: Callable[[], float] | None = None, **bounds: Any
) -> AsyncIterator[tuple[Blobs, Store]]:
    """Blobs with a store, as the kernel after the one before has them."""
    store = stores.open()
    try:

        async def rows(do: Callable[[Store], Any]) -> Any:
            return do(store)

        blobs = Blobs(folder / "blobs", rows, BlobSettings(**bounds), wall=clock or Clock())
        await blobs.read()
        yield blobs, store
        blobs.close()
    finally:
        store.close()


async def give(blobs: Blobs, data: bytes, tenant: str = "t") -> str:
    digest = sha256(data).hexdigest()
    async with blobs.receiving(tenant, digest, len(data)) as entry:
        while not entry.complete:
            await blobs.add(entry, data[entry.received_bytes :][:MIB])
        await blobs.finish(entry)
    return digest


async def read(blobs: Blobs, digest: str = DIGEST, tenant: str = "t", **part: int) -> bytes:
    return b"".join([piece async for piece in blobs.pieces(tenant, digest, **part)])


async def read_failing(blobs: Blobs) -> tuple[bytes, InferdError]:
    """What is told of the blob until an error, and that."""
    got = b""
    try:
        async for piece in blobs.pieces("t", DIGEST):
            got += piece
    except (BlobDamagedError, StoreUnavailableError) as error:
        return got, error
    raise AssertionError("all of it was told")


def files(folder: Path) -> list[Path]:
    return [path for path in (folder / "blobs").rglob("*") if path.is_file() and not path.name.startswith("inferd-")]


async def swept(blobs: Blobs) -> None:
    await blobs._sweep_files()
    await blobs._sweep_rows()


async def test_what_was_given_is_read_also_by_the_kernel_after_this_one(tmp_path: Path, stores: Stores) -> None:
    """Every part of a blob is what was given, and nobody but the user may read its file or its folder."""
    async with opened(stores, tmp_path) as (blobs, _):
        assert await give(blobs, DATA) == DIGEST
        assert await read(blobs) == DATA
    async with opened(stores, tmp_path) as (blobs, _):
        await swept(blobs)
        assert blobs.get("t", DIGEST).state is BlobState.WHOLE
        for start, size_bytes in ((0, 1), (MIB - 1, 2), (2 * MIB, 7), (5, 2 * MIB), (len(DATA), 0)):
            assert await read(blobs, start=start, size_bytes=size_bytes) == DATA[start : start + size_bytes]
        with pytest.raises(InvalidFieldError, match=f"to {len(DATA) + 1} are asked for and the blob ends at"):
            await read(blobs, start=1, size_bytes=len(DATA))
    (file,) = files(tmp_path)
    assert file.name.endswith("-s")
    assert DIGEST not in str(file)
    content = file.read_bytes()
    assert not [at for at in range(0, MIB, 65536) if DATA[at : at + 16] in content]
    assert file.stat().st_mode & 0o777 == 0o600
    assert {parent.stat().st_mode & 0o777 for parent in list(file.parents)[:3]} == {0o700}


async def test_an_upload_goes_on_where_it_stopped(tmp_path: Path, stores: Stores) -> None:
    """What came of a blob is there after the call that gave it and after the kernel, to the byte."""
    for come in (MIB + 3, 2 * MIB):
        async with opened(stores, tmp_path) as (blobs, _), blobs.receiving("t", DIGEST, len(DATA)) as entry:
            await blobs.add(entry, DATA[entry.received_bytes : come])
    async with opened(stores, tmp_path) as (blobs, _):
        blob = blobs.get("t", DIGEST)
        assert (blob.state, blob.received_bytes) == (BlobState.PARTIAL, 2 * MIB)
        with pytest.raises(BlobNotFoundError, match=f"has {2 * MIB} of {len(DATA)} bytes yet"):
            await read(blobs)
        await give(blobs, DATA)
        assert await read(blobs) == DATA
    assert len(files(tmp_path)) == 1


async def test_two_calls_give_one_blob_one_after_the_other(tmp_path: Path, stores: Stores) -> None:
    """The second waits for the first, and finds what that has given."""
    async with opened(stores, tmp_path) as (blobs, _):
        async with blobs.receiving("t", DIGEST, len(DATA)) as entry:
            second = asyncio.create_task(give(blobs, DATA))
            await blobs.add(entry, DATA[:MIB])
            assert not second.done()
        assert await second == DIGEST
        assert await read(blobs) == DATA


async def test_other_bytes_than_were_announced_are_no_blob(tmp_path: Path, stores: Stores) -> None:
    """Bytes of another digest are forgotten, and too many, none, or of another size are refused with both numbers."""
    async with opened(stores, tmp_path) as (blobs, store):
        async with blobs.receiving("t", DIGEST, 5) as entry:
            with pytest.raises(InvalidFieldError, match="a chunk of 6 bytes comes behind 0 of the 5"):
                await blobs.add(entry, b"123456")
            await blobs.add(entry, b"12345")
            with pytest.raises(InvalidFieldError, match=r"size_bytes is 6 and was 5"):
                async with blobs.receiving("t", DIGEST, 6):
                    pass
            with pytest.raises(InvalidFieldError, match=f"have digest sha256:{sha256(b'12345').hexdigest()}"):
                await blobs.finish(entry)
        with pytest.raises(InvalidFieldError, match="size_bytes is 0; it must be 1"):
            async with blobs.receiving("t", DIGEST, 0):
                pass
        assert files(tmp_path) == []
        assert [list(store.records(kind)) for kind in (Kind.BLOB, Kind.UPLOAD)] == [[], []]
        await give(blobs, DATA)
        assert await read(blobs) == DATA


async def test_tenants_have_nothing_in_common(tmp_path: Path, stores: Stores) -> None:
    """Who gives what another tenant has gives all of it, into a file of its own; neither sees the other's."""
    async with opened(stores, tmp_path) as (blobs, _):
        await give(blobs, DATA, "one")
        for ask in (blobs.get, blobs.hold):
            with pytest.raises(BlobNotFoundError):
                ask("two", DIGEST, *(["x"] if ask == blobs.hold else []))  # type: ignore[operator]
        async with blobs.receiving("two", DIGEST, len(DATA)) as entry:
            assert entry.received_bytes == 0
        await give(blobs, DATA, "two")
        assert len(files(tmp_path)) == 2
        await blobs.remove("one", DIGEST)
        assert [page.digest for page in blobs.list("two", after=None, size=5).records] == [DIGEST]
        assert blobs.list("one", after=None, size=5).records == []
        assert await read(blobs, tenant="two") == DATA


@pytest.mark.parametrize(
    ("bound", "held", "limit"),
    [("tenant_bytes", 5, 7), ("all_bytes", 5, 7), ("tenant_count", 1, 1), ("all_count", 1, 1), ("blob_bytes", 0, 2)],
)
async def test_bounds_name_themselves_and_both_numbers(
    tmp_path: Path, stores: Stores, bound: str, held: int, limit: int
) -> None:
    """A blob beyond a bound is refused before its first byte, and there is room again when another one goes."""
    async with opened(stores, tmp_path) as (blobs, _):
        first = await give(blobs, b"first")
    async with opened(stores, tmp_path, **{bound: limit}) as (blobs, _):
        with pytest.raises(LimitExceededError, match=f"and blobs.{bound} is {limit}") as caught:
            await give(blobs, b"two")
        facts = caught.value.metadata
        assert (facts["bound"], facts["held"], facts["limit"]) == (f"blobs.{bound}", str(held), str(limit))
        await blobs.remove("t", first)
        if bound != "blob_bytes":
            await give(blobs, b"two")


async def test_a_tenant_leaves_room_for_the_blobs_of_others(tmp_path: Path, stores: Stores) -> None:
    """Whatever a tenant announces, it has no more than its share of the bytes and the blobs that are left."""
    async with opened(stores, tmp_path, all_bytes=10) as (blobs, _):
        await give(blobs, b"8 bytes.", "one")
        wanted = r"10 of blobs.all_bytes, and may have 4 times the 0 that are left \(blobs.tenant_share\)"
        with pytest.raises(LimitExceededError, match=wanted) as caught:
            await give(blobs, b"no", "one")
        assert caught.value.metadata == {"bound": "blobs.tenant_share", "value": "10", "free": "0"}
        await give(blobs, b"2", "two")
    async with opened(stores, tmp_path, all_count=3, tenant_share=1) as (blobs, _):
        with pytest.raises(LimitExceededError, match=r"2 of blobs.all_count, and may have 1 times the 1 that"):
            await give(blobs, b"more", "one")
        await give(blobs, b"more", "three")


async def test_what_was_announced_and_never_came_is_forgotten_with_its_call(tmp_path: Path, stores: Stores) -> None:
    """A call that ends without a byte leaves no blob, no file and no row; while another one gives it, it stays."""
    async with opened(stores, tmp_path) as (blobs, _):
        async with blobs.receiving("t", DIGEST, len(DATA)):
            other = asyncio.create_task(give(blobs, DATA))
            await asyncio.sleep(0)  # it waits for the lock now
        await other
        assert await read(blobs) == DATA
        await blobs.remove("t", DIGEST)
        async with blobs.receiving("t", DIGEST, len(DATA)):
            assert blobs.get("t", DIGEST).received_bytes == 0
        with pytest.raises(BlobNotFoundError):
            blobs.get("t", DIGEST)
        assert files(tmp_path) == []
    async with opened(stores, tmp_path) as (blobs, _):
        assert blobs.list("t", after=None, size=5).records == []


async def test_what_is_held_stays(tmp_path: Path, stores: Stores) -> None:
    """A blob that someone holds is neither removed nor swept, until all have let go; then its time counts."""
    clock = Clock()
    async with opened(stores, tmp_path, clock=clock, retention_s=10) as (blobs, _):
        await give(blobs, DATA)
        for holder in ("task a", "task b", "task a"):
            blobs.hold("t", DIGEST, holder)
        clock.now += 11
        await blobs.sweep()
        with pytest.raises(BlobHeldError, match="is held by task a, task b"):
            await blobs.remove("t", DIGEST)
        for holder in ("task a", "task b", "task a"):
            assert blobs.get("t", DIGEST).holders
            blobs.let_go("t", DIGEST, holder)
        await blobs.sweep()
        assert blobs.get("t", DIGEST).holders == ()
        clock.now += 11
        await blobs.sweep()
        with pytest.raises(BlobNotFoundError):
            blobs.get("t", DIGEST)
    assert files(tmp_path) == []


async def test_abandoned_and_unused_ones_go_by_their_settings(tmp_path: Path, stores: Stores) -> None:
    """One of which nothing comes goes after `upload_s`, a whole one after `retention_s`, both counted over restarts."""
    clock, bounds = Clock(), {"upload_s": 10, "retention_s": 4000}
    async with opened(stores, tmp_path, clock=clock, **bounds) as (blobs, _):
        await give(blobs, DATA)
        async with blobs.receiving("t", "0" * 64, 2) as entry:
            await blobs.add(entry, b"1")
    clock.now += 3700
    async with opened(stores, tmp_path, clock=clock, **bounds) as (blobs, _):
        await blobs.sweep()
        assert [blob.digest for blob in blobs.list("t", after=None, size=9).records] == [DIGEST]
        assert await read(blobs) == DATA  # which is use of it
        await blobs.sweep()
    clock.now += 3700
    async with opened(stores, tmp_path, clock=clock, **bounds) as (blobs, store):
        await blobs.sweep()
        assert await read(blobs) == DATA
        clock.now += 4001
        await blobs.sweep()
        assert list(store.records(Kind.BLOB)) == []
    assert files(tmp_path) == []


async def test_room_for_what_does_not_come_is_given_to_others(tmp_path: Path, stores: Stores) -> None:
    """A blob of which one byte came keeps its room for `room_s`, also over a restart; to go on it needs room anew."""
    clock, bounds = Clock(), {"room_s": 10, "tenant_bytes": len(DATA) + 1}
    async with opened(stores, tmp_path, clock=clock, **bounds) as (blobs, _):
        async with blobs.receiving("t", "0" * 64, len(DATA)) as entry:
            await blobs.add(entry, b"1")
        clock.now += 9
        await blobs.sweep()
        with pytest.raises(LimitExceededError, match=r"blobs\.tenant_bytes"):
            await give(blobs, DATA)
    clock.now += 2
    async with opened(stores, tmp_path, clock=clock, **bounds) as (blobs, _):
        await blobs.sweep()
        await give(blobs, DATA)
        with pytest.raises(LimitExceededError, match=f"{len(DATA)} and the {len(DATA)} that there are"):
            async with blobs.receiving("t", "0" * 64, len(DATA)):
                pass
        assert blobs.get("t", "0" * 64).size_bytes == len(DATA)
        await blobs.remove("t", DIGEST)
        async with blobs.receiving("t", "0" * 64, len(DATA)) as entry:
            assert entry.received_bytes == 1
            await blobs.sweep()
        with pytest.raises(LimitExceededError, match=r"blobs\.tenant_bytes"):
            await give(blobs, DATA)
        clock.now += 11
        await blobs.sweep()
        await blobs.remove("t", "0" * 64)
        await give(blobs, DATA)


@pytest.mark.parametrize("how", ["changed", "short", "gone", "link"])
async def test_what_is_damaged_is_never_told(tmp_path: Path, stores: Stores, how: str) -> None:
    """Of a file that was changed, cut, removed or replaced no wrong byte is told; the pieces before are."""
    async with opened(stores, tmp_path) as (blobs, _):
        await give(blobs, DATA)
        (file,) = files(tmp_path)
        match how:
            case "changed":
                with file.open("r+b") as damaged:
                    damaged.seek(MIB + 9000)  # as each chunk takes some more
                    damaged.write(b"\xff")
            case "short":
                os.truncate(file, MIB + 9000)
            case "gone":
                file.unlink()
            case "link":
                file.rename(tmp_path / "elsewhere")
                file.symlink_to(tmp_path / "elsewhere")
        got, error = await read_failing(blobs)
        assert got == (DATA[:MIB] if how in {"changed", "short"} else b"")
        assert DIGEST in error.message or how == "link"
        if how == "gone":
            await swept(blobs)
            with pytest.raises(BlobNotFoundError):
                blobs.get("t", DIGEST)
        await blobs.remove("t", DIGEST) if how != "gone" else None
        await give(blobs, DATA)
        assert await read(blobs) == DATA


async def test_what_belongs_to_no_row_is_swept(tmp_path: Path, stores: Stores) -> None:
    """Files without rows go, those of another store's folder, of whole ones and of growing ones stay."""
    async with opened(stores, tmp_path) as (blobs, _):
        await give(blobs, DATA)
        async with blobs.receiving("t", "0" * 64, 2) as entry:
            await blobs.add(entry, b"1")
        mine = set(files(tmp_path))
        own = next(path for path in mine if path.name.endswith("-s"))
        strays = [own.with_name("1" * 64), own.with_name("2" * 64 + ".part"), own.with_name("x")]
        elsewhere = tmp_path / "blobs" / "other" / "aa" / "bb" / DIGEST
        elsewhere.parent.mkdir(parents=True)
        for stray in (*strays, elsewhere):
            stray.write_bytes(b"stray")
        await swept(blobs)
        assert set(files(tmp_path)) == {*mine, elsewhere}
        assert await read(blobs) == DATA


async def test_a_folder_that_is_not_there_is_no_empty_one(tmp_path: Path, stores: Stores) -> None:
    """Where the disk of known blobs is not mounted, that is said, nothing is forgotten, and it can come back."""
    async with opened(stores, tmp_path) as (blobs, _):
        await give(blobs, DATA)
    (tmp_path / "blobs").rename(tmp_path / "unmounted")
    async with opened(stores, tmp_path) as (blobs, _):
        for use in (read(blobs), give(blobs, b"other"), swept(blobs)):
            with pytest.raises(StoreUnavailableError, match="are not there, and the store knows some; mount"):
                await use
        assert not (tmp_path / "blobs").exists()
        (tmp_path / "unmounted").rename(tmp_path / "blobs")
        await swept(blobs)
        assert await read(blobs) == DATA
        await give(blobs, b"other")


@pytest.mark.parametrize(("code", "cause"), [(errno.ENOSPC, "its disk is full"), (errno.EROFS, "is read-only")])
async def test_a_disk_that_does_not_take_it(
    tmp_path: Path, stores: Stores, monkeypatch: pytest.MonkeyPatch, code: int, cause: str
) -> None:
    """A write that the disk refuses is told with its cause; what came before stays, and it goes on from there."""
    real, left = os.pwrite, [MIB + 9000]

    def pwrite(file: int, data: Any, start: int) -> int:
        if left[0] == 0:
            raise OSError(code, os.strerror(code))
        count = real(file, bytes(data)[: left[0]], start)
        left[0] -= count
        return count

    async with opened(stores, tmp_path) as (blobs, _):
        monkeypatch.setattr(os, "pwrite", pwrite)
        with pytest.raises(StoreUnavailableError, match=cause):
            await give(blobs, DATA)
        monkeypatch.setattr(os, "pwrite", real)
        assert 0 < blobs.get("t", DIGEST).received_bytes <= MIB
        await give(blobs, DATA)
        assert await read(blobs) == DATA


@pytest.mark.parametrize(
    ("stores", "point"),
    [*(("sqlite", point) for point in BLOB_POINTS), ("postgres", "blob.renamed"), ("postgres", "blob.kept")],
    indirect=["stores"],
)
async def test_a_killed_kernel_leaves_nothing_or_the_whole(tmp_path: Path, stores: Stores, point: str) -> None:
    """Killed at any point of giving and forgetting, the next kernel has the whole blob or what it goes on with.

    Nothing else is left of it when it was swept.
    """
    (tmp_path / "file").write_bytes(DATA)
    stores.open().close()  # the tables are there
    given = {
        "point": point,
        "store": stores.settings,
        "root": str(tmp_path / "blobs"),
        "file": str(tmp_path / "file"),
        "digest": DIGEST,
        "forget": point in NOTHING,
    }
    child = await asyncio.to_thread(
        subprocess.run, [sys.executable, blob_child.__file__, json.dumps(given)], check=False, timeout=60
    )
    assert child.returncode == -9
    async with opened(stores, tmp_path) as (blobs, _):
        await swept(blobs)
        known = blobs.list("t", after=None, size=9).records
        assert len(files(tmp_path)) <= len(known)
        assert bool(known) == (
            point not in {"blob.dropped", "blob.removed", "store.before_commit", "store.after_commit"}
        )
        if known and known[0].state is BlobState.WHOLE:
            assert point == "blob.kept"
            assert await read(blobs) == DATA
        await give(blobs, DATA)
        assert await read(blobs) == DATA
        assert [path.name[-2:] for path in files(tmp_path)] == ["-s"]
