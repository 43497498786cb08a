"""Workers: started, watched and ended, on whatever host. What happens to them is told to one listener."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol

import structlog

from inferd.core.host import LOCAL_HOST
from inferd.core.ids import HostId, InstanceId
from inferd.core.vigil import WorkerTimes
from inferd.errors import ModelLoadError, words_of
from inferd.runtime.launcher import Launcher, NoLauncher
from inferd.runtime.link import Arrived
from inferd.runtime.opened_files import nothing_to_open
from inferd.runtime.worker import Worker
from inferd_api.worker.v1 import failure_pb2, load_pb2
from inferd_api.worker.v1 import worker_pb2 as wire

if TYPE_CHECKING:
    from inferd.runtime.opened_files import Opening

MOST_ENDED = 1024  # workers whose logs are still found on their hosts

log = structlog.get_logger()


class WorkerListener(Protocol):
    """Who is told of workers."""

    def worker_frame(self, instance_id: InstanceId, frame: wire.WorkerFrame, memories: Arrived) -> None:
        """A worker has sent a frame, with so many memories."""

    def worker_memory(self, instance_id: InstanceId, memory_bytes: int) -> None:
        """The resident memory of a worker that computes on the host has changed."""

    def worker_exited(self, instance_id: InstanceId, why: str, log_path: str) -> None:
        """A worker is gone, with all that it held; its last frame was told before."""


class Supervisor:
    """The living workers. One writer: the driver.

    Attributes:
        workers: By instance.
        ended: Of those that ended last, where they were and their logs are.
        measuring: Workers that hold no instance and only tell what a model needs.
        times: How long what of them may take.
        launchers: Who starts workers, by host.
        opening: Has the files of a model be there.

    Args:
        launchers: That.
        listener: Who is told.
    """

    def __init__(self, *, times: WorkerTimes, launchers: Mapping[HostId, Launcher], listener: WorkerListener) -> None:
        self.workers: dict[InstanceId, Worker] = {}
        self.ended: OrderedDict[InstanceId, tuple[HostId, str]] = OrderedDict()
        self.measuring: set[Worker] = set()
        self.times = times
        self.launchers = dict(launchers)
        self.opening: Opening = nothing_to_open
        self._listener = listener

    def start(
        self,
        group: asyncio.TaskGroup,
        instance_id: InstanceId,
        load: wire.KernelFrame,
        *,
        host_id: HostId = LOCAL_HOST,
        launcher: Launcher | None = None,
    ) -> None:
        """Start a worker that carries out `load`; its life is a task of `group`. The `launcher` is that of its host."""
        listener = self._listener
        worker = self.workers[instance_id] = self.make(
            instance_id,
            load,
            host_id=host_id,
            on_frame=listener.worker_frame,
            on_memory=listener.worker_memory,
            launcher=launcher,
        )
        group.create_task(self._live(worker), name=f"worker {instance_id}")

    def refuse(self, instance_id: InstanceId, why: str) -> None:
        """A worker cannot be started, which is told as any load that fails, and its end, once this turn is over."""
        self.workers.pop(instance_id, None)
        asyncio.get_running_loop().call_soon(self._tell_refused, instance_id, why)

    def _tell_refused(self, instance_id: InstanceId, why: str) -> None:
        error = ModelLoadError(f"the model cannot be loaded: {why}", metadata={"cause": why})
        failed = failure_pb2.Failure(reason=error.reason, message=error.message, metadata=error.metadata)
        self._listener.worker_frame(instance_id, wire.WorkerFrame(load_failed=load_pb2.LoadFailed(failure=failed)), ())
        self._listener.worker_exited(instance_id, why, "")

    def pids(self) -> set[int]:
        """The process ids of all workers that run on the kernel's own host."""
        here = (w for w in (*self.workers.values(), *self.measuring) if w.host_id == LOCAL_HOST)
        return {worker.pid for worker in here if worker.pid}

    def launcher_of(self, host_id: HostId) -> Launcher:
        """Who starts workers on a host."""
        return self.launchers.get(host_id) or NoLauncher(host_id)

    def make(
        self,
        instance_id: InstanceId,
        load: wire.KernelFrame,
        *,
        host_id: HostId = LOCAL_HOST,
        on_frame: Callable[[InstanceId, wire.WorkerFrame, Arrived], None],
        on_memory: Callable[[InstanceId, int], None],
        launcher: Launcher | None = None,
    ) -> Worker:
        """A worker with times as all have; to be run by the caller."""
        return Worker(
            instance_id,
            host_id=host_id,
            launcher=launcher or self.launcher_of(host_id),
            load=load,
            times=self.times,
            on_frame=on_frame,
            on_memory=on_memory,
            opening=self.opening if launcher is None else nothing_to_open,  # an adopted one has loaded them
        )

    async def _live(self, worker: Worker) -> None:
        try:
            why = await worker.run()
        except Exception as error:  # a defect of whoever ends it: it is told of this worker, and no other ends for it
            log.exception("a worker could not be ended in order", instance_id=worker.instance_id)
            why = f"it could not be ended in order: {words_of(error)}"
        finally:
            del self.workers[worker.instance_id]
            self.ended[worker.instance_id] = worker.host_id, worker.log_path
            if len(self.ended) > MOST_ENDED:
                self.ended.popitem(last=False)
        log.info("worker exited", instance_id=worker.instance_id, pid=worker.pid, why=why)
        self._listener.worker_exited(worker.instance_id, why, worker.log_path)
