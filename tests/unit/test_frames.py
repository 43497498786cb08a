"""Frames of loads, leases and tasks that go on: the kernel's side, and the worker's where it reads or answers them."""

from dataclasses import replace

from inferd.core.commands import SendTask
from inferd.core.ids import DeviceId, InstanceId, LeaseId, ModelName, TaskId, Tenant
from inferd.core.model import ModelSpec
from inferd.core.priority import Priority
from inferd.core.resources import MemoryNeed
from inferd.core.task import FinishReason, TaskSpec
from inferd.core.task_events import Output, PromptOutput
from inferd.runtime.continuation import Continuation
from inferd.runtime.frames import (
    hold_frame,
    load_frame,
    proceed_frame,
    read_facts,
    read_needs,
    submit_frame,
)
from inferd.worker.frames import PROCESS_BYTES, needs_frame, read_continuation, read_load
from inferd_api.worker.v1 import load_pb2, task_pb2

MODEL = ModelSpec(
    name=ModelName("m"),
    source="/m",
    path="/m",
    format="fake",
    size_bytes=1,
    backend="fake",
    backend_reason="",
    loader="a.b:C",
    devices=(DeviceId("fake:0"),),
)


def test_load() -> None:
    """A load names the instance, the backend and what may be given of the device; a model's drafts win."""
    limits = load_pb2.EngineLimits(step_tokens=5, draft_tokens=1)
    load = load_frame("m/1", MODEL, limits, device_id=DeviceId("fake:0"), capacity_bytes=1 << 40).load
    assert (load.instance_id, load.loader, load.limits.draft_tokens) == ("m/1", "a.b:C", 1)
    request, bounds = read_load(load)
    assert (str(request.path), request.device, request.capacity_bytes, bounds.step_tokens) == (
        "/m",
        "fake:0",
        1 << 40,
        5,
    )
    guessing = load_frame("m/1", replace(MODEL, draft_tokens=3), limits, device_id=DeviceId("fake:0"), capacity_bytes=0)
    assert guessing.load.limits.draft_tokens == 3
    assert limits.draft_tokens == 1
    for values, told in (({"draft": "/d"}, 4), ({"draft": None}, 0)):  # a model beside it guesses, unless that is off
        none = load_pb2.EngineLimits(step_tokens=5)
        beside = load_frame("m/1", replace(MODEL, values=values), none, device_id=DeviceId("fake:0"), capacity_bytes=0)
        assert beside.load.limits.draft_tokens == told
    assert proceed_frame().HasField("proceed")


def test_needs() -> None:
    """A need comes back as it was told; on the host with what the process itself takes."""
    need = MemoryNeed(weights_bytes=1 << 40, kv_bytes=2, workspace_bytes=3, kv_saved_bytes=5, paged_bytes=6)
    assert read_needs(needs_frame(need, "cuda:0").needs) == need
    assert read_needs(needs_frame(need, "cpu:0").needs) == replace(need, workspace_bytes=3 + PROCESS_BYTES)
    other = replace(need, offloaded_bytes=7)
    told = read_needs(needs_frame(other, "cpu:0").needs)
    assert told == replace(other, workspace_bytes=3 + PROCESS_BYTES, offloaded_bytes=7 + PROCESS_BYTES)


def test_facts() -> None:
    """What a worker reports of its model is kept."""
    facts = read_facts(load_pb2.Loaded(max_tasks=1, context_tokens=2, description="d", memory_bytes=3, kv_tokens=4))
    assert (facts.max_tasks, facts.context_tokens, facts.description, facts.memory_bytes) == (1, 2, "d", 3)
    assert facts.kv_tokens == 4


def test_submit() -> None:
    """A task goes out with its class, its lease and the token of that lease's grant."""
    spec = TaskSpec(
        task_id=TaskId("t"),
        tenant=Tenant("x"),
        model=ModelName("m"),
        work=task_pb2.Work(input=task_pb2.Input(prompt="hi")),
        priority=Priority.HIGH,
        lease_id=LeaseId("l"),
    )
    order = SendTask(InstanceId("i"), spec, 1, alone=True, fencing_token=9, expected_tokens=2.5, weight=3.0)
    submit = submit_frame(4, order).submit
    assert (submit.handle, submit.priority, submit.lease_id, submit.fencing_token) == (4, 3, "l", 9)
    assert (submit.expected_tokens, submit.weight, submit.alone) == (2.5, 3.0, True)
    assert submit.work == spec.work
    assert not submit.HasField("continuation")


def test_continuation() -> None:
    """What a task has told goes out with it, sample by sample, and comes to the engine as it was told."""
    told = Continuation()
    assert told.write() is None
    told.cached_tokens = 16
    told.take(PromptOutput("hi", (1, 2)))
    told.take(Output("a", (7, 8)))
    told.take(Output("b", (9,), sample=2, reason=FinishReason.STOP_STRING))
    told.take(Output("c", (10,)))
    assert told.unfinished(3) == {0, 1}
    read = read_continuation(task_pb2.Submit(continuation=told.write()))
    assert read is not None
    assert (read.prompt_told, read.cached_tokens) == (True, 16)
    assert {n: (list(s.token_ids), s.reason) for n, s in read.samples.items()} == {
        0: ([7, 8, 10], FinishReason.UNSPECIFIED),
        2: ([9], FinishReason.STOP_STRING),
    }
    assert read_continuation(task_pb2.Submit()) is None


def test_hold() -> None:
    """A hold names its lease, its grant and what it keeps."""
    hold = hold_frame(LeaseId("l"), fencing_token=7, sequences=2, kv_tokens=99).hold
    assert (hold.lease_id, hold.fencing_token, hold.sequences, hold.kv_tokens) == ("l", 7, 2, 99)
