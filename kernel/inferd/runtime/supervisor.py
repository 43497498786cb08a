"""Worker processes: started, watched and ended. What happens to them is told to one listener."""

import asyncio
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

import structlog

from inferd.core.ids import InstanceId
from inferd.core.vigil import WorkerTimes
from inferd.runtime.worker_process import WorkerProcess
from inferd_api.worker.v1 import worker_pb2 as wire

LONGEST_LOG_NAME = 150  # characters; a file's name has at most 255 bytes

log = structlog.get_logger()


class WorkerListener(Protocol):
    """Who is told of workers."""

    def worker_frame(self, instance_id: InstanceId, frame: wire.WorkerFrame) -> None:
        """A worker has sent a frame."""

    def worker_memory(self, instance_id: InstanceId, memory_bytes: int) -> None:
        """The resident memory of a worker that computes on the host has changed."""

    def worker_exited(self, instance_id: InstanceId, why: str, log_path: Path) -> None:
        """A worker is gone, with all that it held; its last frame was told before."""


class Supervisor:
    """The living workers. One writer: the driver.

    Attributes:
        workers: By instance.
        measuring: Workers that hold no instance and only tell what a model needs.
        times: How long what of them may take.
    """

    def __init__(self, *, times: WorkerTimes, frame_limit_bytes: int, log_dir: Path, listener: WorkerListener) -> None:
        self.workers: dict[InstanceId, WorkerProcess] = {}
        self.measuring: set[WorkerProcess] = set()
        self.times = times
        self._frame_limit_bytes = frame_limit_bytes
        self._log_dir = log_dir
        self._listener = listener
        log_dir.mkdir(parents=True, exist_ok=True)

    def start(self, group: asyncio.TaskGroup, instance_id: InstanceId, load: wire.KernelFrame) -> None:
        """Start a worker that carries out `load`; its life is a task of `group`."""
        worker = self.workers[instance_id] = self.make(
            instance_id, load, on_frame=self._listener.worker_frame, on_memory=self._listener.worker_memory
        )
        group.create_task(self._live(worker), name=f"worker {instance_id}")

    def pids(self) -> set[int]:
        """The process ids of all workers that run."""
        return {worker.pid for worker in (*self.workers.values(), *self.measuring) if worker.pid}

    def make(
        self,
        instance_id: InstanceId,
        load: wire.KernelFrame,
        *,
        on_frame: Callable[[InstanceId, wire.WorkerFrame], None],
        on_memory: Callable[[InstanceId, int], None],
    ) -> WorkerProcess:
        """A worker with times, bounds and a log as all have; to be run by the caller."""
        return WorkerProcess(
            instance_id,
            load=load,
            log_path=self._log_dir / log_name(instance_id),
            times=self.times,
            frame_limit_bytes=self._frame_limit_bytes,
            on_frame=on_frame,
            on_memory=on_memory,
        )

    async def _live(self, worker: WorkerProcess) -> None:
        try:
            why = await worker.run()
        finally:
            del self.workers[worker.instance_id]
        log.info("worker exited", instance_id=worker.instance_id, pid=worker.pid, why=why)
        self._listener.worker_exited(worker.instance_id, why, worker.log_path)


def log_name(instance_id: InstanceId) -> str:
    """The name of the log of an instance's worker: readable, of this kernel, and short enough for a file."""
    name = quote(instance_id, safe="")
    if len(name) > LONGEST_LOG_NAME:  # a name may be all slashes, each of which takes three letters
        name = f"{name[:LONGEST_LOG_NAME]}-{hashlib.sha256(instance_id.encode()).hexdigest()[:16]}"
    return f"{os.getpid()}-{name}.log"
