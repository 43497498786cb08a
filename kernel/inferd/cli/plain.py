"""Protobuf messages as plain values for JSON output."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import MessageToDict
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc.status_pb2 import Status

if TYPE_CHECKING:
    from google.protobuf.message import Message

    FieldDescriptor = Any  # protobuf has several classes of descriptors and a type for none that holds for all

FLOAT_DIGITS = 6  # what a float of 32 bits holds


def plain(message: Message) -> dict[str, Any]:
    """The fields of `message` by their names in the proto files.

    Scalars and lists are always there, messages and optional fields where they are set. Unlike proto3's own JSON,
    64-bit numbers are numbers; enums are names without their prefix; a duration `x` becomes `x_s` in seconds; times
    are RFC 3339.
    """
    values = {}
    for field in message.DESCRIPTOR.fields:
        if field.has_presence and not message.HasField(field.name):
            continue
        value = getattr(message, field.name)
        is_duration = field.message_type is not None and field.message_type.full_name == Duration.DESCRIPTOR.full_name
        values[f"{field.name}_s" if is_duration else field.name] = _value(field, value)
    return values


def _value(field: FieldDescriptor, value: Any) -> Any:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return dict(value)
    if field.is_repeated:
        return [_single(field, item) for item in value]
    return _single(field, value)


def _single(field: FieldDescriptor, value: Any) -> Any:
    if field.enum_type is not None:
        return enum_name(field, value)
    if isinstance(value, Duration):
        return value.ToTimedelta().total_seconds()
    if isinstance(value, Timestamp):
        return value.ToJsonString()
    if isinstance(value, Status):
        return MessageToDict(value, preserving_proto_field_name=True)
    if isinstance(value, float):
        return round(value, FLOAT_DIGITS)
    return plain(value) if field.message_type is not None else value


def enum_name(field: FieldDescriptor, number: int) -> str:
    """The name of an enum's value without the prefix: "RUNNING" for `TASK_STATE_RUNNING`."""
    values = field.enum_type.values_by_number
    if number not in values:
        return str(number)  # newer than this version
    prefix = values[0].name.removesuffix("UNSPECIFIED")
    return str(values[number].name.removeprefix(prefix))
