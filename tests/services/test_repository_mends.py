"""A model repository keeps what serves, and what others own, whatever loads of it fail, race or are cut off."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from guarded import guarded
from pydantic import ValidationError
from test_model_repository import OWN, Code, put, serving
from time_limits import LONG_S

from inferd.core.ids import ModelName
from inferd.model_settings import Repository
from inferd.runtime.repository import MISSING
from inferd.testing.kernel import kernel_here
from inferd_api.inference import grpc_service_pb2 as gp
from inferd_api.inference.grpc_service_pb2_grpc import GRPCInferenceServiceStub
from inferd_api.v1.model_pb2 import Model
from inferd_api.v1.model_service_pb2 import CreateModelRequest
from inferd_api.v1.model_service_pb2_grpc import ModelServiceStub

OVERRIDE = {"backend": "inferd", "default_model_filename": "model.fake"}
PART = {"modelName": "secret", "inputMap": {"x": "x"}, "outputMap": {"y": "y"}}
ENSEMBLE = {
    "platform": "ensemble",
    "input": [{"name": "x", "dataType": "TYPE_FP32", "dims": [1]}],
    "output": [{"name": "y", "dataType": "TYPE_FP32", "dims": [1]}],
    "ensembleScheduling": {"step": [PART]},
}


async def until(met: Callable[[], bool]) -> None:
    """Wait until something holds."""
    async with asyncio.timeout(LONG_S):
        while not met():  # noqa: ASYNC110 - of any kind, which nobody tells of
            await asyncio.sleep(0)


async def code_of(call: Any) -> grpc.StatusCode:
    """How a call ends."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.code()
    return Code.OK


async def test_an_ensemble_reaches_no_model_that_its_caller_may_not_change(tmp_path: Path) -> None:
    """Who may update one model alone neither loads another as a part of it, nor unloads that as its dependent."""
    put(tmp_path / "models", "secret")
    put(tmp_path / "models", "mine")
    async with guarded(tmp_path, backends=(), repository={"folder": tmp_path / "models", "mode": "explicit"}) as opened:
        own: Any = GRPCInferenceServiceStub(opened.owner.channel)
        stub: Any = GRPCInferenceServiceStub(opened.tcp.channel)
        may = {"kinds": ["RESOURCE_KIND_MODEL"], "verbs": ["VERB_UPDATE"], "models": "mine"}
        await opened.rule("principal:anna", allow=True, **may)
        await opened.rule("principal:anna", models="secret")
        anna = await opened.login("user")
        load = gp.RepositoryModelLoadRequest(model_name="mine")
        load.parameters["config"].string_param = json.dumps(ENSEMBLE)
        assert await code_of(stub.RepositoryModelLoad(load, metadata=anna)) is Code.PERMISSION_DENIED
        assert "secret" not in opened.kernel.driver.views.model_names()
        assert await code_of(own.RepositoryModelLoad(load)) is Code.OK
        unload = gp.RepositoryModelUnloadRequest(model_name="mine")
        unload.parameters["unload_dependents"].bool_param = True
        assert await code_of(stub.RepositoryModelUnload(unload, metadata=anna)) is Code.PERMISSION_DENIED
        assert "secret" in opened.kernel.driver.views.model_names()


async def test_a_load_that_fails_leaves_what_served(tmp_path: Path) -> None:
    """A file that is written over and cannot be loaded fails its load, and what was loaded before goes on serving."""
    put(tmp_path / "models", "m")
    async with serving(tmp_path, mode="explicit") as served:
        await served.load("m")
        put(tmp_path / "models", "m", load_error="bad tensor")
        assert await code_of(served.load("m")) is Code.INVALID_ARGUMENT
        assert (await served.infer("m")).model_version == "1"
        await served.unload("m")


async def test_files_of_loads_that_fail_go_and_those_that_serve_stay(tmp_path: Path) -> None:
    """However many loads with files fail, of known and of new names: nothing of them stays, and what serves does."""
    given = {"config": json.dumps(OVERRIDE), "file__1/model.fake": b'{"tensor": "identity"}'}
    fails = {**given, "file__1/model.fake": b'{"load_error": "bad tensor"}'}
    (tmp_path / "models").mkdir()
    async with serving(tmp_path, mode="explicit", models=1) as served:
        await served.load("m", **given)
        for name in ("m", "m", "new"):
            assert await code_of(served.load(name, **fails)) is Code.INVALID_ARGUMENT
        assert await code_of(served.load("more", **given)) is Code.INVALID_ARGUMENT  # than repository.models
        assert len([*(tmp_path / "state" / "repository").rglob("*.fake")]) == 1
        assert {name for name, _ in await served.index()} == {"m"}
        assert (await served.infer("m")).model_version == "1"


async def test_a_start_takes_no_model_that_others_made(tmp_path: Path) -> None:
    """What is declared or made by a call stays though its file is in the repository; what another had served goes."""
    path = put(tmp_path / "models", "m")
    put(tmp_path / "other", "gone")
    store = {"url": f"sqlite:{tmp_path / 'kernel.sqlite'}"}
    entry = {"name": "declared", "source": str(path)}
    async with serving(tmp_path, store=store, folder=tmp_path / "other", mode="explicit") as served:
        await served.load("gone")
        put(tmp_path / "other", "gone", 2)
        await served.load("gone")  # an update, which is kept
        create = CreateModelRequest(model=Model(name="made", source=str(path)))
        await ModelServiceStub(served.channel).CreateModel(create)
    chosen = {"folder": tmp_path / "models", "mode": "explicit"}
    async with kernel_here(tmp_path, backends=(), repository=chosen, store=store, models=(entry,)) as kernel:
        await kernel.declaring.settled.wait()
        names = kernel.driver.views.model_names
        await until(lambda: "gone" not in names())
        assert set(names()) == {"declared", "made"}


async def test_a_configuration_that_contradicts_its_model_takes_nothing_away(tmp_path: Path) -> None:
    """In a polled repository what serves goes on, and the index tells what is wrong with the new configuration."""
    put(tmp_path / "models", "m")
    async with serving(tmp_path, mode="poll") as served:
        config = OWN + 'input { name: "typo" data_type: TYPE_FP32 dims: 1 }'
        put(tmp_path / "models", "m", config=config)
        for _ in range(2):
            await served.repository.look(loads=True)
        assert (await served.infer("m")).model_version == "1"
        assert "typo" in served.repository.book.whys()["m"]


async def test_what_is_to_be_loaded_at_the_start_and_is_not_there_is_told(tmp_path: Path) -> None:
    """A name that the repository lacks is a fault that is listed, until it comes; names without calls are refused."""
    (tmp_path / "models").mkdir()
    async with serving(tmp_path, mode="explicit", load=("late",)) as served:
        faults = served.repository._declarations.in_repository
        assert [each.why for each in faults.values()] == [MISSING]
        put(tmp_path / "models", "late")
        await served.load("late")
        assert not served.repository._declarations.in_repository
    with pytest.raises(ValidationError, match="--model-control-mode explicit"):
        Repository(folder=tmp_path, load=("late",))


async def test_loads_and_unloads_of_a_name_come_one_after_the_other(tmp_path: Path) -> None:
    """A load that fails beside one that works takes nothing away from that, and an unload after a load is the end."""
    root = tmp_path / "models"
    put(root, "m")
    async with serving(tmp_path, mode="explicit") as served:
        await served.load("m")
        put(root, "m", 2, tensor="add", load_s=0.3)
        good = asyncio.create_task(served.load("m"))
        await until(lambda: served.views.model(ModelName("m")).rollout is not None)
        put(root, "m", 3, load_error="bad tensor")
        assert await code_of(served.load("m")) is Code.INVALID_ARGUMENT
        await good
        assert (await served.infer("m", a=1, b=2)).model_version == "2"
        (root / "m" / "3" / "model.fake").write_text('{"tensor": "identity", "load_s": 0.3}')
        loading = asyncio.create_task(served.load("m"))
        await until(lambda: "m" in served.repository.changing.names())
        await served.unload("m")
        await loading
        assert not await served.ready("m")
        assert not served.repository.changing.names()


async def test_a_load_that_is_cut_off_is_known_and_can_be_unloaded(tmp_path: Path) -> None:
    """Whoever goes while a model is loaded leaves one that the next unload takes away."""
    put(tmp_path / "models", "m", load_s=0.3)
    async with serving(tmp_path, mode="explicit") as served:
        loading = asyncio.create_task(served.load("m"))
        await until(lambda: "m" in served.repository.changing.names())
        loading.cancel()
        await asyncio.wait([loading])
        await served.unload("m")
        assert not await served.ready("m")
        assert (await served.index())["m", "1"] == ("UNAVAILABLE", "unloaded")
