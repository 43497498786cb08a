"""The prefix cache of a model that goes, found again by the next worker of it; with real workers."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest
from connection import Connection, read_all, text_of
from stores import opened_store
from typer.testing import CliRunner

from inferd.cli.main import app
from inferd.errors import present
from inferd.model_settings import Prefix
from inferd.runtime.prefix_files import PrefixFiles
from inferd.shared import Memory
from inferd.store.file_work import opened_file
from inferd.store.sealing.data_keys import PREFIXES, ShreddedKeyError
from inferd.store.sealing.sealed_file import Owner, SealedFile
from inferd.store.sealing.turning import rotate, shred, standing_of
from inferd.store.store import Kind, Put
from inferd.testing.kernel import kernel_here, write_fake_model
from inferd_api.v1 import model_pb2 as mp
from inferd_api.v1 import model_service_pb2 as ms

WORDS = "one two three four five six seven"
BLOCK = 16


@pytest.fixture
async def keeping(tmp_path: Path) -> AsyncIterator[Connection]:
    """A kernel that keeps prefix caches."""
    async with kernel_here(tmp_path, prefix={"keep_bytes": 1 << 20}) as kernel:
        made = Connection(kernel, tmp_path)
        yield made
        await made.channel.close()


async def cached(connection: Connection) -> int:
    """Tokens of a prompt that came from the cache; what it answers is as it always is."""
    told = await read_all(connection.chat(WORDS))
    assert text_of(told) == WORDS
    tokens: int = told[-1].finished.usage.cached_tokens
    return tokens


async def model_of(connection: Connection) -> mp.Model:
    model: mp.Model = (await connection.models.GetModel(ms.GetModelRequest(name="fake"))).model
    return model


async def unload(connection: Connection) -> ms.UnloadModelResponse:
    answer: ms.UnloadModelResponse = await connection.models.UnloadModel(ms.UnloadModelRequest(name="fake"))
    return answer


async def update(connection: Connection, **changes: Any) -> None:
    await connection.models.UpdateModel(ms.UpdateModelRequest(name="fake", **changes), timeout=60)


async def swap(connection: Connection, **changes: Any) -> None:
    """Give the model another version, and wait until that has proved itself and the one before is gone."""
    await update(connection, **changes)
    await read_all(connection.chat("x"))
    async for told in connection.models.WatchModel(ms.WatchModelRequest(name="fake"), timeout=60):
        if all(instance.version == told.model.version for instance in told.model.instances):
            return


async def test_an_unloaded_model_finds_its_prefixes_again(keeping: Connection) -> None:
    """Unloading tells what is kept, and the model does; when it is loaded again its first task finds it."""
    await keeping.create()
    assert await cached(keeping) == 0
    answer = await unload(keeping)
    kept = answer.model.kept_prefix_tokens
    assert kept > 0
    assert kept % BLOCK == 0
    assert answer.kept_prefix_bytes == answer.model.kept_prefix_bytes > 0
    assert await cached(keeping) == len(WORDS) // BLOCK * BLOCK
    assert (await model_of(keeping)).kept_prefix_tokens == 0


async def test_a_new_version_finds_them_if_it_computes_the_same(
    keeping: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of the same files finds what the one before had, which may still come back; one of another file nothing."""
    await keeping.create()
    await cached(keeping)
    adopted = asyncio.Event()
    monkeypatch.setattr(keeping.kernel.driver.prefixes, "adopted", lambda *_: adopted.set())
    await update(keeping, settings={"context_tokens": "512"})
    async with asyncio.timeout(60):
        await adopted.wait()
    assert await cached(keeping) == len(WORDS) // BLOCK * BLOCK
    await swap(keeping, source=str(write_fake_model(keeping.folder, "other")))
    assert await cached(keeping) == 0


async def test_what_is_kept_goes_with_its_bound_and_its_model(keeping: Connection) -> None:
    """A model whose setting is 0 keeps nothing, from when it is set; nothing is left of one that is deleted."""
    await keeping.create()
    await cached(keeping)
    await unload(keeping)
    await update(keeping, settings={"prefix_keep_bytes": "0"})
    assert (await model_of(keeping)).kept_prefix_bytes == 0
    assert await cached(keeping) == 0
    assert (await unload(keeping)).kept_prefix_bytes == 0
    await update(keeping, settings={"prefix_keep_bytes": "100000"})
    await cached(keeping)
    await unload(keeping)
    assert keeping.kernel.driver.prefixes.held_bytes > 0
    await keeping.models.DeleteModel(ms.DeleteModelRequest(name="fake"))
    assert keeping.kernel.driver.prefixes.held_bytes == 0


@asynccontextmanager
async def on_disk(folder: Path, *, sealing: str = "on") -> AsyncIterator[tuple[Connection, asyncio.Event]]:
    """A kernel that keeps prefix caches in files, too; the event is set when a worker has looked at what was kept."""
    store = {"url": f"sqlite:{folder}/kept", "sealing": sealing}
    prefix = {"keep_bytes": 1 << 20, "disk_bytes": 1 << 20}
    async with kernel_here(folder, prefix=prefix, store=store) as kernel:
        made, adopted, told = Connection(kernel, folder), asyncio.Event(), kernel.driver.prefixes.adopted

        def tell(*words: Any) -> None:
            told(*words)
            adopted.set()

        kernel.driver.prefixes.adopted = tell  # type: ignore[method-assign]
        yield made, adopted
        await made.channel.close()


def files_in(folder: Path) -> list[Path]:
    return [path for path in (folder / "data" / "prefixes").rglob("*") if path.is_file()]


@pytest.mark.parametrize("sealing", ["on", "off"])
async def test_the_next_kernel_finds_prefixes_on_the_disk(tmp_path: Path, sealing: str) -> None:
    """What a model has when the kernel ends is in one file, sealed as the store is, and found by the next kernel."""
    async with on_disk(tmp_path, sealing=sealing) as (made, _):
        await made.create()
        assert await cached(made) == 0
    (file,) = files_in(tmp_path)
    assert file.name.endswith("-s") == (sealing == "on")
    assert (b"inferdKV" in file.read_bytes()) == (sealing == "off")
    (tmp_path / "data" / "prefixes" / file.parent.name / "cut.part").write_bytes(b"x")
    async with on_disk(tmp_path, sealing=sealing) as (made, adopted):
        await made.models.LoadModel(ms.LoadModelRequest(name="fake"))
        async with asyncio.timeout(60):
            await adopted.wait()
        assert await cached(made) == len(WORDS) // BLOCK * BLOCK
        assert files_in(tmp_path) == [file]
        await made.models.DeleteModel(ms.DeleteModelRequest(name="fake", force=True))
    assert files_in(tmp_path) == []


@pytest.mark.parametrize("sealing", ["on", "off"])
async def test_a_damaged_prefix_file_is_removed_and_given_to_nobody(tmp_path: Path, sealing: str) -> None:
    """Whichever byte was changed, or where it was cut off: the log says so, and the prompt is computed."""
    async with on_disk(tmp_path, sealing=sealing) as (made, _):
        await made.create()
        await cached(made)
    (file,) = files_in(tmp_path)
    whole = file.read_bytes()
    async with on_disk(tmp_path, sealing=sealing) as (made, _):
        files = made.kernel.driver.prefixes._files
        assert files is not None
        assert files.read("fake", 1 << 20) is not None
        for wrong in (whole[:-40], whole[:-1] + bytes([whole[-1] ^ 1]), whole[:60] + b"?" + whole[61:], b""):
            file.write_bytes(wrong)
            assert files.read("fake", 1 << 20) is None
            assert wrong == b"" or not file.exists()


async def test_files_go_where_none_are_kept_any_more_and_with_a_tenant(tmp_path: Path) -> None:
    """Who turns prefix.disk_bytes off leaves none; who shreds a tenant without a kernel leaves none of anybody."""
    for way in ("off", "shred"):
        async with on_disk(tmp_path) as (made, _):
            await made.create() if way == "off" else None
            await cached(made)
        assert files_in(tmp_path)
        if way == "off":
            async with kernel_here(tmp_path, store={"url": f"sqlite:{tmp_path}/kept"}):
                assert not files_in(tmp_path)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("INFERD_DATA_DIR", str(tmp_path / "data"))
        patched.setenv("INFERD_STATE_DIR", str(tmp_path / "state"))
        result = CliRunner().invoke(app, ["store", "keys", "shred", "default", "--yes", "--file", f"{tmp_path}/kept"])
        assert result.exit_code == 0, result.output
    assert not files_in(tmp_path)
    with pytest.raises(ValueError, match="disk_bytes is 1 and keep_bytes is 0"):
        Prefix(disk_bytes=1)


async def test_files_of_another_host_open_no_more_once_a_tenant_is_shredded(tmp_path: Path) -> None:
    """Those of a kernel that led before and does not hear of it, and after new keys for all; then it removes them."""
    there, here = tmp_path / "there", tmp_path / "here"
    with closing(opened_store(tmp_path / "kept")) as store:
        old = PrefixFiles(there, most_bytes=1 << 20, keys=store.keys)
        old.sweep()
        store.write([Put("one", Kind.TASK, "t", b"1")])
        turns: tuple[Callable[[], int], ...] = (lambda: shred(store, "one"), lambda: rotate(store, None))
        for turn in turns:
            old.write("m", Memory.of(b"of one and others"), 16, "m")
            assert old.read("m", 1 << 20) is not None
            turn()
            (left,) = there.iterdir()
            with opened_file(left, os.O_RDONLY) as file, pytest.raises(ShreddedKeyError):
                SealedFile.opened(file, present(store.keys), Owner(PREFIXES, "prefix m"))
            PrefixFiles(there, most_bytes=1 << 20, keys=store.keys).sweep()
            assert not [*there.iterdir()]
        new = PrefixFiles(here, most_bytes=1 << 20, keys=store.keys)
        new.sweep()
        new.write("m", Memory.of(b"of others"), 16, "m")
        assert new.read("m", 1 << 20) is not None
        assert PREFIXES not in {each.tenant for each in standing_of(store).tenants}
    with closing(opened_store(tmp_path / "kept")) as store:
        next_one = PrefixFiles(here, most_bytes=1 << 20, keys=store.keys)
        next_one.sweep()
        assert next_one.read("m", 1 << 20) is not None


def test_files_of_prefixes_have_a_bound_and_the_oldest_goes(tmp_path: Path) -> None:
    """Of models that are known: one that is too large by itself is not kept, and drives out nobody."""
    files = PrefixFiles(tmp_path / "p", most_bytes=5 << 20, keys=None)
    files.sweep()
    for number, name in enumerate("abc"):
        files.write(name, Memory.of(bytes([number]) * (2 << 20)), 16, "abcd")
    assert [files.read(name, 1 << 30) is not None for name in "abc"] == [False, True, True]
    files.write("d", Memory.of(bytes(11 << 20)), 16, "abcd")
    found = files.read("c", 1 << 30)
    assert found is not None
    assert (found[0].read(0, found[0].size_bytes), found[1]) == (bytes([2]) * (2 << 20), 16)
    assert files.read("c", 1 << 10) is None, "there is no room for it in memory"
    files.write("c", Memory.of(b"c"), 32, "c")
    assert [files.read(name, 1 << 30) is not None for name in "bc"] == [False, True]
