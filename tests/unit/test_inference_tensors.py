"""Elements of tensors of the Open Inference Protocol, and how much is done for them at once."""

import asyncio
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest

from inferd.errors import InvalidFieldError
from inferd.services.inference.tensors import SLICE, read_tensor
from inferd_api.inference import grpc_service_pb2 as gp


class Uncounted:
    """Elements of which none may be read."""

    def __len__(self) -> int:
        return 4_000_000

    def __getitem__(self, place: object) -> NoReturn:
        raise AssertionError(f"elements were read before they were counted: {place}")

    __iter__ = None


@pytest.mark.parametrize(
    ("datatype", "contents", "words"),
    [("INT8", "int_contents", "Expected 2, got 4000000"), ("BYTES", "bytes_contents", "4000000 .*expecting 2")],
)
async def test_contents_that_are_not_as_many_as_the_shape_says(datatype: str, contents: str, words: str) -> None:
    """Typed contents of another count than that of the shape are refused without reading one of them."""
    listed = [(SimpleNamespace(name=contents), Uncounted())]
    given: Any = SimpleNamespace(
        name="x", datatype=datatype, shape=[2], contents=SimpleNamespace(ListFields=lambda: listed)
    )
    with pytest.raises(InvalidFieldError, match=words):
        await read_tensor(given, None, "inputs[0]", model="m", most_strings=8)


async def test_others_have_their_turn_while_contents_are_packed() -> None:
    """Of many elements a slice is packed at a time, and what else is to be done goes on between."""
    given = gp.ModelInferRequest.InferInputTensor(name="x", datatype="INT8", shape=[3 * SLICE + 1])
    given.contents.int_contents.extend([5] * (3 * SLICE + 1))
    reading = asyncio.create_task(read_tensor(given, None, "inputs[0]", model="m", most_strings=8))
    turns = 0
    while not reading.done():
        turns += 1
        await asyncio.sleep(0)
    assert turns > 3
    assert (await reading).data == b"\5" * (3 * SLICE + 1)
