"""What an agent keeps of workers between two kernels, and what of them reaches the next one."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc

from inferd.agent.agent import Agent
from inferd.agent.cache import Cache
from inferd.agent.connection import KernelStream
from inferd.agent.ledger import Ledger
from inferd.core.canary import NO_PACE
from inferd.core.commands import SendTask
from inferd.core.ids import InstanceId, ModelName, TaskId, Tenant
from inferd.core.task import TaskSpec
from inferd.runtime.clock import Clock
from inferd.runtime.relay import Relay
from inferd.runtime.streams import Streams
from inferd_api.agent.v1 import agent_pb2 as wire
from inferd_api.agent.v1 import agent_service_pb2 as service
from inferd_api.worker.v1 import load_pb2, moderation_pb2, sandbox_pb2, step_pb2, task_pb2
from inferd_api.worker.v1 import worker_pb2 as frames_pb


def loaded() -> Ledger:
    """Of a worker that has loaded, and runs tasks 3 and 5 of which the first has ended; a lease and rules are there."""
    ledger = Ledger()
    ledger.note(frames_pb.KernelFrame(load=load_pb2.Load(device="gpu:0", ranks=["gpu:0", "gpu:1", "gpu:1"])))
    ledger.hear(frames_pb.WorkerFrame(hello=frames_pb.Hello(version="0.9.0")))
    ledger.hear(frames_pb.WorkerFrame(sealed=sandbox_pb2.SandboxState(level=2)))
    ledger.hear(frames_pb.WorkerFrame(sealed=sandbox_pb2.SandboxState(level=9)))
    ledger.hear(frames_pb.WorkerFrame(needs=load_pb2.Needs(weights_bytes=7)))
    ledger.hear(frames_pb.WorkerFrame(loaded=load_pb2.Loaded(max_tasks=4)))
    for handle in (3, 4, 5):
        ledger.note(frames_pb.KernelFrame(submit=task_pb2.Submit(handle=handle)))
    ledger.note(frames_pb.KernelFrame(cancel=task_pb2.Cancel(handle=4)))
    ledger.hear(frames_pb.WorkerFrame(step=step_pb2.StepOutput(ended=[step_pb2.Ended(handle=3)])))
    ledger.note(frames_pb.KernelFrame(hold=task_pb2.Hold(lease_id="kept", fencing_token=8, sequences=1)))
    ledger.note(frames_pb.KernelFrame(hold=task_pb2.Hold(lease_id="over", fencing_token=9, sequences=1)))
    ledger.note(frames_pb.KernelFrame(hold=task_pb2.Hold(lease_id="over", fencing_token=9)))
    ledger.note(frames_pb.KernelFrame(moderate=moderation_pb2.Moderate(rules=b"rules")))
    return ledger


def test_a_worker_forgets_what_its_kernel_had_of_it() -> None:
    """Its tasks that have not ended, the parts of leases and the rules; and the next one is told what it is."""
    ledger = loaded()
    assert ledger.is_loaded
    forgets = list(ledger.forget())
    assert [frame.WhichOneof("kind") for frame in forgets] == ["cancel", "hold", "moderate"]
    assert forgets[0].cancel == task_pb2.Cancel(handle=5)
    assert forgets[1].hold == task_pb2.Hold(lease_id="kept", fencing_token=8)
    assert not forgets[2].moderate.rules
    for frame in forgets:
        ledger.note(frame)
    told = ledger.describe(2, "m-1", wire.WorkerIdentity(model="m"))
    assert (told.held_id, told.instance_id, told.identity.model, told.version) == (2, "m-1", "m", "0.9.0")
    assert (told.tasks, told.first_handle, [*told.device_ids], told.needs.weights_bytes) == (
        1,
        6,
        ["gpu:0", "gpu:1"],
        7,
    )
    assert [frame.WhichOneof("kind") for frame in ledger.told_at_load] == ["sealed", "loaded"]
    assert ledger.told_at_load[0].sealed.level == 2
    assert list(ledger.forget()) == []


def test_no_answer_to_an_old_question_reaches_the_next_kernel() -> None:
    """Questions of two kernels may bear one number: the worker knows them by others, and the old answer is dropped."""
    ledger, answers = loaded(), list[frames_pb.WorkerFrame]()
    for _ in range(2):
        asked = frames_pb.KernelFrame(query=task_pb2.Query(query_id=1))
        ledger.note(asked)
        answers.append(frames_pb.WorkerFrame(answer=task_pb2.Answer(query_id=asked.query.query_id)))
        if len(answers) == 1:
            list(ledger.forget())
    old, new = answers
    assert old.answer.query_id != new.answer.query_id
    assert not ledger.hear(old)
    assert ledger.hear(new)
    assert new.answer.query_id == 1
    assert not ledger.hear(frames_pb.WorkerFrame(answer=task_pb2.Answer(query_id=1)))


def test_a_worker_that_was_told_to_end_is_not_kept() -> None:
    """Nor is one that has not loaded."""
    ledger = loaded()
    ledger.note(frames_pb.KernelFrame(stop=frames_pb.Stop()))
    assert not ledger.is_loaded
    assert not Ledger().is_loaded


def test_a_worker_that_loads_is_kept_from_when_it_was_let_load() -> None:
    """Not before, when it holds nothing; and not once its load has failed, or it is to end. It tells how far it is."""
    ledger = Ledger()
    ledger.hear(frames_pb.WorkerFrame(sealed=sandbox_pb2.SandboxState(level=2)))
    ledger.hear(frames_pb.WorkerFrame(needs=load_pb2.Needs(weights_bytes=7)))
    assert not ledger.is_loading
    ledger.note(frames_pb.KernelFrame(proceed=load_pb2.Proceed()))
    ledger.hear(frames_pb.WorkerFrame(load_progress=load_pb2.LoadProgress(fraction=0.5)))
    assert ledger.is_loading
    assert ledger.describe(1, "m-1", None).loading
    assert [frame.WhichOneof("kind") for frame in ledger.told_at_load] == ["begun", "sealed", "load_progress"]
    ledger.hear(frames_pb.WorkerFrame(loaded=load_pb2.Loaded(max_tasks=4)))
    assert (ledger.is_loading, ledger.is_loaded) == (False, True)
    assert not ledger.describe(1, "m-1", None).loading
    assert [frame.WhichOneof("kind") for frame in ledger.told_at_load] == ["sealed", "loaded"]
    for ends in (
        lambda each: each.hear(frames_pb.WorkerFrame(load_failed=load_pb2.LoadFailed())),
        lambda each: each.note(frames_pb.KernelFrame(stop=frames_pb.Stop())),
    ):
        other = Ledger()
        other.note(frames_pb.KernelFrame(proceed=load_pb2.Proceed()))
        ends(other)
        assert not other.is_loading


def test_late_words_of_tasks_before_are_of_no_task() -> None:
    """What an adopted worker still says under handles of the kernel before reaches no stream of this one."""
    relay, streams = Relay(Clock(), output_bytes=1), Streams(stream_bytes=1000, retained_bytes=1000, events_bytes=1000)
    name, task_id = InstanceId("m-1"), TaskId("t")
    relay.open(name, first_handle=6)
    stream = streams.open(task_id)
    spec = TaskSpec(task_id=task_id, tenant=Tenant("t"), model=ModelName("m"), work=object())
    handle = relay.add(SendTask(name, spec, 2), stream)
    before = stream.last_sequence
    for old in range(6):
        relay.tell(name, step_pb2.StepOutput(handles=[old], counts=[1], token_ids=[7], texts=["old"]))
        assert relay.find(name, old) is None
    assert (handle, stream.last_sequence) == (6, before)
    relay.tell(name, step_pb2.StepOutput(handles=[6], counts=[1], token_ids=[7], texts=["new"]))
    assert stream.last_sequence > before
    found = relay.find(name, 6)
    assert found is not None
    assert found.pace(1, 0.0) is NO_PACE


class NoStart:
    """Starts no worker, and says where each log would be."""

    def __init__(self) -> None:
        self.logs: list[str] = []

    async def launch(self, *_: object, **__: object) -> None:
        raise OSError("none is started here")

    async def read_log(self, instance_id: str, *_: int) -> tuple[bytes, int]:
        self.logs.append(instance_id)
        return b"", 0


async def test_a_log_is_that_of_the_instance_which_bears_the_name_now(tmp_path: Path) -> None:
    """An adopted instance has the log of what its worker was first; one that is started under its name has its own."""
    made: Any = SimpleNamespace(connect=None)
    agent: Any = Agent(
        wire.HostFacts(), kernels=made, found=made, log_folder=tmp_path, cache=Cache(tmp_path, 1), watcher=made
    )
    agent._control, agent._launcher = SimpleNamespace(send=lambda _: None), NoStart()
    agent._kept.note_log(InstanceId("m-7"), InstanceId("m-1"))
    asked = wire.ReadLog(instance_id="m-7")
    await agent._read_log(asked)
    await agent._launch(wire.LaunchWorker(launch_id=1, instance_id="m-7"))
    await agent._read_log(asked)
    assert agent._launcher.logs == ["m-1", "m-7"]


class EndedCall:
    """A stream that the kernel has ended in order."""

    async def write(self, _: object) -> None:
        raise asyncio.InvalidStateError("RPC already finished.")

    async def read(self) -> object:
        return grpc.aio.EOF

    async def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.OK


async def test_what_is_sent_on_a_stream_that_the_kernel_has_ended_is_no_defect() -> None:
    """A kernel that ends in order may be ahead of what is sent: that goes with the next stream, and nothing fails."""
    stream = KernelStream(EndedCall())
    assert await stream.open(service.CarryRequest()) is None
    await stream.writer(service.CarryRequest)(wire.Parcels())
    assert await stream.read() is None
