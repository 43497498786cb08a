"""`inferd lease keep` and the keepers of the client, against kernels that fail."""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from typer.testing import CliRunner, Result

from inferd.cli import main
from inferd_api.v1 import lease_pb2 as lp
from inferd_api.v1 import lease_service_pb2 as ls
from inferd_api.v1 import lease_service_pb2_grpc
from inferd_client import HeldLease
from inferd_client.keepers import AsyncKeeper, Keeper

WAIT_S = 60
UNAVAILABLE, INVALID = grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INVALID_ARGUMENT


class ScriptedLeases(lease_service_pb2_grpc.LeaseServiceServicer):
    """Answers each call as the script says: with a status, with silence, or by keeping all alive; at last it ends all.

    Attributes:
        script: What is left of it.
        asked: The ids of each call.
    """

    def __init__(self) -> None:
        self.script: list[Any] = []
        self.asked: list[list[str]] = []
        self.over = threading.Event()
        self.remaining = Duration(seconds=2, nanos=400_000_000)

    def KeepAliveLeases(self, request_iterator: Any, context: Any) -> Iterator[Any]:  # noqa: N802 - the wire's name
        for request in request_iterator:
            self.asked.append(list(request.lease_ids))
            match self.script.pop(0) if self.script else "end":
                case "keep":
                    yield self.answer(request, state=lp.LEASE_STATE_ACTIVE, remaining=self.remaining)
                case "hang":
                    context.add_callback(self.over.set)
                    self.over.wait(WAIT_S)
                case grpc.StatusCode() as code:
                    context.abort(code, "said the script")
                case _:
                    renewals = [ls.LeaseRenewal(lease_id=name) for name in request.lease_ids]
                    for renewal in renewals:
                        renewal.error.code = grpc.StatusCode.FAILED_PRECONDITION.value[0]
                        renewal.error.message = "it is RELEASED"
                    yield ls.KeepAliveLeasesResponse(renewals=renewals)

    def answer(self, request: Any, **fields: Any) -> Any:
        renewals = [ls.LeaseRenewal(lease_id=name, **fields) for name in request.lease_ids]
        return ls.KeepAliveLeasesResponse(renewals=renewals)


@pytest.fixture
def leases() -> ScriptedLeases:
    return ScriptedLeases()


@pytest.fixture
def keep(leases: ScriptedLeases) -> Iterator[Callable[..., Result]]:
    """Runs `inferd lease keep` against the script."""
    server = grpc.server(futures.ThreadPoolExecutor(4))
    lease_service_pb2_grpc.add_LeaseServiceServicer_to_server(leases, server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    yield lambda *arguments: CliRunner().invoke(main.app, ["lease", "keep", *arguments, "--address", address])
    leases.over.set()
    server.stop(grace=None).wait(10)


def test_a_call_that_fails_is_tried_again(keep: Callable[..., Result], leases: ScriptedLeases) -> None:
    """Keeping goes on behind calls that failed, for as long as the lease may hold; each outage is told once."""
    leases.script = ["keep", UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED, "keep", UNAVAILABLE, "keep"]
    done = keep("a", "b")
    assert leases.asked == [["a", "b"]] * 7
    assert done.exit_code == 1
    assert done.stderr.count("tried again") == 2
    assert done.stderr.count("error: it is RELEASED") == 2


def test_a_lease_that_has_ended_is_told_in_the_shape_of_all_errors(keep: Callable[..., Result]) -> None:
    """With -o json the error of a lease has a reason, a code's name and the lease, and nothing stands around it."""
    done = keep("nope", "--once", "-o", "json")
    (told,) = [json.loads(line) for line in done.stdout.splitlines()]
    assert (done.exit_code, list(told)) == (1, ["error"])
    assert list(told["error"]) == ["reason", "code", "message", "metadata"]
    assert told["error"]["code"] == "FAILED_PRECONDITION"
    assert told["error"]["metadata"]["lease_id"] == "nope"


def test_a_kernel_that_hangs_leaves_time_for_another_attempt(
    keep: Callable[..., Result], leases: ScriptedLeases
) -> None:
    """A call that is not answered is given up within the lease's time, and the next one keeps it."""
    leases.remaining = Duration(seconds=3)
    leases.script = ["keep", "hang", "keep"]
    done = keep("a")
    assert len(leases.asked) == 4
    assert "RELEASED" in done.stderr


def test_a_lease_that_nobody_confirms_is_lost(keep: Callable[..., Result], leases: ScriptedLeases) -> None:
    """When its time is over without an answer the lease is told to be lost, with the cause, and the exit code is 1."""
    leases.remaining = Duration(nanos=600_000_000)
    leases.script = ["keep", *[UNAVAILABLE] * 1000]
    done = keep("a", "-o", "json")
    error = json.loads(done.stdout.splitlines()[-1])["error"]
    assert (done.exit_code, error["reason"]) == (1, "LEASE_LOST")
    assert "said the script" in error["message"]
    assert len(leases.asked) >= 3


@pytest.mark.parametrize("script", [[UNAVAILABLE], ["keep", INVALID]])
def test_what_another_attempt_cannot_mend_ends_it(
    keep: Callable[..., Result], leases: ScriptedLeases, script: list[Any]
) -> None:
    """The first call, which may go to nobody, and a call that is wrong are errors at once."""
    leases.script = list(script)
    done = keep("a")
    assert done.exit_code == 1
    assert len(leases.asked) == len(script)


def test_more_leases_than_a_message_takes_go_in_several(keep: Callable[..., Result], leases: ScriptedLeases) -> None:
    """Any number of leases can be named."""
    leases.script = ["keep"] * 2
    assert keep("--once", *(str(number) for number in range(1001))).exit_code == 0
    assert [len(asked) for asked in leases.asked] == [1000, 1]


def held(lease_id: str) -> HeldLease:
    """A lease that is due soon."""
    return HeldLease(lp.Lease(lease_id=lease_id, spec=lp.LeaseSpec(ttl=Duration(seconds=20))), time.monotonic() - 8)


class Failing:
    """Dials a stream that does something nobody reckons with, so many times; then one that keeps all alive."""

    def __init__(self, *troubles: BaseException) -> None:
        self.troubles = list(troubles)
        self.requests: Any = None

    def __call__(self, requests: Any = None) -> Any:
        if self.troubles:
            raise self.troubles.pop(0)
        self.requests = requests
        return self

    def __next__(self) -> Any:
        return self.answer(next(self.requests))

    def answer(self, request: Any) -> Any:
        renewals = [ls.LeaseRenewal(lease_id=name, fencing_token=7) for name in request.lease_ids]
        return ls.KeepAliveLeasesResponse(renewals=renewals)

    async def write(self, request: Any) -> None:
        self.request = request

    async def read(self) -> Any:
        return self.answer(self.request)

    def cancel(self) -> None:
        pass


TROUBLES = (ValueError("a defect"), RuntimeError("cannot start new thread"), OSError("no descriptors"))


def test_a_keeper_survives_what_nobody_reckons_with() -> None:
    """Its thread goes on behind any failure, keeps the leases that it has and those that come later."""
    keeper = Keeper(Failing(*TROUBLES))
    first, later = held("first"), held("later")
    keeper.add(first)
    until(lambda: first.fencing_token == 7)
    keeper.add(later)
    until(lambda: later.fencing_token == 7)
    keeper.close()
    assert first.trouble == ""


def test_a_thread_that_could_not_be_started_is_started_for_the_next_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a thread the first lease is refused; the next one starts a thread, which keeps both alive."""
    keeper = Keeper(Failing())
    first, later = held("first"), held("later")
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", lambda _: (_ for _ in ()).throw(RuntimeError("no thread")))
        with pytest.raises(RuntimeError):
            keeper.add(first)
    keeper.add(later)
    until(lambda: first.fencing_token == later.fencing_token == 7)
    keeper.close()


async def test_an_asynchronous_keeper_survives_too() -> None:
    """Its task goes on behind any failure."""
    keeper = AsyncKeeper(Failing(*TROUBLES))
    renewed, lease = asyncio.Event(), held("a")
    keeper.add(lease, renewed.set)
    await asyncio.wait_for(renewed.wait(), WAIT_S)
    await keeper.close()
    assert lease.fencing_token == 7


async def test_an_asynchronous_keeper_ends_though_its_leases_change_just_then() -> None:
    """A lease that comes in the same turn as the end does not have it go on."""
    keeper, renewed = AsyncKeeper(Failing()), asyncio.Event()
    keeper.add(held("a"), renewed.set)
    async with asyncio.timeout(WAIT_S):
        await renewed.wait()  # from here on it waits
        keeper.add(held("b"), renewed.set)
        await keeper.close()


def test_a_lost_lease_tells_what_went_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """What failed last stands in the error of a lease that was not confirmed in time."""
    keeper = Keeper(Failing(*[ValueError("a defect")] * 100_000))
    lease = held("a")
    keeper.add(lease)
    until(lambda: bool(lease.trouble))
    monkeypatch.setattr("inferd_client.holding.time", SimpleNamespace(monotonic=lambda: lease.confirmed + 21))
    assert "(ValueError: a defect)" in lease.lost().message
    keeper.close()


def until(true: Callable[[], bool]) -> None:
    """Wait for it."""
    deadline = time.monotonic() + WAIT_S
    while not true():
        assert time.monotonic() < deadline
        threading.Event().wait(0.01)
