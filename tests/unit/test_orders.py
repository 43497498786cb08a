"""What the core asks of workers, carried out."""

import pytest

from inferd.core import commands
from inferd.core.ids import InstanceId, LeaseId, ModelName, TaskId, Tenant
from inferd.core.task import TaskSpec
from inferd.core.vigil import WorkerTimes
from inferd.runtime.clock import Clock
from inferd.runtime.orders import Orders
from inferd.runtime.relay import Relay
from inferd.runtime.streams import Streams
from inferd.runtime.supervisor import Supervisor
from inferd_api.worker.v1 import load_pb2
from inferd_api.worker.v1 import task_pb2 as wp
from inferd_api.worker.v1 import worker_pb2 as wire

TIMES = WorkerTimes(
    start_timeout_s=9, load_silence_s=9, heartbeat_s=9, heartbeat_timeout_s=9, step_floor_s=9, step_ceiling_s=9,
    stop_timeout_s=9,
)  # fmt: skip
GONE, TASK = InstanceId("m-1"), TaskId("t")
SPEC = TaskSpec(task_id=TASK, tenant=Tenant("t"), model=ModelName("m"), work=wp.Work())


class NoListener:
    """Is told nothing: no worker lives."""

    def worker_frame(self, instance_id: InstanceId, frame: wire.WorkerFrame) -> None:
        raise AssertionError(instance_id, frame)

    def worker_memory(self, instance_id: InstanceId, memory_bytes: int) -> None:
        raise AssertionError(instance_id, memory_bytes)

    def worker_exited(self, instance_id: InstanceId, why: str, log_path: str) -> None:
        raise AssertionError(instance_id, why, log_path)


@pytest.mark.parametrize(
    "order",
    [
        commands.ProceedLoad(GONE),
        commands.StopWorker(GONE),
        commands.EndWorker(GONE, "it has grown"),
        commands.AbandonWorker(GONE, "no word"),
        commands.SendTask(GONE, SPEC, 2),
        commands.DropTask(GONE, TASK),
        commands.HoldCapacity(GONE, LeaseId("l"), 1, 1, 0),
    ],
    ids=lambda order: type(order).__name__,
)
def test_an_order_for_a_worker_that_has_ended_is_of_no_effect(order: commands.Order) -> None:
    """What fell due just before a worker's exit was told may still ask something of it, whatever that is."""
    supervisor = Supervisor(times=TIMES, launchers={}, listener=NoListener())
    relay, streams = Relay(Clock(), output_bytes=1), Streams(stream_bytes=1000, retained_bytes=1000, events_bytes=1000)
    orders = Orders(supervisor, relay, streams, load_pb2.EngineLimits(), clock=Clock())
    relay.open(GONE)
    stream = streams.open(TASK)
    relay.add(commands.SendTask(GONE, SPEC, 1), stream)
    orders.obey(order)
    assert supervisor.workers == {}
    relay.close(GONE)
