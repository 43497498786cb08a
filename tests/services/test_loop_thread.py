"""The kernel's event loop waits for no disk: every other call under way would wait with it."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from connection import Connection
from every_call import CALLS, Client
from grpc_health.v1 import health_pb2
from watched_kernel import watched_kernel

from inferd.testing.kernel import write_fake_model
from inferd_api.v1 import (
    audit_service_pb2,
    auth_service_pb2,
    blob_service_pb2,
    dataset_service_pb2,
    evaluation_service_pb2,
    federation_service_pb2,
    function_service_pb2,
    host_service_pb2,
    index_service_pb2,
    lease_service_pb2,
    model_service_pb2,
    moderation_service_pb2,
    quota_service_pb2,
    task_service_pb2,
    training_service_pb2,
    upload_service_pb2,
)
from inferd_api.v1 import model_pb2 as mp
from inferd_api.v1 import model_service_pb2 as ms

MODULES = (
    blob_service_pb2,
    dataset_service_pb2,
    evaluation_service_pb2,
    federation_service_pb2,
    auth_service_pb2,
    function_service_pb2,
    host_service_pb2,
    index_service_pb2,
    lease_service_pb2,
    model_service_pb2,
    audit_service_pb2,
    moderation_service_pb2,
    quota_service_pb2,
    task_service_pb2,
    training_service_pb2,
    upload_service_pb2,
    health_pb2,
)
DEADLINE_S = 90.0


def connect(address: str, folder: Path) -> Connection:
    kernel: Any = SimpleNamespace(addresses=(address,))
    return Connection(kernel, folder)


def test_every_method_is_called() -> None:
    """The client of these tests uses each method of each service that a kernel offers."""
    services = [service for module in MODULES for service in module.DESCRIPTOR.services_by_name.values()]
    methods = {f"{service.full_name}/{method.name}" for service in services for method in service.methods}
    assert methods == {name for name in CALLS if "reflection" not in name}


@pytest.mark.e2e
async def test_no_file_is_opened_in_the_loop(tmp_path: Path) -> None:
    """While a client uses every method, the event loop's thread opens no file, lists no folder and asks no resolver."""
    with watched_kernel(tmp_path, INFERD_STORE__URL=f"sqlite:{tmp_path}/store") as kernel:
        connection = connect(kernel.process.address, tmp_path)
        client = Client(connection, tmp_path / "data")
        client.pull()
        kernel.install_something()
        kernel.look()
        opened: dict[str, list[str]] = {}
        async with asyncio.timeout(DEADLINE_S):
            for name, call in CALLS.items():
                await call(client)
                opened[name] = kernel.look()
        await connection.channel.close()
    assert {name: lines for name, lines in opened.items() if lines} == {}


@pytest.mark.e2e
async def test_no_log_is_read_in_the_loop(tmp_path: Path) -> None:
    """What a worker said last is read, and a model that cannot be placed is looked at, beside the event loop."""
    with watched_kernel(tmp_path) as kernel:
        connection = connect(kernel.process.address, tmp_path)
        source = str(write_fake_model(tmp_path, die_in_measure=True))
        kernel.look()
        models = connection.models
        async with asyncio.timeout(DEADLINE_S):
            await models.CreateModel(ms.CreateModelRequest(model=mp.Model(name="fake", source=source)))
            for call in (
                models.LoadModel(ms.LoadModelRequest(name="fake")),
                models.PlanLoad(ms.PlanLoadRequest(name="fake")),
                models.CreateModel(ms.CreateModelRequest(model=mp.Model(name="other", source=str(tmp_path)))),
            ):
                with pytest.raises(grpc.aio.AioRpcError):
                    await call
        assert kernel.look() == []
        await connection.channel.close()
