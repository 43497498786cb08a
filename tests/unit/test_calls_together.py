"""What the calls of one task for several inputs give, put together within the bounds of a message."""

import json
from typing import Any

import pytest

from inferd.engine.cells.calls import Asking, OverBoundError, Together


class Channel:
    """Takes what is sent."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def send(self, _: Any, data: bytes) -> None:
        self.sent.append(data)


@pytest.mark.parametrize("pieces", [1, 5])
def test_values_within_the_bounds_are_told_however_many_they_are(pieces: int) -> None:
    """Several values are in one array only where that is no larger than a piece may be; a large one is alone."""
    channel = Channel()
    streams = pieces > 1
    together = Together(
        channel, Asking(channel, most=0, most_bytes=0), streams=streams, piece_bytes=1024, array_bytes=8000
    )  # type: ignore[arg-type]
    sizes = [100] * 30 + [1022] + [500] * 4 + [10] * 9
    for size in sizes:
        for _ in range(pieces):
            together.send({}, json.dumps("x" * size).encode())
        together.next()
    together.flush()
    told = [value for each in channel.sent for value in json.loads(each)]
    assert [len(value[0]) if streams else len(value) for value in told] == sizes
    assert all(len(each) <= (8000 if streams else 1024) + 2 for each in channel.sent)
    assert len(channel.sent) < len(sizes)


@pytest.mark.parametrize(("pieces", "size", "bound"), [(1, 1025, "piece"), (9, 900, "array")])
def test_what_is_too_large_says_what_of_it_is(pieces: int, size: int, bound: str) -> None:
    """A piece that is too large is told from pieces of one input that are too large together."""
    together = Together(
        Channel(), Asking(Channel(), most=0, most_bytes=0), streams=True, piece_bytes=1024, array_bytes=8000
    )  # type: ignore[arg-type]
    for _ in range(pieces - 1):
        together.send({}, b"1" * size)
    with pytest.raises(OverBoundError) as caught:
        together.send({}, b"1" * size)
    assert caught.value.bound == bound
