"""Outputs in the words of the Open Inference Protocol, and what is read of those that are too large."""

from typing import NoReturn

import pytest

from inferd.core.task_events import TensorOutput
from inferd.errors import LimitExceededError
from inferd.services.inference.responses import write_outputs
from inferd.shared import Memory, Part
from inferd_api.inference import grpc_service_pb2 as gp
from inferd_api.v1 import tensor_pb2 as pb

LIMIT_BYTES = 4 << 20


class Unread:
    """Elements of which none may be read."""

    size_bytes = LIMIT_BYTES

    def read(self, start: int = 0, size_bytes: int | None = None) -> NoReturn:
        raise AssertionError(f"{size_bytes} bytes were read at {start}")


def test_outputs_beyond_a_message_are_not_read() -> None:
    """Outputs that no message has room for are refused by their size, before an element of them is read."""
    head = pb.InferOutput(outputs=[pb.Tensor(name="y", element_type=pb.ELEMENT_TYPE_UINT8, shape=[LIMIT_BYTES])])
    output = TensorOutput(head.SerializeToString(), ((0, Unread()),))
    with pytest.raises(LimitExceededError, match=f"the outputs have {output.size_bytes} bytes and") as caught:
        write_outputs(output, gp.ModelInferResponse(), limit_bytes=LIMIT_BYTES)
    assert caught.value.metadata == {
        "bound": "limits.message_bytes",
        "value": str(output.size_bytes),
        "limit": str(LIMIT_BYTES),
    }


def test_outputs_within_a_message_are_read() -> None:
    """What is not more than a message may have is written whole."""
    head = pb.InferOutput(outputs=[pb.Tensor(name="y", element_type=pb.ELEMENT_TYPE_UINT8, shape=[5])])
    output, into = (
        TensorOutput(head.SerializeToString(), ((0, Part(Memory.of(b"12345"), 0, 5)),)),
        gp.ModelInferResponse(),
    )
    write_outputs(output, into, limit_bytes=output.size_bytes)
    assert list(into.raw_output_contents) == [b"12345"]
