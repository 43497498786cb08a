"""From the frames of workers to the streams of tasks."""

from inferd.core.commands import SendTask
from inferd.core.ids import InstanceId, ModelName, TaskId, Tenant
from inferd.core.task import TaskSpec
from inferd.runtime.clock import Clock
from inferd.runtime.relay import Relay
from inferd.runtime.streams import Streams
from inferd_api.worker.v1 import step_pb2
from inferd_api.worker.v1 import task_pb2 as wp

INSTANCE = InstanceId("m-1")


def test_the_first_output_of_an_awaited_task_is_told_once() -> None:
    """Of others it is not, nor the second one."""
    relay, streams = Relay(Clock(), output_bytes=1), Streams(stream_bytes=1000, retained_bytes=1000, events_bytes=1000)
    relay.open(INSTANCE)
    handles = []
    for name, awaited in (("awaited", True), ("other", False)):
        spec = TaskSpec(task_id=TaskId(name), tenant=Tenant("t"), model=ModelName("m"), work=wp.Work())
        handles.append(relay.add(SendTask(INSTANCE, spec, 1, awaited=awaited), streams.open(TaskId(name))))
    assert relay.take_begun() == []
    step = step_pb2.StepOutput(handles=handles, counts=[1, 1], texts=["a", "b"], token_ids=[1, 2])
    told = []
    for _ in range(2):
        relay.tell(INSTANCE, step)
        told.append(relay.take_begun())
    assert told == [["awaited"], []]
