"""What the core asks of workers, carried out."""

import asyncio

import pytest
from time_limits import LONG_S

from inferd.core import commands
from inferd.core.ids import DeviceId, InstanceId, LeaseId, ModelName, TaskId, Tenant
from inferd.core.model import ModelSpec
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


class Listener:
    """Hears of a worker that was not started."""

    def __init__(self) -> None:
        self.heard: asyncio.Queue[tuple[object, ...]] = asyncio.Queue()

    def worker_frame(self, instance_id: InstanceId, frame: wire.WorkerFrame, _: object) -> None:
        failure = frame.load_failed.failure
        self.heard.put_nowait((instance_id, failure.reason, failure.message))

    def worker_memory(self, instance_id: InstanceId, memory_bytes: int) -> None:
        raise AssertionError(instance_id, memory_bytes)

    def worker_exited(self, instance_id: InstanceId, why: str, _: str) -> None:
        self.heard.put_nowait((instance_id, why))


async def test_a_kept_setting_that_no_frame_has_room_for_is_a_load_that_failed() -> None:
    """An older kernel may have kept it: the load fails with the setting and both numbers, and its end is told."""
    device, listener = DeviceId("cpu:0"), Listener()
    model = ModelSpec(
        name=ModelName("m"), source="/m", path="/m", format="fake", size_bytes=1, backend="fake", backend_reason="",
        loader="x:Y", devices=(device,), values={"context_tokens": 10**20},
    )  # fmt: skip
    supervisor = Supervisor(times=TIMES, launchers={}, listener=listener)
    relay, streams = Relay(Clock(), output_bytes=1), Streams(stream_bytes=1000, retained_bytes=1000, events_bytes=1000)
    orders = Orders(supervisor, relay, streams, load_pb2.EngineLimits(), clock=Clock())
    async with asyncio.timeout(LONG_S), asyncio.TaskGroup() as group:
        orders.group = group
        orders.obey(commands.StartWorker(GONE, model, device, capacity_bytes=1))
        why = f"setting 'context_tokens' is {10**20}; it must be at most {2**63 - 1}"
        said = f"its worker could not be started: {why}"
        assert await listener.heard.get() == (GONE, "MODEL_LOAD_FAILED", f"the model cannot be loaded: {said}")
        assert await listener.heard.get() == (GONE, said)
    assert supervisor.workers == {}


class NoListener:
    """Is told nothing: no worker lives."""

    def worker_frame(self, instance_id: InstanceId, frame: wire.WorkerFrame, _: object) -> None:
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
