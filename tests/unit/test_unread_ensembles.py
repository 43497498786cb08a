"""Ensembles of one stream: what they take until their client has read their answers."""

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import pytest
from time_limits import LONG_S

from inferd.errors import LimitExceededError
from inferd.services.inference.stream_ensembles import AT_ONCE, SEQUENCE, Ensembles, Whole
from inferd_api.inference import grpc_service_pb2 as gp

if TYPE_CHECKING:
    from collections.abc import Iterator

    from inferd.core.ids import Tenant


class Held:
    """How many bytes are held, of at most so many."""

    def __init__(self, most: int) -> None:
        self.most, self.bytes = most, 0

    @contextmanager
    def holding(self, _: "Tenant", size_bytes: int) -> "Iterator[None]":
        if self.bytes + size_bytes > self.most:
            raise LimitExceededError("too much")
        self.bytes += size_bytes
        try:
            yield
        finally:
            self.bytes -= size_bytes


class Caller:
    tenant = "t"


class Call:
    caller = Caller()


async def infer(request: gp.ModelInferRequest, _: Any) -> gp.ModelInferResponse:
    return gp.ModelInferResponse(id=request.id, raw_output_contents=[bytes(1000)])


async def test_answers_that_are_not_read_are_counted_and_hold_up_what_follows() -> None:
    """A finished answer counts until it was told, and no more ensembles run than are told."""
    held = Held(1 << 20)
    ensembles = Ensembles(infer, lambda _: True, cast("Any", held), cast("Any", Call()))
    begun: asyncio.Queue[Whole] = asyncio.Queue()

    async def begin() -> None:
        for number in range(3 * AT_ONCE):
            request = gp.ModelInferRequest(id=str(number))
            if number % 2:
                request.parameters[SEQUENCE].int64_param = 1
            begun.put_nowait(await ensembles.begin(request))

    reading = asyncio.create_task(begin())
    async with asyncio.timeout(LONG_S):
        first = [await begun.get() for _ in range(AT_ONCE)]
        for each in first:
            await each.result()
        assert AT_ONCE * 1000 < held.bytes < (AT_ONCE + 1) * 1000 + 500
        assert begun.empty()
        told = []
        for number in range(3 * AT_ONCE):
            each = first[number] if number < AT_ONCE else await begun.get()
            told.append((await each.result()).id)
            await each.close()
        await reading
    assert told == [str(number) for number in range(3 * AT_ONCE)]
    assert held.bytes == 0


async def test_an_answer_that_may_not_be_held_is_refused() -> None:
    """Where the bytes of a tenant are used up the request fails, and holds nothing."""
    held = Held(500)
    whole = await Ensembles(infer, lambda _: True, cast("Any", held), cast("Any", Call())).begin(
        gp.ModelInferRequest(id="1")
    )
    with pytest.raises(LimitExceededError):
        await whole.result()
    await whole.close()
    assert held.bytes == 0
