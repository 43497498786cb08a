"""How often a worker is asked how it is."""

import asyncio
from typing import TYPE_CHECKING, Any, cast

import pytest
from time_limits import LONG_S

from inferd.core.host import LOCAL_HOST
from inferd.core.ids import HostId, InstanceId
from inferd.core.vigil import Doing, WorkerTimes
from inferd.runtime.worker import Worker
from inferd_api.worker.v1 import step_pb2
from inferd_api.worker.v1 import worker_pb2 as wire

if TYPE_CHECKING:
    from inferd.runtime.launcher import Launcher

TIMES = WorkerTimes(
    start_timeout_s=60, load_silence_s=60, heartbeat_s=1.0, heartbeat_timeout_s=10.0,
    step_floor_s=60, step_ceiling_s=60, stop_timeout_s=1,
)  # fmt: skip


class Played:
    """A launcher and its worker, which tells how it is when it is asked."""

    pid = 1

    def __init__(self, doing: Doing) -> None:
        self.doing = doing
        self.asked = 0
        self.frame: Any = None

    def log_of(self, _: InstanceId) -> str:
        return ""

    async def launch(self, _: InstanceId, *, on_frame: Any, on_closed: Any) -> Any:
        self.frame, self.closed = on_frame, on_closed
        return self

    def send(self, frame: wire.KernelFrame, _: Any = ()) -> None:
        if frame.HasField("ping"):
            self.asked += 1
            self.frame(wire.WorkerFrame(pong=wire.Pong(nonce=frame.ping.nonce, doing=self.doing)))

    async def tail(self) -> str:
        return ""

    async def end(self, **_: bool) -> str:
        return ""


async def asked(host_id: HostId, doing: Doing, monkeypatch: pytest.MonkeyPatch, *, steps: bool = False) -> int:
    """How often one is asked with nine heartbeats; between two of them it may tell of a step."""
    played, beats = Played(doing), 0

    async def wait(worker: Worker, _: float) -> None:
        nonlocal beats
        beats += 1
        if beats > 9:
            worker.end("enough")
        elif steps:
            played.frame(wire.WorkerFrame(step=step_pb2.StepOutput()))

    monkeypatch.setattr(Worker, "_wait", wait)
    worker = Worker(
        InstanceId("m-1"), host_id=host_id, launcher=cast("Launcher", played), load=wire.KernelFrame(), times=TIMES,
        on_frame=lambda *_: None, on_memory=lambda *_: None,
    )  # fmt: skip
    async with asyncio.timeout(LONG_S):
        await worker.run()
    return played.asked - 1  # the beat at which it ends


async def test_workers_elsewhere_that_are_well_are_asked_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is idle or tells of steps is asked at each third heartbeat; one that is silent in a step at each one."""
    far = HostId("b")
    assert await asked(far, Doing.IDLE, monkeypatch) <= 4
    assert await asked(far, Doing.STEP, monkeypatch, steps=True) <= 4
    assert await asked(far, Doing.STEP, monkeypatch) == 9
    assert await asked(LOCAL_HOST, Doing.IDLE, monkeypatch) == 9
