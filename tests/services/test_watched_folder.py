"""A folder that is watched: what appears in it is a model, what changes a new version, and what goes is forgotten."""

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from connection import Connection, read_all, read_until, text_of

from inferd.content import content_digest
from inferd.runtime.placement import stat_files
from inferd.runtime.watched import Watched
from inferd.testing.kernel import kernel_here, write_fake_model
from inferd_api.v1 import model_pb2 as mp
from inferd_api.v1 import model_service_pb2 as ms

NEVER_S = 3600.0  # between two looks: those of these tests are asked for


@asynccontextmanager
async def watching(folder: Path, **settings: Any) -> AsyncIterator[tuple[Connection, Watched]]:
    """A kernel that watches the folder `models`, and what watches it."""
    (folder / "models").mkdir(exist_ok=True)
    watched = {"folder": folder / "models", "poll_s": NEVER_S}
    async with kernel_here(folder, watched=watched, **settings) as made:
        connection = Connection(made, folder)
        looking = made.declaring.watched
        assert looking is not None
        yield connection, looking
        await connection.channel.close()


async def names(connection: Connection) -> list[str]:
    answer = await connection.models.ListModels(ms.ListModelsRequest())
    return [model.name for model in answer.models]


async def faults(connection: Connection) -> list[str]:
    answer = await connection.models.ListModels(ms.ListModelsRequest())
    return [fault.why for fault in answer.faults]


async def until(connection: Connection, holds: Callable[[list[str]], bool]) -> list[str]:
    """The names of all models once they are so."""
    while not holds(found := await names(connection)):
        pass
    return found


async def test_what_is_whole_in_a_folder_is_a_model(tmp_path: Path) -> None:
    """What is old is known at once, what comes after two looks in which it is the same; what is none is let lie."""
    models = tmp_path / "models"
    models.mkdir()
    os.utime(write_fake_model(models, "old one"), (1, 1))
    async with watching(tmp_path) as (connection, looking):
        assert await names(connection) == ["old_one"]
        assert text_of(await read_all(connection.chat("hi", model="old_one"))) == "hi"
        growing = write_fake_model(models, "new")
        (models / "notes.txt").write_text("no model")
        (models / ".new.fake").write_text("hidden")
        await looking.look()
        growing.write_text('{"context_tokens": 256}')
        await looking.look()
        assert await names(connection) == ["old_one"]
        await looking.look()
        assert await names(connection) == ["new", "old_one"]
        await connection.models.DeleteModel(ms.DeleteModelRequest(name="new"))
        await looking.look()
        assert await names(connection) == ["old_one"]  # somebody does not want it
        assert not await faults(connection)


async def test_what_changes_is_rolled_out_and_what_goes_is_forgotten_once_it_is_unused(tmp_path: Path) -> None:
    """The task that runs ends where it is; a version that cannot be loaded is told, and the one before serves."""
    models = tmp_path / "models"
    models.mkdir()
    path = write_fake_model(models, "m", step_s=0.002)
    os.utime(path, (1, 1))
    async with watching(tmp_path) as (connection, looking):
        running = connection.endless(model="m", tokens=200)
        before = await read_until(running, "output")

        async def change(**behaviour: Any) -> mp.Model:
            write_fake_model(models, "m", **behaviour)
            await looking.look()
            await looking.look()
            return (await connection.models.GetModel(ms.GetModelRequest(name="m"))).model

        model = await change(step_s=0.002, context_tokens=512)
        assert (model.version, model.state) == (2, mp.MODEL_STATE_READY)
        assert text_of(before + await read_all(running)) == "la" * 100
        assert (await change(load_error="bad tensor")).version == 2
        assert "bad tensor" in (await faults(connection))[0]
        last = connection.endless(model="m", tokens=200)
        told = await read_until(last, "output")
        path.unlink()
        await looking.look()
        assert await names(connection) == ["m"]
        await looking.look()
        assert text_of(told + await read_all(last)) == "la" * 100
        assert await until(connection, lambda found: not found) == []
        assert not await faults(connection)


async def test_a_folder_takes_no_name_that_another_model_has(tmp_path: Path) -> None:
    """A created model stays as it is, of two files one is told; a folder that is not there is told, too."""
    models = tmp_path / "models"
    models.mkdir()
    async with watching(tmp_path) as (connection, looking):
        await connection.create("taken")
        for name in ("taken", "a b", "a_b"):
            os.utime(write_fake_model(models, name), (1, 1))
        await looking.look()
        await looking.look()
        assert await names(connection) == ["a_b", "taken"]
        taken = (await connection.models.GetModel(ms.GetModelRequest(name="taken"))).model
        assert Path(taken.source).parent == tmp_path
        assert ["same name" in why or "of its name" in why for why in await faults(connection)] == [True, True]
        for file in models.iterdir():
            file.unlink()
        models.rmdir()
        await looking.look()
        (why,) = await faults(connection)
        assert "cannot be read" in why
        assert await names(connection) == ["a_b", "taken"]  # a disk that is gone forgets no model


async def test_a_name_that_is_no_text_hinders_nothing(tmp_path: Path) -> None:
    """Of a file whose name is no UTF-8 it is told that it is left out; within a model's folder any name may stand."""
    models = tmp_path / "models"
    models.mkdir()
    for name in (b"caf\xe9.fake", b"good.fake"):
        path = os.fsencode(models) + b"/" + name
        write_fake_model(models, "made").rename(os.fsdecode(path))
        os.utime(path, (1, 1))
    async with watching(tmp_path) as (connection, _):
        assert await names(connection) == ["good"]
        (why,) = await faults(connection)
        assert "no UTF-8" in why
    (models / os.fsdecode(b"caf\xe9.txt")).write_text("x")
    assert stat_files(models)[1]
    assert content_digest(models)
