"""A model whose file changes while the kernel runs."""

import os
from pathlib import Path

import pytest
from connection import Connection, read_all, read_until, refusal, text_of, under

from inferd.testing.kernel import write_fake_model
from inferd_api.v1.lease_pb2 import Claim, ModelClaim
from inferd_api.v1.model_pb2 import INSTANCE_STATE_LOADING, MODEL_STATE_READY, MODEL_STATE_UNLOADED, Model
from inferd_api.v1.model_service_pb2 import (
    CreateModelRequest,
    GetModelRequest,
    LoadModelRequest,
    UnloadModelRequest,
    WatchModelRequest,
)


async def create(connection: Connection, path: Path) -> Model:
    request = CreateModelRequest(model=Model(name="fake", source=str(path)))
    created: Model = (await connection.models.CreateModel(request)).model
    return created


async def load(connection: Connection) -> Model:
    loaded: Model = (await connection.models.LoadModel(LoadModelRequest(name="fake"))).model
    return loaded


async def test_what_was_loaded_makes_room_for_what_is_there(connection: Connection) -> None:
    """A file that is written again and again under one path is loaded anew each time, with its new size told."""
    for tokens in (64, 1024, 128):
        path = write_fake_model(connection.folder, context_tokens=tokens)
        model = await create(connection, path)
        assert (model.state, model.size_bytes) == (MODEL_STATE_UNLOADED, path.stat().st_size)
        (instance,) = (await load(connection)).instances
        assert instance.context_tokens == tokens


async def test_a_change_of_equal_size_is_seen(connection: Connection) -> None:
    """Another content of the same size is another file, by its time; the same file again changes nothing."""
    path = write_fake_model(connection.folder, context_tokens=64)
    await create(connection, path)
    pid = (await load(connection)).instances[0].pid
    assert (await create(connection, path)).instances[0].pid == pid
    path = write_fake_model(connection.folder, context_tokens=96)
    os.utime(path, ns=(0, 0))
    await create(connection, path)
    assert (await load(connection)).instances[0].context_tokens == 96


async def test_nothing_that_is_used_is_taken_away(connection: Connection) -> None:
    """While tasks run on what was loaded, the model stays as it is, and the error says what to do."""
    path = write_fake_model(connection.folder, step_s=0.01)
    await create(connection, path)
    call = connection.endless()
    await read_until(call, "output")
    write_fake_model(connection.folder, context_tokens=64)
    again = CreateModelRequest(model=Model(name="fake", source=str(path)))
    reason, facts = await refusal(connection.models.CreateModel(again))
    assert (reason, facts) == ("MODEL_BUSY", {"running": "1", "instances": "1", "model": "fake"})
    assert (await connection.models.GetModel(GetModelRequest(name="fake"))).model.state == MODEL_STATE_READY
    await connection.models.UnloadModel(UnloadModelRequest(name="fake", force=True))
    await create(connection, path)
    assert (await load(connection)).instances[0].context_tokens == 64
    assert text_of(await read_all(connection.chat("new"))) == "new"


async def test_a_lease_holds_what_was_loaded(connection: Connection) -> None:
    """A part of a model that a lease holds is not taken away by a file that changes."""
    path = write_fake_model(connection.folder)
    await create(connection, path)
    await load(connection)
    lease = await connection.claim(Claim(model=ModelClaim(model="fake", sequences=1)), wait=True)
    write_fake_model(connection.folder, context_tokens=64)
    again = CreateModelRequest(model=Model(name="fake", source=str(path)))
    assert (await refusal(connection.models.CreateModel(again)))[0] == "MODEL_BUSY"
    assert text_of(await read_all(connection.chat("held", metadata=under(lease.lease_id)))) == "held"


async def test_waiting_tasks_run_on_the_new_file(connection: Connection) -> None:
    """Tasks that wait for a model that is being loaded are served by the file that is there in the end."""
    path = write_fake_model(connection.folder, load_s=3600.0)
    await create(connection, path)
    call = connection.chat("patience")
    await read_until(call, "queued")
    watch = connection.models.WatchModel(WatchModelRequest(name="fake"))
    while not [i for i in (await watch.read()).model.instances if i.state == INSTANCE_STATE_LOADING]:
        pass
    write_fake_model(connection.folder)
    await create(connection, path)
    assert text_of(await read_all(call)) == "patience"


@pytest.mark.parametrize("name", ["a/" * 63 + "a", "a/" * 63 + "aa", ":" * 128, "a" + "." * 127])
async def test_every_legal_name_loads(connection: Connection, name: str) -> None:
    """A model of any name that is allowed loads, runs a task, and its worker's log has a path that exists."""
    path = write_fake_model(connection.folder)
    await connection.models.CreateModel(CreateModelRequest(model=Model(name=name, source=str(path))))
    (instance,) = (await connection.models.LoadModel(LoadModelRequest(name=name))).model.instances
    assert os.path.exists(instance.log_path)  # noqa: ASYNC240, PTH110 - no wait
    assert text_of(await read_all(connection.chat("named", model=name))) == "named"
