"""What is told of a call that its kernel ended while something was being written to it."""

import asyncio
from typing import TYPE_CHECKING

import grpc
import grpc.aio
import pytest

from inferd_client import endings
from inferd_client.endings import Ending
from inferd_client.rpc_errors import BROKEN, from_rpc
from inferd_client.versions import is_lacking

if TYPE_CHECKING:
    from collections.abc import Callable

LACKING = grpc.StatusCode.UNIMPLEMENTED, "Method not found!"
OWN_WORDS = grpc.StatusCode.INTERNAL, BROKEN
NOTHING = grpc.aio.Metadata()


class Call:
    """One that ends as often as it is told to, as those of grpc.aio do."""

    def __init__(self) -> None:
        self._told: list[Callable[[Call], None]] = []
        self._end = OWN_WORDS

    def add_done_callback(self, told: "Callable[[Call], None]") -> None:
        self._told.append(told)

    def end(self, end: tuple[grpc.StatusCode, str]) -> None:
        self._end = end
        for told in self._told:
            told(self)

    async def code(self) -> grpc.StatusCode:
        return self._end[0]

    async def details(self) -> str:
        return self._end[1]

    async def initial_metadata(self) -> grpc.aio.Metadata:
        return NOTHING

    async def trailing_metadata(self) -> grpc.aio.Metadata:
        return NOTHING


def failed(end: tuple[grpc.StatusCode, str]) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(end[0], NOTHING, NOTHING, details=end[1])


@pytest.mark.parametrize("order", [(LACKING, OWN_WORDS), (OWN_WORDS, LACKING)], ids=["before", "behind"])
async def test_what_the_kernel_said_is_the_end(order: tuple[tuple[grpc.StatusCode, str], ...]) -> None:
    """A kernel that lacks a call is not taken for one whose connection broke, whichever of both ends comes first."""
    call = Call()
    ending = Ending(call)
    first, second = order
    call.end(first)
    asyncio.get_running_loop().call_soon(call.end, second)
    assert is_lacking(await ending.of(failed(OWN_WORDS)))


async def test_a_connection_that_broke_is_told_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the kernel has said nothing, or no more than that it ended the call, the connection broke."""
    monkeypatch.setattr(endings, "TOLD_S", 0.0)
    call = Call()
    ending, error = Ending(call), failed(OWN_WORDS)
    call.end(OWN_WORDS)
    assert await ending.of(error) is error
    call.end((grpc.StatusCode.OK, ""))
    assert await ending.of(error) is error
    assert from_rpc(error, "here").message == "the connection to here broke"


async def test_other_ends_are_what_they_are() -> None:
    """What says why a call ended is told at once."""
    error = failed(LACKING)
    assert await Ending(Call()).of(error) is error
