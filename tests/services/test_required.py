"""What requests must have, as the wire API says it of each field; read from its descriptors."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import grpc
import pytest
from connection import Connection, reason_of
from google.api import field_behavior_pb2 as marks
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from inferd_api.v1 import host_service_pb2, lease_service_pb2, model_service_pb2, task_service_pb2

MODULES = (host_service_pb2, lease_service_pb2, model_service_pb2, task_service_pb2)
METHODS: list[MethodDescriptor] = [
    method
    for module in MODULES
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]
EXCLUSIVE = {marks.REQUIRED, marks.OPTIONAL, marks.OUTPUT_ONLY}


def marks_of(field: FieldDescriptor) -> list[int]:
    return list(field.GetOptions().Extensions[marks.field_behavior])


def in_oneof(field: FieldDescriptor) -> bool:
    """Whether a field is one of several; one that is `optional` is in a oneof of its own."""
    return field.containing_oneof is not None and len(field.containing_oneof.fields) > 1


class Missing(NamedTuple):
    """A required field of a method's request, and the fields on the way to it."""

    method: MethodDescriptor
    way: tuple[FieldDescriptor, ...]

    @property
    def path(self) -> str:
        *before, last = self.way
        return ".".join([*(f"{field.name}[0]" if field.is_repeated else field.name for field in before), last.name])

    def __str__(self) -> str:
        return f"{self.method.name} {self.path}"


def nested(field: FieldDescriptor) -> Descriptor | None:
    """The kind of a field that is a message of ours."""
    kind = field.message_type
    return kind if kind is not None and kind.full_name.startswith("inferd.") and not kind.has_options else None


def fields(kind: Descriptor, way: tuple[FieldDescriptor, ...] = ()) -> Iterator[tuple[FieldDescriptor, ...]]:
    """Every field that a request can carry, at any depth, as the way to it."""
    for field in kind.fields:
        yield (*way, field)
        inner = nested(field)
        if inner is not None and marks.OUTPUT_ONLY not in marks_of(field):
            yield from fields(inner, (*way, field))


ALL = [Missing(method, way) for method in METHODS for way in fields(method.input_type)]
REQUIRED = [each for each in ALL if marks.REQUIRED in marks_of(each.way[-1])]


def fill(message: Any, way: tuple[FieldDescriptor, ...]) -> None:
    """Give a request all that it must have but the last field on the way, and what is on the way to it."""
    for field in message.DESCRIPTOR.fields:
        if field is way[0]:
            if len(way) > 1:
                value = getattr(message, field.name)
                fill(value.add() if field.is_repeated else value, way[1:])
                if not field.is_repeated:
                    value.SetInParent()
        elif marks.REQUIRED in marks_of(field):
            give(message, field)
    for choice in message.DESCRIPTOR.oneofs:
        if len(choice.fields) > 1 and way[0] not in choice.fields:
            give(message, choice.fields[0])


def give(message: Any, field: FieldDescriptor) -> None:
    """Give a required field something."""
    value = getattr(message, field.name)
    if field.message_type is not None:
        target = value.add() if field.is_repeated else value
        for inner in field.message_type.fields:
            if marks.REQUIRED in marks_of(inner):
                give(target, inner)
        if not field.is_repeated:
            target.SetInParent()
    elif field.is_repeated:
        value.append("x" if field.type == FieldDescriptor.TYPE_STRING else 1)
    else:
        setattr(message, field.name, "x" if field.type == FieldDescriptor.TYPE_STRING else 1)


def test_each_field_says_what_it_is() -> None:
    """Each field of a request, at any depth, is marked required, optional or output only; of several, none is."""
    unmarked = {
        each.way[-1].full_name
        for each in ALL
        if len(EXCLUSIVE.intersection(marks_of(each.way[-1]))) != 1 and not in_oneof(each.way[-1])
    }
    assert unmarked == set()
    assert {each.method.containing_service.name for each in REQUIRED} == {"LeaseService", "ModelService", "TaskService"}


async def test_what_is_missing_is_named(connection: Connection) -> None:
    """A request without a field that it must have is INVALID_ARGUMENT, and names the field by its path."""
    told = {str(each): await refusal(connection, each) for each in REQUIRED}
    assert told == {str(each): (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", each.path) for each in REQUIRED}


async def refusal(connection: Connection, each: Missing) -> tuple[grpc.StatusCode, str, str]:
    """The code, the reason and the field of the error of a call without a field."""
    request = GetMessageClass(each.method.input_type)()
    fill(request, each.way)
    streams = each.method.server_streaming
    make = connection.channel.unary_stream if streams else connection.channel.unary_unary
    call: Any = make(
        f"/{each.method.containing_service.full_name}/{each.method.name}",
        request_serializer=GetMessageClass(each.method.input_type).SerializeToString,
        response_deserializer=GetMessageClass(each.method.output_type).FromString,
    )
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await (call(request).read() if streams else call(request))
    status = rpc_status.from_call(caught.value)
    assert status is not None
    bad = error_details_pb2.BadRequest()
    assert any(detail.Unpack(bad) for detail in status.details), str(each)
    return caught.value.code(), reason_of(caught.value)[0], str(bad.field_violations[0].field)
