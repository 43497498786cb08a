"""A model repository: folders as Triton has them are served, followed, and loaded by calls, as its mode says."""

import json
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from connection import Connection
from guarded import guarded

from inferd.core.views import Views
from inferd.runtime.repository import Repository
from inferd.testing.kernel import kernel_here
from inferd_api.inference import grpc_service_pb2 as gp
from inferd_api.inference.grpc_service_pb2_grpc import GRPCInferenceServiceStub
from inferd_api.v1 import auth_service_pb2 as asp

OWN = 'backend: "inferd" default_model_filename: "model.fake" '
NEVER_S = 3600.0  # between two looks: those of these tests are asked for
Code = grpc.StatusCode


def put(root: Path, name: str, version: int = 1, *, config: str = OWN, tensor: str = "identity", **more: Any) -> Path:
    """A version of a model of the fake backend in a repository; its file."""
    folder = root / name / str(version)
    folder.mkdir(parents=True, exist_ok=True)
    (root / name / "config.pbtxt").write_text(config)
    path = folder / "model.fake"
    path.write_text(json.dumps({"tensor": tensor, **more}))
    return path


class Served:
    """A kernel with a repository, as a client of Triton sees it."""

    def __init__(self, connection: Connection, repository: Repository, views: Views) -> None:
        self.channel = connection.channel
        self.stub: Any = GRPCInferenceServiceStub(connection.channel)
        self.repository = repository
        self.views = views

    async def index(self) -> dict[tuple[str, str], tuple[str, str]]:
        """State and reason of each version."""
        got = await self.stub.RepositoryIndex(gp.RepositoryIndexRequest())
        return {(each.name, each.version): (each.state, each.reason) for each in got.models}

    async def ready(self, name: str, version: str = "") -> bool:
        """Whether a model takes requests."""
        return bool((await self.stub.ModelReady(gp.ModelReadyRequest(name=name, version=version))).ready)

    async def infer(self, name: str, version: str = "", **inputs: float) -> gp.ModelInferResponse:
        """What a model gives for numbers."""
        request = gp.ModelInferRequest(model_name=name, model_version=version)
        for each, value in (inputs or {"x": 1.5}).items():
            request.inputs.add(name=each, datatype="FP32", shape=[1, 1])
            request.raw_input_contents.append(struct.pack("<f", value))
        answer: gp.ModelInferResponse = await self.stub.ModelInfer(request)
        return answer

    async def load(self, name: str, **parameters: Any) -> None:
        """Load a model; parameters with `__` in their names have a colon there."""
        request = gp.RepositoryModelLoadRequest(model_name=name)
        for each, value in parameters.items():
            kind = {str: "string_param", bytes: "bytes_param", bool: "bool_param"}[type(value)]
            setattr(request.parameters[each.replace("__", ":")], kind, value)
        await self.stub.RepositoryModelLoad(request)

    async def unload(self, name: str) -> None:
        """Unload a model."""
        await self.stub.RepositoryModelUnload(gp.RepositoryModelUnloadRequest(model_name=name))


@asynccontextmanager
async def serving(tmp_path: Path, store: dict[str, Any] | None = None, **settings: Any) -> AsyncIterator[Served]:
    """A kernel that has loaded what it serves from the start."""
    chosen = {"folder": tmp_path / "models", "poll_s": NEVER_S, **settings}
    kept = {"store": store} if store else {}
    async with kernel_here(tmp_path, backends=(), repository=chosen, **kept) as kernel:
        await kernel.declaring.settled.wait()
        connection = Connection(kernel, tmp_path)
        assert kernel.declaring.repository is not None
        yield Served(connection, kernel.declaring.repository, kernel.driver.views)
        await connection.channel.close()


async def refusal(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), str(caught.value.details())


async def test_what_is_there_is_served_and_what_cannot_be_is_listed(tmp_path: Path) -> None:
    """All that can be is loaded at the start, by its own numbers; the rest has a reason, and calls load nothing."""
    root = tmp_path / "models"
    put(root, "m", 3)
    put(root, "m", 10, config=OWN + "max_batch_size: 2")
    put(root, "both", 1, config=OWN + "version_policy { all {} }")
    put(root, "both", 7, config=OWN + "version_policy { all {} }", tensor="add")
    put(root, "torch", config='platform: "pytorch_libtorch"')
    put(root, "broken", config="max_batch: 1")
    put(root, "dies", load_error="bad tensor")
    (root / "empty").mkdir()
    async with serving(tmp_path) as served:
        index = await served.index()
        ready = [key for key, (state, _) in index.items() if state == "READY"]
        assert sorted(ready) == [("both", "1"), ("both", "7"), ("m", "10")]
        assert "TorchScript is code" in index["torch", "1"][1]
        assert 'has no field named "max_batch"' in index["broken", "1"][1]
        assert "at least one version must be available" in index["empty", ""][1]
        assert index["dies", "1"][0] == "UNAVAILABLE"
        assert "bad tensor" in index["dies", "1"][1]
        assert (await served.infer("m")).model_version == "10"
        assert (await served.infer("both", "1")).model_version == "1"
        assert (await served.infer("both", a=1, b=2)).model_version == "7"
        told = await served.stub.ModelMetadata(gp.ModelMetadataRequest(name="both", version="1"))
        assert (told.name, list(told.versions), [each.name for each in told.inputs]) == ("both", ["1", "7"], ["x"])
        config = (await served.stub.ModelConfig(gp.ModelConfigRequest(name="m"))).config
        assert (config.name, config.backend, config.max_batch_size) == ("m", "inferd", 2)
        assert [list(each.dims) for each in config.input] == [[-1]]
        stats = (await served.stub.ModelStatistics(gp.ModelStatisticsRequest(name="both", version="1"))).model_stats
        assert [(each.name, each.version, each.inference_count) for each in stats] == [("both", "1", 1)]
        assert await served.ready("both", "1")
        assert not await served.ready("both", "2")
        code, words = await refusal(served.infer("both", "2"))
        assert (code, words.partition(";")[0]) == (
            Code.NOT_FOUND,
            "Request for unknown model: 'both' version 2 is not found",
        )
        code, words = await refusal(served.infer("torch"))
        assert code is Code.NOT_FOUND
        assert words.startswith("Request for unknown model: 'torch' is not found")
        for call in (served.load("m"), served.unload("m"), served.load("nothing")):
            code, words = await refusal(call)
            assert code is Code.UNAVAILABLE
            assert words.startswith("explicit model load / unload is not allowed if polling is enabled")


async def test_a_polled_repository_is_followed(tmp_path: Path) -> None:
    """What changes counts once it is the same in two looks; a version that cannot be loaded leaves the one before."""
    root = tmp_path / "models"
    put(root, "m", 1)
    put(root, "goes")
    async with serving(tmp_path, mode="poll") as served:
        look = served.repository.look
        growing = put(root, "new", tensor="ad")  # half of it is there
        put(root, "m", 2, tensor="add")
        await look(loads=True)
        assert (await served.infer("m")).model_version == "1"
        growing.write_text('{"tensor": "add"}')
        await look(loads=True)
        assert ("new", "1") not in {key for key, (state, _) in (await served.index()).items() if state == "READY"}
        assert (await served.infer("m", a=1, b=1)).model_version == "2"
        await look(loads=True)
        assert (await served.infer("new", a=1, b=1)).model_version == "1"
        put(root, "m", 3, load_error="bad tensor")
        (root / "goes" / "config.pbtxt").unlink()
        (root / "goes" / "1" / "model.fake").unlink()
        (root / "goes" / "1").rmdir()
        (root / "goes").rmdir()
        for _ in range(2):
            await look(loads=True)
        assert (await served.infer("m", a=1, b=1)).model_version == "2"
        while "goes" in {name for name, _ in await served.index()}:
            pass  # its worker ends
        assert not await served.ready("goes")


async def test_calls_load_and_unload_an_explicit_repository(tmp_path: Path) -> None:
    """Nothing is served before it is loaded, nor after it is unloaded; what fails says so in Triton's words."""
    root = tmp_path / "models"
    put(root, "m")
    put(root, "first")
    put(root, "dies", load_error="bad tensor")
    async with serving(tmp_path, mode="explicit", load=("first",)) as served:
        assert await served.ready("first")
        assert (await served.index())["m", "1"] == ("UNAVAILABLE", "unloaded")
        code, words = await refusal(served.infer("m"))
        assert (code, words.partition(";")[0]) == (Code.NOT_FOUND, "Request for unknown model: 'm' is not found")
        await served.load("m")
        assert (await served.infer("m")).model_version == "1"
        code, words = await refusal(served.load("none"))
        assert (code, words) == (Code.INTERNAL, "failed to load 'none', failed to poll from model repository")
        code, words = await refusal(served.load("dies"))
        assert code is Code.INVALID_ARGUMENT
        assert words.startswith("load failed for model 'dies': version 1 is at UNAVAILABLE state: ")
        assert "bad tensor" in (await served.index())["dies", "1"][1]
        put(root, "m", 2, load_error="bad tensor")  # what is there is served on
        code, _ = await refusal(served.load("m"))
        assert code is Code.INVALID_ARGUMENT
        assert (await served.infer("m")).model_version == "1"
        put(root, "m", 2, tensor="add")
        await served.load("m")
        assert (await served.infer("m", a=1, b=2)).model_version == "2"
        for _ in range(2):  # the second one finds it done
            await served.unload("m")
        assert (await served.index())["m", "2"] == ("UNAVAILABLE", "unloaded")
        assert not await served.ready("m")
        put(root, "late")
        await served.load("late")
        assert await served.ready("late")


async def test_the_next_kernel_serves_what_its_own_mode_says(tmp_path: Path) -> None:
    """What was loaded by calls is not served by the kernel after this one, though its store is the same."""
    store = {"url": f"sqlite:{tmp_path / 'kernel.sqlite'}"}
    put(tmp_path / "models", "m")
    async with serving(tmp_path, store=store, mode="explicit") as served:
        await served.load("m")
        put(tmp_path / "models", "m", 2)
        await served.load("m")  # a version that is rolled out
        assert (await served.infer("m")).model_version == "2"
    async with serving(tmp_path, store=store, mode="explicit") as served:
        while await served.index() != {("m", "2"): ("UNAVAILABLE", "unloaded")}:
            pass  # what was kept is forgotten
        code, words = await refusal(served.infer("m"))
        assert (code, words.partition(";")[0]) == (Code.NOT_FOUND, "Request for unknown model: 'm' is not found")
        await served.load("m")
        assert (await served.infer("m")).model_version == "2"


async def test_a_load_may_give_another_configuration_and_files(tmp_path: Path) -> None:
    """A configuration in JSON holds for that load, files take the place of the folder, and none leads out of it."""
    root = tmp_path / "models"
    put(root, "m", 1)
    put(root, "m", 2, tensor="add")
    own = {"backend": "inferd", "default_model_filename": "model.fake"}
    async with serving(tmp_path, mode="explicit") as served:
        await served.load("m", config=json.dumps({**own, "version_policy": {"specific": {"versions": [1]}}}))
        assert (await served.infer("m")).model_version == "1"
        await served.load("m")
        assert (await served.infer("m", a=1, b=2)).model_version == "2"
        given = {"config": json.dumps(own), "file__5/model.fake": b'{"tensor": "identity"}'}
        await served.load("m", **given)
        assert (await served.infer("m")).model_version == "5"
        await served.load("given", **given)
        assert (await served.infer("given")).model_version == "5"
        wrong: dict[str, tuple[dict[str, Any], str]] = {
            "up": ({**given, "file__../../up": b""}, "must stay within model directory"),
            "root": ({**given, "file__/etc/x": b""}, "must stay within model directory"),
            "no config": ({"file__1/model.fake": b""}, "Load parameter 'config' must be specified"),
            "text": ({**given, "file__1/x": "text"}, "must have bytes type for its value"),
            "bytes": ({"config": b"{}"}, "must have string type for its value"),
            "other": ({"other": "x"}, "Unrecognized load parameter 'other' with type 'STRING'"),
            "json": ({"config": "{"}, "Invalid config override"),
            "name": ({**given}, "must not contain path traversal characters"),
        }
        for case, (parameters, words) in wrong.items():
            code, said = await refusal(served.load("../m" if case == "name" else "m", **parameters))
            assert (case, code) == (case, Code.INVALID_ARGUMENT)
            assert words in said
        assert (await served.infer("m")).model_version == "5"
        assert {path.name for path in (tmp_path / "state" / "repository").rglob("*.fake")} == {"model.fake"}
        assert not (tmp_path / "state" / "up").exists()
        await served.unload("given")
        await served.unload("m")
        assert not [*(tmp_path / "state" / "repository").rglob("*.fake")]


async def test_a_request_is_held_against_the_configuration(tmp_path: Path) -> None:
    """Rows, outputs and sequences that a configuration does not allow are refused in the words of Triton."""
    root = tmp_path / "models"
    put(root, "rows", config=OWN + "max_batch_size: 2")
    put(root, "sums", config=OWN + "max_batch_size: 8 sequence_batching {}", tensor="accumulate", most_batch=8)
    async with serving(tmp_path) as served:
        request = gp.ModelInferRequest(model_name="rows", raw_input_contents=[bytes(12)])
        request.inputs.add(name="x", datatype="FP32", shape=[3, 1])
        code, words = await refusal(served.stub.ModelInfer(request))
        assert (code, words.partition(";")[0]) == (
            Code.INVALID_ARGUMENT,
            "inference request batch-size must be <= 2 for 'rows'",
        )
        request = gp.ModelInferRequest(model_name="rows", raw_input_contents=[bytes(4)], outputs=2 * [{"name": "y"}])
        request.inputs.add(name="x", datatype="FP32", shape=[1, 1])
        code, words = await refusal(served.stub.ModelInfer(request))
        assert code is Code.INVALID_ARGUMENT
        assert words.startswith("output 'y' already exists in request")
        request = gp.ModelInferRequest(model_name="sums", raw_input_contents=[struct.pack("<2f", 1, 2)])
        request.inputs.add(name="x", datatype="FP32", shape=[1, 2])
        _, words = await refusal(served.stub.ModelInfer(request))
        assert "must specify a non-zero or non-empty correlation ID" in words
        request.parameters["sequence_id"].int64_param = 5
        _, words = await refusal(served.stub.ModelInfer(request))
        assert "must specify the START flag on the first request of the sequence" in words
        request.parameters["sequence_start"].bool_param = True
        assert (await served.stub.ModelInfer(request)).raw_output_contents[0] == struct.pack("<2f", 1, 2)


async def test_rules_hold_for_versions_however_they_are_named(tmp_path: Path) -> None:
    """A rule about a model or a version holds whether the version is a part of the name or beside it, as terms do."""
    for number in (1, 2):
        put(tmp_path / "models", "m", number, config=OWN + "max_batch_size: 1 version_policy { all {} }")
    chosen = {"folder": tmp_path / "models", "mode": "none"}
    async with guarded(tmp_path, backends=(), repository=chosen) as opened:
        await opened.kernel.declaring.settled.wait()
        stub: Any = GRPCInferenceServiceStub(opened.tcp.channel)
        anna = await opened.login("user")

        async def codes(rows: int = 1) -> list[Code]:
            return [
                await _code(stub, anna, *each, rows=rows) for each in (("m", "2"), ("m", ""), ("m", "1"), ("m:1", ""))
            ]

        assert await codes() == [Code.OK] * 4
        assert await codes(rows=2) == [Code.INVALID_ARGUMENT] * 4
        rule = await opened.rule("principal:anna", models="m:1")
        assert await codes() == [Code.OK, Code.OK, Code.PERMISSION_DENIED, Code.PERMISSION_DENIED]
        await opened.made.DeleteRule(asp.DeleteRuleRequest(rule_id=rule))
        rule = await opened.rule("principal:anna", models="m:2")
        assert await codes() == [Code.PERMISSION_DENIED, Code.PERMISSION_DENIED, Code.OK, Code.OK]
        await opened.made.DeleteRule(asp.DeleteRuleRequest(rule_id=rule))
        await opened.rule("principal:anna", models="m")
        assert await codes() == [Code.PERMISSION_DENIED] * 4


async def _code(stub: Any, login: Any, name: str, version: str, *, rows: int) -> Code:
    request = gp.ModelInferRequest(model_name=name, model_version=version, raw_input_contents=[bytes(4 * rows)])
    request.inputs.add(name="x", datatype="FP32", shape=[rows, 1])
    try:
        await stub.ModelInfer(request, metadata=login)
    except grpc.aio.AioRpcError as error:
        return error.code()
    return Code.OK
