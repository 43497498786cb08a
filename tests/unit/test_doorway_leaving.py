"""What becomes of calls that come while a kernel ends."""

import asyncio
from types import SimpleNamespace
from typing import Any

import grpc

from inferd.services.doorway import FEW, LEAVE_S, QUIET_S, QUIETS, Doorway


class RefusedError(Exception):
    """A call has ended so."""


async def ended(doorway: Doorway) -> grpc.StatusCode:
    """The status of a call that comes now."""
    details: Any = SimpleNamespace(method="/inferd.v1.HostService/GetHost")

    async def none(_: object) -> None:
        raise AssertionError("it came further than the doorway")

    async def abort(status: Any) -> None:
        raise RefusedError(status)

    handler: Any = await doorway.intercept_service(none, details)
    assert handler is not None
    try:
        await handler.stream_stream(None, SimpleNamespace(abort_with_status=abort))
    except RefusedError as refused:
        status: Any = refused.args[0]
        assert b"SHUTTING_DOWN" in dict(status.trailing_metadata)["grpc-status-details-bin"]
        code: grpc.StatusCode = status.code
        return code
    raise AssertionError("it was not refused")


async def test_calls_that_come_while_a_kernel_leaves_are_told_so() -> None:
    """Each is refused with a status, and the kernel waits until no other one comes; but not for ever."""
    doorway, clock = Doorway(9), asyncio.get_running_loop().time
    await doorway.leave()  # nobody has called
    assert await ended(doorway) is grpc.StatusCode.UNAVAILABLE
    busy = Doorway(9)
    busy._came.extend([clock()] * (FEW + 1))
    leaving = asyncio.create_task(busy.leave())
    begun, seen = clock(), 0
    while not leaving.done():  # somebody calls all the time
        await asyncio.sleep(0)
        if busy._leaves and not leaving.done():
            assert await ended(busy) is grpc.StatusCode.UNAVAILABLE
            seen += 1
    assert seen
    assert clock() - begun >= LEAVE_S


async def test_a_kernel_that_nobody_calls_any_more_leaves_soon() -> None:
    """It waits for the quiet that tells that no call is under way to it."""
    doorway, clock = Doorway(9), asyncio.get_running_loop().time
    begun = clock()
    doorway._came.extend([begun] * (FEW + 1))
    async with asyncio.timeout(30):
        await doorway.leave()
    assert clock() - begun >= QUIETS * QUIET_S
