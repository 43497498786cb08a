import os

import grpc
import pytest
from connection import Connection, reason_of
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from inferd_api.v1 import host_service_pb2 as hs
from inferd_api.v1 import resources_pb2 as pb


async def test_the_host_says_what_it_is(connection: Connection) -> None:
    """The host names its devices with their memory and cores, its version and what it does."""
    host = (await connection.hosts.GetHost(hs.GetHostRequest())).host
    assert host.pid == os.getpid()
    assert host.memory_bytes > 1 << 20
    devices = {d.device_id: d for d in host.devices}
    assert devices["cpu:0"].memory_bytes > 1 << 28
    assert devices["cpu:0"].cores >= 1


async def test_backends_are_listed_with_their_settings(connection: Connection) -> None:
    """Each plugin is listed with its state, its formats and the settings that it understands."""
    backends = {b.name: b for b in (await connection.hosts.ListBackends(hs.ListBackendsRequest())).backends}
    assert backends["fake"].state == backends["cpu"].state == pb.BACKEND_STATE_READY
    assert list(backends["cpu"].formats) == ["gguf"]
    assert "context_tokens" in {s.name for s in backends["cpu"].settings}
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await connection.hosts.ListBackends(hs.ListBackendsRequest(page_size=2000))
    assert reason_of(caught.value)[0] == "INVALID_FIELD"


async def test_reflection_names_every_service(connection: Connection) -> None:
    """A client that has no protos can ask which services there are."""
    stub = reflection_pb2_grpc.ServerReflectionStub(connection.channel)
    call = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
    names = {s.name async for answer in call for s in answer.list_services_response.service}
    assert names >= {
        "inferd.v1.TaskService",
        "inferd.v1.ModelService",
        "inferd.v1.HostService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }
