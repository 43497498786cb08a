"""Messages as JSON: that of the protos (ProtoJSON), so that any library of protobuf reads what a command writes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from google.protobuf.json_format import MessageToDict
from google.rpc import error_details_pb2  # noqa: F401 - what the details of a `Status` are, for `MessageToDict`

if TYPE_CHECKING:
    from google.protobuf.message import Message


def plain(message: Message) -> dict[str, Any]:
    """The fields of `message` by their names in the proto files, as ProtoJSON has them.

    Scalars and lists are always there, messages and optional fields where they are set. 64-bit numbers are strings,
    enums their whole names, durations "1.5s", times RFC 3339.
    """
    return MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
