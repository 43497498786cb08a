"""The Open Inference Protocol against Triton's own client, which has an environment of its own.

TRITON_CLIENT_PYTHON names the Python of an environment with `tritonclient[grpc]`; without it these are skipped.
"""

import base64
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from inferd.testing.kernel import kernel_process, write_fake_model
from inferd_api.inference import grpc_service_pb2, model_config_pb2
from inferd_client import Client

PYTHON = os.environ.get("TRITON_CLIENT_PYTHON", "")
PROGRAM = Path(__file__).with_name("triton_program.py")
MODELS = ("identity", "add", "accumulate", "repeat", "types")
TIMEOUT_S = 120

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not PYTHON, reason="TRITON_CLIENT_PYTHON names no Python with tritonclient[grpc]"),
]


def run(*arguments: str, program: Path = PROGRAM) -> str:
    """What a program says; its end in order is asserted."""
    done = subprocess.run(
        [PYTHON, str(program), *arguments], capture_output=True, text=True, check=False, timeout=TIMEOUT_S
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def facts(file: FileDescriptorProto) -> dict[str, Any]:
    """Names, numbers, types and labels of all that a file has, by path."""
    found: dict[str, Any] = {}

    def of_message(message: Any, path: str) -> None:
        found[path] = "message"
        for enum in message.enum_type:
            found[f"{path}.{enum.name}"] = [(value.name, value.number) for value in enum.value]
        for field in message.field:
            oneof = message.oneof_decl[field.oneof_index].name if field.HasField("oneof_index") else ""
            found[f"{path}.{field.name}"] = (field.number, field.type, field.label, field.type_name, oneof)
        for nested in message.nested_type:
            of_message(nested, f"{path}.{nested.name}")

    for enum in file.enum_type:
        found[enum.name] = [(value.name, value.number) for value in enum.value]
    for message in file.message_type:
        of_message(message, message.name)
    for service in file.service:
        for method in service.method:
            found[f"{service.name}/{method.name}"] = (
                *(method.input_type, method.output_type),
                *(method.client_streaming, method.server_streaming),
            )
    return {"": file.package, **found}


def of(module: Any) -> dict[str, Any]:
    proto = FileDescriptorProto()
    module.DESCRIPTOR.CopyToProto(proto)
    return facts(proto)


@pytest.fixture(scope="module")
def theirs() -> dict[str, dict[str, Any]]:
    """What the client's wheel says of each file."""
    told = json.loads(run("descriptors"))
    return {name: facts(FileDescriptorProto.FromString(base64.b64decode(data))) for name, data in told.items()}


def test_the_service_is_theirs(theirs: dict[str, dict[str, Any]]) -> None:
    """Calls, messages and fields of the service have the names, numbers, types and labels of the public client's."""
    assert of(grpc_service_pb2) == theirs["grpc_service"]


def test_the_configuration_is_theirs(theirs: dict[str, dict[str, Any]]) -> None:
    """What a model's configuration may say is called, numbered and typed as in the public client's."""
    assert of(model_config_pb2) == theirs["model_config"]


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """Of a kernel with the models."""
    with kernel_process(tmp_path) as kernel, Client(kernel.address) as client:
        for name in MODELS:
            client.create_model(name, source=str(write_fake_model(tmp_path, name, tensor=name)))
        yield kernel.address


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """Of a kernel with Triton's example models, none of which is loaded, and where they are."""
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'inferd[onnx]'")
    from triton_models import write_repository  # noqa: PLC0415 - it imports onnx

    models = write_repository(tmp_path / "models")
    chosen = {
        "INFERD_REPOSITORY__FOLDER": str(models),
        "INFERD_REPOSITORY__MODE": "explicit",
        "INFERD_BACKENDS": "[]",
        "INFERD_PLUGIN_MODULES": json.dumps(["inferd_onnx.plugin"]),
    }
    with kernel_process(tmp_path, environment=chosen) as kernel:
        yield kernel.address, models


def test_the_example_models_of_a_repository(repository: tuple[str, Path]) -> None:
    """Triton's client loads, overrides, runs and unloads its own example models as it does with Triton."""
    address, models = repository
    program = PROGRAM.with_name("triton_repository_program.py")
    done = run(address, str(models / "simple" / "1" / "model.onnx"), program=program).split()
    assert done[-1] == "with_asyncio"
    assert len(done) == 8


def test_every_kind_of_call(address: str) -> None:
    """Triton's client, sync and for asyncio, does all that it does with Triton but for what is not offered."""
    done = run("calls", address).split()
    assert done[-1] == "with_asyncio"
    assert len(done) == 12
