"""The streams of an agent's workers: what ends one badly ends that worker, and nothing else."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from time_limits import LONG_S

from inferd.agent import carrying
from inferd.agent.carrying import carry_all
from inferd.runtime.signal import Signal
from inferd_api.agent.v1 import agent_service_pb2 as service

DEADLINE_S = LONG_S


class Worker:
    """One whose frames are to be carried: it notes why that ended."""

    def __init__(self) -> None:
        self.runs, self.launch_id, self.why = True, 0, ""
        self.exchange = self
        self.received = 0
        self.began, self.ended = asyncio.Event(), asyncio.Event()

    @property
    def closed(self) -> bool:
        return self.ended.is_set()

    def close(self, why: str) -> None:
        self.why = why
        self.ended.set()

    async def run(self, *_: Any) -> None:
        self.began.set()
        await asyncio.Event().wait()


class Kernel:
    """Streams of it, of which the first ones fail."""

    def __init__(self, *failures: BaseException) -> None:
        self.failures = [*failures]

    async def carry(self) -> Any:
        return self

    async def open(self, request: service.CarryRequest) -> Any:
        if request.opening.launch_id == 1 and self.failures:
            raise self.failures.pop(0)
        return SimpleNamespace(parcels=SimpleNamespace(received=0))

    def read(self) -> None: ...

    def writer(self, _: Any) -> None: ...

    def cancel(self) -> None: ...


@pytest.mark.parametrize("passing", [[], [OSError("no ticket")]], ids=["at once", "behind what passes"])
async def test_a_stream_that_ends_badly_ends_its_worker_alone(
    monkeypatch: pytest.MonkeyPatch, passing: list[BaseException]
) -> None:
    """A defect closes the exchange of that worker, by which the kernel hears of it; all others are carried on."""
    monkeypatch.setattr(carrying, "AGAIN_S", 0.0)
    hosted: Any = {1: Worker(), 2: Worker()}
    kernel: Any = Kernel(*passing, ValueError("what nobody thought of"))
    changed = Signal()
    running = asyncio.create_task(
        carry_all(kernel, hosted, changed, lambda launch_id: service.CarryOpening(launch_id=launch_id))
    )
    async with asyncio.timeout(DEADLINE_S):
        await hosted[1].ended.wait()
        await hosted[2].began.wait()
        hosted[3] = Worker()
        changed.notify()
        await hosted[3].began.wait()
    assert hosted[1].why == "a defect of its agent: ValueError"
    assert not running.done()
    running.cancel()
