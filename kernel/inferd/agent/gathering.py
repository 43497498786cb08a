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
MOST_BYTES = 1 << 20  # that they take at most; and half of the largest frame, since they become one


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
        self._size_bytes = 0
        self._timer: asyncio.TimerHandle | None = None

    def take(self, frame: frames_pb.WorkerFrame, gather_us: int, *, frame_bytes: int = 2 * MOST_BYTES) -> bool:
        """Have a frame wait that may; False where it is to be sent now.

        Args:
            frame: It.
            gather_us: How long at most, in microseconds; 0 for not at all.
            frame_bytes: The largest frame that the kernel takes.
        """
        if not gather_us or not is_plain(frame):
            self.flush()
            return False
        size_bytes, most_bytes = frame.ByteSize(), min(MOST_BYTES, frame_bytes // 2)
        if self._size_bytes + size_bytes > most_bytes:
            self.flush()
        if size_bytes > most_bytes:
            return False
        self._steps.append(frame)
        self._size_bytes += size_bytes
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
        steps, self._steps, self._size_bytes = self._steps, [], 0
        return steps
