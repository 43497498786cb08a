"""What the core asks of workers, carried out: processes are started and stopped, frames are sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

import structlog

from inferd.core import commands
from inferd.core.host import host_of
from inferd.errors import present, words_of
from inferd.runtime.frames import hold_frame, load_frame, memories_of, submit_frame
from inferd.runtime.probes import ProbeStream
from inferd_api.worker.v1 import load_pb2, task_pb2
from inferd_api.worker.v1 import worker_pb2 as wire

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence

    from inferd.core.ids import InstanceId
    from inferd.runtime.clock import Clock
    from inferd.runtime.relay import Dispatched, Relay
    from inferd.runtime.streams import Streams
    from inferd.runtime.supervisor import Supervisor
    from inferd.shared import Memory

log = structlog.get_logger()

Steering = commands.ProceedLoad | commands.StopWorker | commands.EndWorker | commands.AbandonWorker


class Orders:
    """Obeys the commands that concern workers. One writer: the driver.

    An order for a worker that has ended by itself is of no effect: the core hears of its end only after what is due.

    Args:
        supervisor: The workers.
        relay: Who tells what of tasks.
        streams: Their events.
        engine_limits: Bounds of all engines.
        stop: What an instance is told when it is to end.

    Attributes:
        group: Where the lives of workers are tasks of; None while the driver does not run.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        relay: Relay,
        streams: Streams,
        engine_limits: load_pb2.EngineLimits,
        *,
        clock: Clock,
        stop: Callable[[InstanceId], wire.Stop] = lambda _: wire.Stop(),
    ) -> None:
        self.group: asyncio.TaskGroup | None = None
        self._supervisor = supervisor
        self._relay = relay
        self._streams = streams
        self._engine_limits = engine_limits
        self._clock = clock
        self._stop = stop

    def obey(self, command: commands.Order) -> None:
        """Carry out what concerns a worker."""
        match command:
            case commands.SendTask():
                self._submit(command)
            case commands.AskProbe():
                order = commands.SendTask(command.instance_id, command.spec, attempt=1)
                handle = self._relay.add(order, ProbeStream(self._clock.now()))
                self._send_frame(command.instance_id, submit_frame(handle, order))
            case commands.DropTask():
                handle = self._relay.drop(command.instance_id, command.task_id)
                cancel = task_pb2.Cancel(handle=handle, again=command.again)
                self._send_frame(command.instance_id, wire.KernelFrame(cancel=cancel))
            case commands.HoldCapacity():
                self._hold(command)
            case commands.StartWorker():
                self._start(command)
            case commands.AdoptWorker():
                self._adopt(command)
            case commands.RefuseWorker(host_id, held, why):
                log.warning("a worker that a host has kept ends", host=host_id, instance_id=held, why=why)
            case commands.ProceedLoad() | commands.StopWorker() | commands.EndWorker() | commands.AbandonWorker():
                self._steer(command)
            case _:
                assert_never(command)

    def _steer(self, command: Steering) -> None:
        """Have a worker go on or end; nothing to do when it has ended by itself."""
        if isinstance(command, commands.AbandonWorker):
            self._relay.abandon(command.instance_id)
        worker = self._supervisor.workers.get(command.instance_id)
        if worker is None:
            return  # it exits with this event, before which something fell due that concerns it
        match command:
            case commands.ProceedLoad():
                worker.proceed()
            case commands.StopWorker():
                worker.stop(self._stop(command.instance_id))
            case commands.EndWorker() | commands.AbandonWorker():
                worker.end(command.why)

    def _start(self, command: commands.StartWorker) -> None:
        group, name, host_id = present(self.group), command.instance_id, host_of(command.device_id)
        self._relay.open(name)
        try:
            load = load_frame(
                name,
                command.spec,
                self._engine_limits,
                device_id=command.device_id,
                capacity_bytes=command.capacity_bytes,
                cores=command.cores,
                beside=command.beside,
            )
            self._supervisor.start(group, name, load, host_id=host_id)
        except Exception as error:  # whatever it is: the core waits for this worker, and nobody else tells of it
            log.exception("a worker could not be started", instance_id=name)
            self._supervisor.refuse(name, f"its worker could not be started: {words_of(error)}")

    def _adopt(self, command: commands.AdoptWorker) -> None:
        """Go on with a worker that its host has kept; what it says of the tasks of before is of none of ours."""
        group, name, host_id = present(self.group), command.instance_id, host_of(command.device_id)
        adopter = self._supervisor.launcher_of(host_id).adopter(command.held_id)
        self._relay.open(name, first_handle=adopter.first_handle)
        load = load_frame(  # by which it was made: nothing of it is carried out again
            name,
            command.spec,
            self._engine_limits,
            device_id=command.device_id,
            capacity_bytes=0,
            beside=command.beside,
        )
        log.info("a worker that a host has kept is adopted", host=host_id, instance_id=name, model=command.spec.name)
        self._supervisor.start(group, name, load, host_id=host_id, launcher=adopter)

    def _submit(self, command: commands.SendTask) -> None:
        stream = self._streams.get(command.spec.task_id)
        handle = self._relay.add(command, stream)
        again = command.attempt > 1
        frame = submit_frame(handle, command, continuation=stream.continuation.write() if again else None)
        self._send_frame(command.instance_id, frame, memories_of(command))

    def give_up(self, instance_id: InstanceId, task: Dispatched) -> None:
        """Have a worker forget a task that has ended without its doing."""
        if self._relay.has(instance_id, task):
            handle = self._relay.drop(instance_id, task.task_id)
            self._send_frame(instance_id, wire.KernelFrame(cancel=task_pb2.Cancel(handle=handle)))

    def _hold(self, command: commands.HoldCapacity) -> None:
        frame = hold_frame(
            command.lease_id,
            fencing_token=command.fencing_token,
            sequences=command.sequences,
            kv_tokens=command.kv_tokens,
        )
        self._send_frame(command.instance_id, frame)

    def _send_frame(self, instance_id: InstanceId, frame: wire.KernelFrame, memories: Sequence[Memory] = ()) -> None:
        if (worker := self._supervisor.workers.get(instance_id)) is not None:
            worker.send(frame, memories)
