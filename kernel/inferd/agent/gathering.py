"""Steps of a worker that go to the kernel together, where it asks for that."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from inferd.runtime.step_runs import is_plain, runs

if TYPE_CHECKING:
    from collections.abc import Callable

    from inferd_api.worker.v1 import worker_pb2 as frames_pb

MOST_S = 0.5  # that any kernel may ask for
MOST_STEPS = 64  # that wait at once


class Gathering:
    """Of one worker. One writer: its `HostedWorker`.

    Only steps that gave their tasks a token each, and nothing else, wait; whatever else comes takes them along, in
    their order.

    Args:
        send: Sends a frame.
    """

    def __init__(self, send: Callable[[frames_pb.WorkerFrame], None]) -> None:
        self._send = send
        self._steps: list[frames_pb.WorkerFrame] = []
        self._timer: asyncio.TimerHandle | None = None

    def take(self, frame: frames_pb.WorkerFrame, gather_us: int) -> bool:
        """Have a frame wait that may, for so many microseconds at most; False where it is to be sent now."""
        if not gather_us or not is_plain(frame):
            self.flush()
            return False
        self._steps.append(frame)
        if len(self._steps) == MOST_STEPS:
            self.flush()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(min(MOST_S, gather_us / 1e6), self.flush)
        return True

    def flush(self) -> None:
        """Send what waits."""
        steps = self.drop()
        for step in runs(steps):
            self._send(step)

    def drop(self) -> list[frames_pb.WorkerFrame]:
        """Have nothing wait; what did."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        steps, self._steps = self._steps, []
        return steps
