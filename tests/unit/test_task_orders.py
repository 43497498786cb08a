import asyncio
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import create_autospec

import grpc
import pytest

from inferd.config import Limits
from inferd.errors import NotLeaderError, present
from inferd.runtime.bundle import MOST_REFUSALS
from inferd.runtime.front.access import Admission
from inferd.runtime.front.caller import ANYONE
from inferd.services.extents import Extents
from inferd.services.task_orders import MOST_ORDERS, MOST_REST_S, TaskOrders
from inferd.testing.kernel import front_here
from inferd_api.v1 import task_service_pb2 as ts

MESSAGES = 8
MESSAGE_BYTES = 64 << 10
WRITE_S = 0.1


class UnreadCall:
    """A call whose client orders what is refused, and reads when it is let.

    Attributes:
        caller: Who it is.
        admission: For what it was let in.
        taken: Messages that were taken from it.
        written: What it was told.
        reads: Set when the client reads.
        refusals: Orders whose refusal was told to whoever keeps an account of calls.
    """

    def __init__(self) -> None:
        self.caller = ANYONE
        self.admission = create_autospec(Admission, instance=True)  # what is ordered may be
        self.taken = 0
        self.written: list[ts.RunTasksResponse] = []
        self.reads = asyncio.Event()
        self.refusals = 0

    def refused(self, _: object) -> None:
        self.refusals += 1

    async def read(self) -> Any:
        if self.taken == MESSAGES:
            return grpc.aio.EOF
        self.taken += 1
        request = ts.RunTasksRequest()
        for n in range(MOST_ORDERS):
            request.orders.add(tag=self.taken * MOST_ORDERS + n).watch.request.task_id = "\0" * 1000
        return request

    async def write(self, response: ts.RunTasksResponse) -> None:
        await self.reads.wait()
        self.written.append(response)


@pytest.fixture
def _no_backends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFERD_BACKENDS", "[]")


@pytest.mark.usefixtures("_no_backends")
async def test_refusals_that_are_not_read_are_bounded(tmp_path: Path) -> None:
    """A client that reads no refusals is not read either, and gets all of them in messages of the allowed size."""
    call = UnreadCall()
    extents = Extents(Limits())
    async with asyncio.timeout(60), front_here(tmp_path) as front, asyncio.TaskGroup() as group:
        orders = TaskOrders(
            front.tasks,
            front.uploads,
            front.blobs,
            cast("Any", call),
            extents=extents,
            prompt_limit_bytes=1 << 20,
            message_limit_bytes=MESSAGE_BYTES,
        )
        group.create_task(orders.serve())
        for _ in range(2 * MESSAGES * MOST_ORDERS):  # turns of the loop: an order takes one
            await asyncio.sleep(0)
        assert call.taken <= 1 + MOST_REFUSALS // MOST_ORDERS + 1
        call.reads.set()
    tags = [update.tag for response in call.written for update in response.updates]
    assert tags == list(range(MOST_ORDERS, (MESSAGES + 1) * MOST_ORDERS))
    assert call.refusals == len(tags)
    assert max(response.ByteSize() for response in call.written) <= MESSAGE_BYTES


class BusyCall(UnreadCall):
    """A call each of whose messages takes a while to be written, and whose client orders one thing at a time."""

    async def read(self) -> Any:
        request = await super().read()
        if request is not grpc.aio.EOF:
            del request.orders[1:]
        return request

    async def write(self, response: ts.RunTasksResponse) -> None:
        written = asyncio.Event()
        asyncio.get_running_loop().call_later(WRITE_S, written.set)
        await written.wait()
        self.written.append(response)


@pytest.mark.usefixtures("_no_backends")
@pytest.mark.parametrize("most_s", [MOST_REST_S, 60.0])
async def test_messages_leave_time_for_what_they_tell_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most_s: float
) -> None:
    """What is there right behind a message waits twice as long as that took to be written, and never for long."""
    rests: list[float] = []
    sleep = asyncio.sleep

    async def note(delay_s: float) -> None:
        rests.append(delay_s)
        await sleep(0)

    call = BusyCall()
    async with asyncio.timeout(60), front_here(tmp_path, hosts={"detection_s": 60.0}) as front:
        orders = TaskOrders(
            front.tasks,
            front.uploads,
            front.blobs,
            cast("Any", call),
            extents=Extents(Limits()),
            prompt_limit_bytes=1 << 20,
            message_limit_bytes=MESSAGE_BYTES,
        )
        monkeypatch.setattr("inferd.services.task_orders.MOST_REST_S", most_s)
        own = SimpleNamespace(**{**vars(asyncio), "sleep": note})  # others of the kernel sleep, too
        monkeypatch.setattr("inferd.services.task_orders.asyncio", own)
        await orders.serve()
    assert sum(len(response.updates) for response in call.written) == MESSAGES
    assert len(call.written) > 1
    assert max(rests, default=0.0) <= most_s
    if most_s > 2 * WRITE_S:  # a shorter one may be over before it begins
        assert max(rests) > WRITE_S


class Unsure:
    """How a kernel stands that is not sure whether it leads, until it has found out."""

    def __init__(self, *, finds_out: bool) -> None:
        self._finds_out, self._sure = finds_out, False

    def refusal(self) -> NotLeaderError | None:
        return None if self._sure else NotLeaderError("this kernel could not tell that it leads")

    async def settled(self) -> None:
        self._sure = self._finds_out


@pytest.mark.usefixtures("_no_backends")
@pytest.mark.parametrize("finds_out", [True, False])
async def test_who_is_not_sure_that_it_leads_takes_no_orders(tmp_path: Path, *, finds_out: bool) -> None:
    """Orders on an open call are taken once the kernel is sure, and else end it as other calls: with NOT_LEADER."""
    call = BusyCall()
    async with asyncio.timeout(60), front_here(tmp_path, store={"url": f"sqlite:{tmp_path}/kept.sqlite"}) as front:
        orders = TaskOrders(
            front.tasks,
            front.uploads,
            front.blobs,
            cast("Any", call),
            extents=Extents(Limits()),
            prompt_limit_bytes=1 << 20,
            message_limit_bytes=MESSAGE_BYTES,
        )
        leading: Any = Unsure(finds_out=finds_out)
        present(front.tasks._driver.keeper).leadership = leading
        with nullcontext() if finds_out else pytest.raises(NotLeaderError):
            await orders.serve()
    assert call.refusals == (MESSAGES if finds_out else 0)
