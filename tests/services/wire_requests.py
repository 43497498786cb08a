"""Requests made from the descriptors of the wire API, so that a test covers fields that come later, too."""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import grpc
from connection import Connection, reason_of
from google.api import field_behavior_pb2 as marks
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from inferd_api.v1 import host_service_pb2, lease_service_pb2, model_service_pb2, task_service_pb2

MODULES = (host_service_pb2, lease_service_pb2, model_service_pb2, task_service_pb2)
METHODS: list[MethodDescriptor] = [
    method
    for module in MODULES
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]


PLAIN = {FieldDescriptor.TYPE_STRING: "x", FieldDescriptor.TYPE_BYTES: b"x"}  # what must be given; other numbers are 1
IN_ORDER = re.compile(r"^orders\[0\]\.\w+\.(request\.)?")


def marks_of(field: FieldDescriptor) -> list[int]:
    """What the wire API says of a field."""
    return list(field.GetOptions().Extensions[marks.field_behavior])


def in_oneof(field: FieldDescriptor) -> bool:
    """Whether a field is one of several; one that is `optional` is in a oneof of its own."""
    return field.containing_oneof is not None and len(field.containing_oneof.fields) > 1


class Way(NamedTuple):
    """A field that the request of a method can carry, and the fields on the way to it."""

    method: MethodDescriptor
    fields: tuple[FieldDescriptor, ...]

    @property
    def last(self) -> FieldDescriptor:
        return self.fields[-1]

    @property
    def path(self) -> str:
        """As an error names it. What lies in an order of `RunTasks` is named as in a call of its own."""
        *before, last = self.fields
        path = ".".join([*(f"{field.name}[0]" if field.is_repeated else field.name for field in before), last.name])
        return IN_ORDER.sub("", path)

    def __str__(self) -> str:
        return f"{self.method.name} {'.'.join(field.name for field in self.fields)}"


def _nested(field: FieldDescriptor) -> Descriptor | None:
    """The kind of a field that is a message of ours."""
    kind = field.message_type
    return kind if kind is not None and kind.full_name.startswith("inferd.") and not kind.has_options else None


def _fields(kind: Descriptor, way: tuple[FieldDescriptor, ...] = ()) -> Iterator[tuple[FieldDescriptor, ...]]:
    for field in kind.fields:
        yield (*way, field)
        inner = _nested(field)
        if inner is not None and marks.OUTPUT_ONLY not in marks_of(field):
            yield from _fields(inner, (*way, field))


WAYS = [
    way
    for method in METHODS
    for fields in _fields(method.input_type)
    if str(way := Way(method, fields)) != "UploadModel start.model.source"  # which follows from the files
]
"""Every field that a request can carry, at any depth."""


class Maker:
    """Makes requests that have what they must have.

    Args:
        values: Values of fields, by the field's full name; other texts that must be given are "x", other numbers 1.
    """

    def __init__(self, values: dict[str, Any] | None = None) -> None:
        self._values = values or {}

    def make(self, way: Way, value: Any = None) -> Any:
        """A request with all that it must have and what is on the way, with `value` at its end; None leaves it out."""
        request = GetMessageClass(way.method.input_type)()
        self._fill(request, way.fields, value)
        if way.method.name == "UploadModel" and request.start.HasField("model"):
            request.start.model.ClearField("source")
        return request

    def _fill(self, message: Any, way: tuple[FieldDescriptor, ...], end: Any) -> None:
        for field in message.DESCRIPTOR.fields:
            if field is not way[0]:
                if marks.REQUIRED in marks_of(field) or field.full_name in self._values:
                    self._give(message, field)
            elif len(way) > 1:
                value = getattr(message, field.name)
                self._fill(value.add() if field.is_repeated else value, way[1:], end)
                if not field.is_repeated:
                    value.SetInParent()
            elif end is not None:
                _put(message, field, end)
        for choice in message.DESCRIPTOR.oneofs:
            if len(choice.fields) > 1 and way[0] not in choice.fields and message.WhichOneof(choice.name) is None:
                self._give(message, choice.fields[0])

    def _give(self, message: Any, field: FieldDescriptor) -> None:
        if field.message_type is None:
            _put(message, field, self._values.get(field.full_name, PLAIN.get(field.type, 1)))
            return
        value = getattr(message, field.name)
        target = value.add() if field.is_repeated else value
        for inner in field.message_type.fields:
            if marks.REQUIRED in marks_of(inner) or inner.full_name in self._values:
                self._give(target, inner)
        for choice in field.message_type.oneofs:
            if len(choice.fields) > 1 and target.WhichOneof(choice.name) is None:
                self._give(target, choice.fields[0])
        if not field.is_repeated:
            target.SetInParent()


def _put(message: Any, field: FieldDescriptor, value: Any) -> None:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        getattr(message, field.name).update(value)
    elif field.is_repeated:
        getattr(message, field.name).append(value)
    elif field.message_type is not None:
        getattr(message, field.name).CopyFrom(value)
    else:
        setattr(message, field.name, value)


def call(connection: Connection, way: Way, request: Any, timeout_s: float | None = None) -> Any:
    """The awaitable first answer of a method to a request."""
    method, streams = way.method, way.method.server_streaming
    codec = {
        "request_serializer": GetMessageClass(method.input_type).SerializeToString,
        "response_deserializer": GetMessageClass(method.output_type).FromString,
    }
    name = f"/{method.containing_service.full_name}/{method.name}"
    if method.name == "RunTasks":
        return follow(connection.channel.stream_stream(name, **codec)(iter([request]), timeout=timeout_s))
    if method.client_streaming:
        return connection.channel.stream_stream(name, **codec)(iter([request]), timeout=timeout_s).read()
    if streams:
        return connection.channel.unary_stream(name, **codec)(request, timeout=timeout_s).read()
    return connection.channel.unary_unary(name, **codec)(request, timeout=timeout_s)


async def follow(updates: Any) -> None:
    """Read all that a call of `RunTasks` gives; a refused order is raised as the error of a call of its own."""
    async for response in updates:
        for update in response.updates:
            if update.HasField("error"):
                raise grpc.aio.AioRpcError(*(status_of(update.error)))


def status_of(status: Status) -> tuple[grpc.StatusCode, grpc.aio.Metadata, grpc.aio.Metadata, str]:
    """What an error is made of that carries a status."""
    (code,) = (code for code in grpc.StatusCode if code.value[0] == status.code)
    details = grpc.aio.Metadata(("grpc-status-details-bin", status.SerializeToString()))
    return code, grpc.aio.Metadata(), details, status.message


def refusal_of(error: grpc.aio.AioRpcError) -> tuple[grpc.StatusCode, str, str]:
    """The code, the reason and the field of an error."""
    status = rpc_status.from_call(error)
    assert status is not None, f"no details: {error}"
    bad = error_details_pb2.BadRequest()
    named = any(detail.Unpack(bad) for detail in status.details)
    return error.code(), reason_of(error)[0], str(bad.field_violations[0].field) if named else ""
