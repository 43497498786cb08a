from typing import Any

import pytest
from connection import Connection
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_reflection.v1alpha import reflection_pb2

pytestmark = pytest.mark.asyncio(loop_scope="module")

NAMES = (
    *("Adapter", "Audit", "Auth", "Blob", "Dataset", "Evaluation", "Explanation", "Federation"),
    *("Function", "Host"),
    *("Index", "Invite"),
    *("Lease", "Model", "Moderation", "Pipeline", "Quota", "Task", "Training", "Upload"),
)
OURS = {f"inferd.v1.{name}Service" for name in NAMES} | {"inferd.agent.v1.AgentService"}
OTHERS = {
    "inference.GRPCInferenceService",
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
}
# What no message of the services names, and errors carry.
DETAILS = ("ErrorInfo", "RetryInfo", "BadRequest", "QuotaFailure")

VERSIONS = pytest.mark.parametrize("version", ["v1", "v1alpha"])


async def ask(connection: Connection, version: str, **request: Any) -> Any:
    """The answer to one question; the messages of both versions are the same but for their package."""
    method = connection.channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    call = method(iter([reflection_pb2.ServerReflectionRequest(**request)]))
    (response,) = [response async for response in call]
    return response


async def files(connection: Connection, version: str, symbol: str) -> list[FileDescriptorProto]:
    """The file of a symbol, and what it imports."""
    answer = await ask(connection, version, file_containing_symbol=symbol)
    told = answer.file_descriptor_response.file_descriptor_proto
    return [FileDescriptorProto.FromString(file) for file in told]


@VERSIONS
async def test_services_are_listed(shared: Connection, version: str) -> None:
    """Both versions list every service, themselves included."""
    answer = await ask(shared, version, list_services="")
    assert {service.name for service in answer.list_services_response.service} == OURS | OTHERS


@VERSIONS
@pytest.mark.parametrize("symbol", sorted(OURS | OTHERS | {f"google.rpc.{name}" for name in DETAILS}))
async def test_symbols_are_found(shared: Connection, version: str, symbol: str) -> None:
    """Every service, and every message that an error carries, comes with all files that it needs."""
    found = await files(shared, version, symbol)
    package, _, name = symbol.rpartition(".")
    assert [
        file.name
        for file in found
        if file.package == package and name in {each.name for each in (*file.service, *file.message_type)}
    ]
    names = {file.name for file in found}
    assert not [imported for file in found for imported in file.dependency if imported not in names]


@VERSIONS
async def test_what_is_not_known(shared: Connection, version: str) -> None:
    """An unknown symbol and an empty question are errors of their answer; the stream goes on."""
    assert (await ask(shared, version, file_containing_symbol="inferd.v1.Nothing")).error_response.error_code == 5
    assert (await ask(shared, version, file_by_filename="no/such.proto")).error_response.error_code == 5
    assert (await ask(shared, version)).error_response.error_code == 3


async def test_messages_of_v1_are_of_v1(shared: Connection) -> None:
    """A client that builds its types of reflection from what it is told gets those of the version that it asked for."""
    (file,) = await files(shared, "v1", "grpc.reflection.v1.ServerReflection")
    assert (file.name, file.package) == ("grpc/reflection/v1/reflection.proto", "grpc.reflection.v1")
    assert "v1alpha" not in str(file)
    (method,) = file.service[0].method
    assert method.input_type == ".grpc.reflection.v1.ServerReflectionRequest"
