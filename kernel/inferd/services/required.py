"""Fields that a request must have: those that the wire API marks REQUIRED."""

from functools import cache
from typing import Any, NamedTuple

from google.api import field_behavior_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from inferd.errors import InvalidFieldError

REQUIRED, OUTPUT_ONLY = field_behavior_pb2.REQUIRED, field_behavior_pb2.OUTPUT_ONLY


class _Field(NamedTuple):
    """A field that is required, or a message with something in it that is."""

    name: str
    required: bool
    repeated: bool
    message: bool


def check_required(request: Message) -> None:
    """Refuse a request that lacks a text or a message which it must have; numbers and lists are for their readers.

    Raises:
        InvalidFieldError: It does; names the first such field by its path.
    """
    missing = _missing(request)
    if missing is not None:
        raise InvalidFieldError(f"{missing} is empty; it must be given", field=missing)


def behaviours(field: FieldDescriptor) -> tuple[int, ...]:
    """What the wire API says of a field, as numbers of `google.api.FieldBehavior`."""
    return tuple(field.GetOptions().Extensions[field_behavior_pb2.field_behavior])


def _missing(message: Any) -> str | None:
    """The path of the first field that is missing in a message; None where none is."""
    for name, required, repeated, nested in _fields(message.DESCRIPTOR):
        if repeated:
            for number, each in enumerate(getattr(message, name)):
                if (path := _missing(each)) is not None:
                    return f"{name}[{number}].{path}"
        elif not nested:
            if not getattr(message, name):
                return name
        elif message.HasField(name):
            if (path := _missing(getattr(message, name))) is not None:
                return f"{name}.{path}"
        elif required:
            return name
    return None


@cache
def _fields(kind: Descriptor) -> tuple[_Field, ...]:
    """The fields of a message that have to be looked at; no message of ours holds itself."""
    found = []
    for field in kind.fields:
        marks = behaviours(field)
        nested = field.message_type
        is_map = nested is not None and nested.GetOptions().map_entry
        message = nested is not None and not is_map
        single = not field.is_repeated and (message or field.type == FieldDescriptor.TYPE_STRING)
        required = REQUIRED in marks and single
        if required or (message and OUTPUT_ONLY not in marks and _fields(nested)):
            found.append(_Field(field.name, required, field.is_repeated, message))
    return tuple(found)
