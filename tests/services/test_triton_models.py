"""Triton's example models, as a repository of ONNX files, served as they stand."""

import json
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'inferd[onnx]'")

from connection import Connection
from triton_models import SIZE, write_repository

from inferd.services.inference.tensors import write_texts
from inferd.testing.kernel import kernel_here
from inferd_api.inference import grpc_service_pb2 as gp
from inferd_api.inference.grpc_service_pb2_grpc import GRPCInferenceServiceStub

pytestmark = pytest.mark.asyncio(loop_scope="module")

A, B = [*range(SIZE)], [1] * SIZE


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stub(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Any]:
    """What a client calls of a kernel that serves them all."""
    folder = tmp_path_factory.mktemp("triton")
    chosen = {"backends": (), "plugin_modules": ("inferd_onnx.plugin",)}
    repository = {"folder": write_repository(folder / "models"), "mode": "explicit"}
    async with kernel_here(folder, repository=repository, **chosen) as kernel:
        connection = Connection(kernel, folder)
        yield GRPCInferenceServiceStub(connection.channel)
        await connection.channel.close()


async def load(stub: Any, name: str) -> None:
    await stub.RepositoryModelLoad(gp.RepositoryModelLoadRequest(model_name=name))


def request(name: str, datatype: str, shape: list[int], *raws: bytes, **parameters: Any) -> gp.ModelInferRequest:
    """Inputs in their order."""
    asked = gp.ModelInferRequest(model_name=name, raw_input_contents=raws)
    for place in range(len(raws)):
        asked.inputs.add(name="INPUT" if parameters else f"INPUT{place}", datatype=datatype, shape=shape)
    for key, value in parameters.items():
        kind = "bool_param" if isinstance(value, bool) else "string_param" if isinstance(value, str) else "int64_param"
        setattr(asked.parameters[key], kind, value)
    return asked


def ints(values: list[int], code: str = "i") -> bytes:
    return struct.pack(f"<{len(values)}{code}", *values)


def texts(values: list[int]) -> bytes:
    return write_texts(map(str, values))


@pytest.mark.parametrize(
    ("name", "datatype"), [("simple", "INT32"), ("simple_int8", "INT8"), ("simple_string", "BYTES")]
)
async def test_sums_and_differences(stub: Any, name: str, datatype: str) -> None:
    """A model of a repository is loaded by a call, says what its configuration says, and gives what it gives there."""
    await load(stub, name)
    told = await stub.ModelMetadata(gp.ModelMetadataRequest(name=name))
    assert (told.platform, list(told.versions)) == ("onnxruntime_onnx", ["1"])
    assert [(each.name, each.datatype, list(each.shape)) for each in told.inputs] == [
        (f"INPUT{place}", datatype, [-1, SIZE]) for place in (0, 1)
    ]
    config = (await stub.ModelConfig(gp.ModelConfigRequest(name=name))).config
    assert (config.max_batch_size, config.backend) == (8, "onnxruntime")
    write = {"INT32": ints, "INT8": lambda values: ints(values, "b"), "BYTES": texts}[datatype]
    got = await stub.ModelInfer(request(name, datatype, [1, SIZE], write(A), write(B)))
    assert list(got.raw_output_contents) == [
        write([a + b for a, b in zip(A, B, strict=True)]),
        write([a - b for a, b in zip(A, B, strict=True)]),
    ]


async def test_a_folder_without_a_configuration(stub: Any) -> None:
    """What config.pbtxt does not say is completed from the model."""
    await load(stub, "simple_identity")
    config = (await stub.ModelConfig(gp.ModelConfigRequest(name="simple_identity"))).config
    assert (config.name, config.platform, config.backend) == ("simple_identity", "onnxruntime_onnx", "onnxruntime")
    assert config.max_batch_size > 1
    assert [(each.name, list(each.dims)) for each in (*config.input, *config.output)] == [
        ("INPUT0", [SIZE]),
        ("OUTPUT0", [SIZE]),
    ]
    got = await stub.ModelInfer(request("simple_identity", "BYTES", [1, SIZE], texts(A)))
    assert got.raw_output_contents[0] == texts(A)


@pytest.mark.parametrize(("name", "added"), [("simple_sequence", 0), ("simple_dyna_sequence", 9)])
async def test_sequences_with_controls_and_states(stub: Any, name: str, added: int) -> None:
    """Two sequences at once add up what each is given; the model is told of their starts, ends and ids."""
    await load(stub, name)
    told = await stub.ModelMetadata(gp.ModelMetadataRequest(name=name))
    assert ([each.name for each in told.inputs], [each.name for each in told.outputs]) == (["INPUT"], ["OUTPUT"])
    for turn in range(3):
        for number, sequence in ((turn + 1, 9), (10 * (turn + 1), 10)):
            flags = {"sequence_id": sequence, "sequence_start": turn == 0, "sequence_end": turn == 2}
            got = await stub.ModelInfer(request(name, "INT32", [1, 1], ints([number]), **flags))
            sums = sum(range(turn + 2)) * (1 if sequence == 9 else 10)
            ends = (sequence if added else 0) if turn == 2 else 0
            assert got.raw_output_contents[0] == ints([sums + ends])
    with pytest.raises(grpc.aio.AioRpcError, match="must specify the START flag on the first request"):
        await stub.ModelInfer(request(name, "INT32", [1, 1], ints([1]), sequence_id=9))
    with pytest.raises(grpc.aio.AioRpcError, match="must specify batch-size 1"):
        await stub.ModelInfer(request(name, "INT32", [2, 1], ints([1, 2]), sequence_id=9, sequence_start=True))


async def test_an_id_is_of_the_type_that_the_model_takes(stub: Any) -> None:
    """A text is no id for a model that takes numbers; the words are Triton's."""
    await load(stub, "simple_dyna_sequence")
    asked = request("simple_dyna_sequence", "INT32", [1, 1], ints([1]), sequence_id="nine", sequence_start=True)
    with pytest.raises(grpc.aio.AioRpcError, match="sequence batching control 'CORRID' data-type is 'BYTES'"):
        await stub.ModelInfer(asked)


async def test_an_ensemble(stub: Any) -> None:
    """A load of it loads what it needs; its outputs are those of its last step, and a step's error names it."""
    await load(stub, "pipeline")
    assert (await stub.ModelReady(gp.ModelReadyRequest(name="pipeline", version="1"))).ready
    told = await stub.ModelMetadata(gp.ModelMetadataRequest(name="pipeline"))
    assert (told.platform, list(told.versions), len(told.inputs)) == ("ensemble", ["1"], 2)
    got = await stub.ModelInfer(request("pipeline", "INT32", [1, SIZE], ints(A), ints(B)))
    assert (got.model_name, got.model_version) == ("pipeline", "1")
    assert list(got.raw_output_contents) == [ints([2 * a for a in A]), ints([2 * b for b in B])]
    with pytest.raises(grpc.aio.AioRpcError, match="in ensemble 'pipeline', inference input 'INPUT0' data-type is"):
        await stub.ModelInfer(request("pipeline", "INT64", [1, SIZE], ints(A, "q"), ints(B, "q")))
    unload = gp.RepositoryModelUnloadRequest(model_name="pipeline")
    unload.parameters["unload_dependents"].bool_param = True
    await stub.RepositoryModelUnload(unload)
    assert not (await stub.ModelReady(gp.ModelReadyRequest(name="simple"))).ready


async def test_settings_name_no_file_outside(stub: Any, tmp_path: Path, tmp_path_factory: Any) -> None:
    """A configuration names files of its own model alone, and has a worker write nowhere in the repository."""
    root = tmp_path_factory.getbasetemp() / "triton0" / "models"  # of `stub`
    for folder, why in {
        tmp_path: "is not in a folder",
        root / "simple_int8": "is not in a folder",
        root / "simple": "where a worker would write",
    }.items():
        asked = gp.RepositoryModelLoadRequest(model_name="simple")
        setting = {"parameters": {"inferd.profile": {"string_value": str(folder)}}}
        asked.parameters["config"].string_param = json.dumps(setting)
        with pytest.raises(grpc.aio.AioRpcError, match=rf"setting 'profile' .*{why}") as caught:
            await stub.RepositoryModelLoad(asked)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_configuration_that_the_model_is_not(stub: Any) -> None:
    """What a configuration says otherwise than the model is refused at the load, and the model is not served."""
    config = '{"max_batch_size": 8, "input": [{"name": "INPUT0", "data_type": "TYPE_FP32", "dims": [16]}]}'
    asked = gp.RepositoryModelLoadRequest(model_name="simple")
    asked.parameters["config"].string_param = config
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.RepositoryModelLoad(asked)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "unexpected datatype TYPE_FP32 for inference input 'INPUT0', expecting TYPE_INT32" in str(
        caught.value.details()
    )
    await load(stub, "simple")
    assert (await stub.ModelInfer(request("simple", "INT32", [1, SIZE], ints(A), ints(B)))).model_version == "1"
