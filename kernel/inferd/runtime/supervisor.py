"""Worker processes: started, watched and ended. What happens to them is told to one listener."""

import asyncio
import os
from contextlib import suppress
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

import structlog

from inferd.core.ids import InstanceId
from inferd.runtime.worker_process import WorkerProcess, WorkerTimes
from inferd_api.worker.v1 import worker_pb2 as wire

LOGS_KEPT = 100

log = structlog.get_logger()


class WorkerListener(Protocol):
    """Who is told of workers."""

    def worker_frame(self, instance_id: InstanceId, frame: wire.WorkerFrame) -> None:
        """A worker has sent a frame."""

    def worker_exited(self, instance_id: InstanceId, why: str, log_path: Path) -> None:
        """A worker is gone, with all that it held; its last frame was told before."""


class Supervisor:
    """The living workers. One writer: the driver.

    Attributes:
        workers: By instance.
    """

    def __init__(self, *, times: WorkerTimes, frame_limit_bytes: int, log_dir: Path, listener: WorkerListener) -> None:
        self.workers: dict[InstanceId, WorkerProcess] = {}
        self._times = times
        self._frame_limit_bytes = frame_limit_bytes
        self._log_dir = log_dir
        self._listener = listener
        log_dir.mkdir(parents=True, exist_ok=True)

    def start(self, group: asyncio.TaskGroup, instance_id: InstanceId, load: wire.KernelFrame) -> None:
        """Start a worker that carries out `load`; its life is a task of `group`."""
        self._prune_logs()
        worker = self.workers[instance_id] = WorkerProcess(
            instance_id,
            load=load,
            log_path=self._log_dir / f"{os.getpid()}-{quote(instance_id, safe='')}.log",
            times=self._times,
            frame_limit_bytes=self._frame_limit_bytes,
            on_frame=self._listener.worker_frame,
        )
        group.create_task(self._live(worker), name=f"worker {instance_id}")

    async def _live(self, worker: WorkerProcess) -> None:
        try:
            why = await worker.run()
        except OSError as error:
            why = f"it could not be started: {error}"
        finally:
            del self.workers[worker.instance_id]
        log.info("worker exited", instance_id=worker.instance_id, pid=worker.pid, why=why)
        self._listener.worker_exited(worker.instance_id, why, worker.log_path)

    def _prune_logs(self) -> None:
        with suppress(FileNotFoundError):  # another kernel with the same folder was quicker
            logs = sorted(self._log_dir.glob("*.log"), key=lambda path: path.stat().st_mtime)
            for path in logs[: -LOGS_KEPT + 1]:
                path.unlink()
