"""Sets of tensors for the wire: in one event, or where that is too large for a message in several."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

from inferd.core.task_events import TaskEvent, TensorOutput
from inferd.errors import InternalError
from inferd_api.v1 import function_pb2 as fp
from inferd_api.v1 import task_pb2 as tp
from inferd_api.v1 import tensor_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from google.protobuf.message import Message

    from inferd.runtime.event_log import Numbered

M = TypeVar("M", bound="Message")

LARGE_BYTES: Final = 512 << 10
"""A set of more than so much has messages of its own."""
PART_BYTES: Final = 2 << 20
"""Most of a set that one message has: several small ones let others between them, and cost little more."""
CALL_TAG: Final = fp.CallOutput(json="x").SerializeToString()[:2]
MARGIN_BYTES: Final = 256  # of a message around a part of a tensor


def is_large(event: TaskEvent, most_bytes: int) -> bool:
    """Whether it is a set of tensors that has messages of its own, none of which is larger than `most_bytes`."""
    return (
        isinstance(event, TensorOutput) and event.size_bytes > min(LARGE_BYTES, most_bytes // 2) and not is_call(event)
    )


def is_call(output: TensorOutput) -> bool:
    """Whether it is a piece of what a function gave: its bytes begin as no set of tensors does."""
    return output.written.startswith(CALL_TAG)


def write_set(output: TensorOutput, into: pb.InferOutput) -> None:
    """A set as a whole."""
    into.MergeFromString(output.written)
    for place, elements in output.elements:
        into.outputs[place].data = elements.read()


def write_parts(
    task_id: str, numbered: Numbered, most_bytes: int, make: Callable[[], tuple[M, tp.TaskEvent]]
) -> Iterator[M]:
    """The messages that tell a set, none larger than it may be; their events all have its number.

    Args:
        task_id: The task; "" where that was told.
        numbered: The set.
        most_bytes: Largest message.
        make: Gives a message and the event in it, which is written in its place: each copy of a part costs as much as
            sending it.
    """
    output = numbered.event
    if not isinstance(output, TensorOutput):
        raise InternalError(f"a defect of inferd: {type(output).__name__} is no set of tensors")
    header = pb.InferOutput.FromString(output.written)
    elsewhere = dict(output.elements)
    most_bytes = min(PART_BYTES, most_bytes - max(MARGIN_BYTES, most_bytes // 16))

    def begin() -> tuple[M, pb.InferOutput]:
        message, event = make()
        event.task_id, event.sequence = task_id, numbered.sequence
        return message, event.output.infer

    (message, part), left_bytes = begin(), most_bytes
    for place, tensor in enumerate(header.outputs):
        size_bytes = tensor.ByteSize() + MARGIN_BYTES
        if part.outputs and size_bytes > left_bytes:
            part.more = True
            yield message
            (message, part), left_bytes = begin(), most_bytes
        into = part.outputs.add()
        into.CopyFrom(tensor)
        left_bytes -= size_bytes
        elements, start = elsewhere.get(place), 0
        while elements is not None and start < elements.size_bytes:
            if left_bytes <= 0:
                part.more = True
                yield message
                (message, part), left_bytes = begin(), most_bytes
                into = part.outputs.add(name=tensor.name)
            data = elements.read(start, left_bytes)
            into.data = data
            start += len(data)
            left_bytes -= len(data)
    part.SetInParent()
    yield message
