"""What is kept of tasks, models and events, and what is read of it."""

from array import array
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferd.core import task_events as te
from inferd.core.demand import Demand
from inferd.core.ids import DeviceId, InstanceId, LeaseId, ModelName, TaskId, Tenant
from inferd.core.model import ModelSpec
from inferd.core.priority import Priority
from inferd.core.sampling_defaults import SamplingDefaults
from inferd.core.task import FinishReason, Outcome, SuspendReason, Task, TaskSpec, TaskState, Usage
from inferd.errors import WorkerDiedError
from inferd.runtime.clock import Boot, Clock
from inferd.runtime.continuation import Continuation
from inferd.runtime.event_budget import EventBudget
from inferd.runtime.event_log import Numbered, Run
from inferd.runtime.kept_events import read_entries, write_entries
from inferd.runtime.kept_records import read_model, read_progress, read_task, write_model, write_progress, write_task
from inferd.runtime.streams import TaskStream
from inferd_api.worker.v1 import task_pb2

LIKELY = te.Logprobs(array("I", [1, 2]), array("f", [-0.1, -30.5]), array("I", [3, 4]), array("f", [-1e-38, -7]))
RECEIPT = te.Receipt(
    queue_s=1.5, first_token_s=None, run_s=0.1, backend="cpu", device="cpu:0", worker_memory_bytes=1 << 40
)
DIED = WorkerDiedError("it died", metadata={"cause": "signal 9", "log": "/l"}, field="spec.model")
EVENTS: list[te.TaskEvent] = [
    te.Queued(7, None),
    te.Queued(0, 1.25),
    te.Started(InstanceId("m-1"), 1),
    te.Suspended(SuspendReason.WORKER_DIED),
    te.Resumed(InstanceId("m-2"), 2),
    te.Progress(te.Phase.PREFILL, 0.5),
    te.PromptOutput("p\0🙂\ud800", array("I", [1, 4_294_967_295]), LIKELY),
    te.PromptOutput("", array("I")),
    te.EmbeddingOutput(array("f", [0.1, -2.5, 1e30])),
    te.TensorOutput(bytes(range(256))),
    te.Output("text", (1, 2), 3, LIKELY, FinishReason.STOP_STRING),
    te.Finished(
        Outcome(state=TaskState.SUCCEEDED, reason=FinishReason.MAX_TOKENS, usage=Usage(output_tokens=9)), RECEIPT
    ),
]


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_each_event_is_read_as_it_was_written(event: te.TaskEvent) -> None:
    """Every kind of event comes back equal, floats and texts to the bit."""
    assert read_entries(write_entries([Numbered(5, event)])) == [Numbered(5, event)]


def test_each_kind_of_event_is_tried() -> None:
    """A kind that is added is added here."""
    assert {type(event) for event in EVENTS} == set(te.TaskEvent.__args__)


def test_an_error_comes_back_with_all_that_it_says() -> None:
    """The end of a task that failed has its class, message, metadata and field."""
    ended = te.Finished(Outcome(state=TaskState.FAILED, error=DIED), RECEIPT)
    (read,) = read_entries(write_entries([Numbered(1, ended)]))
    assert isinstance(read, Numbered)
    assert isinstance(read.event, te.Finished)
    error = read.event.outcome.error
    assert isinstance(error, WorkerDiedError)
    assert (error.message, error.metadata, error.field) == (DIED.message, DIED.metadata, DIED.field)


def test_an_unknown_kind_is_refused() -> None:
    """An event that a later version wrote is an error that names its kind, not another event."""
    with pytest.raises(ValueError, match="'sung' with 2 fields"):
        read_entries(b'[[1,"sung",1,2]]')


STEPS = st.lists(st.tuples(st.text(max_size=3), st.lists(st.integers(0, 1 << 31), max_size=3)), max_size=12)


@given(steps=STEPS, cuts=st.sets(st.integers(0, 12)), others=st.sets(st.integers(0, 12)))
def test_streams_that_are_kept_piece_by_piece_are_as_others(
    steps: list[tuple[str, list[int]]], cuts: set[int], others: set[int]
) -> None:
    """However output falls into pieces, a stream that took them up reads the same from every number on."""
    plain, held, again = (TaskStream(TaskId("t"), 1 << 20, EventBudget(1 << 30)) for _ in range(3))
    held.hold_back(lambda: None)
    pieces = []
    for place, (text, ids) in enumerate(steps):
        for stream in (plain, held):
            if place in others:
                stream.tell(te.Progress(te.Phase.PREFILL, 0.5))
            stream.tell_tokens(text, array("I", ids))
        if place in cuts:
            pieces.append(held.take())
    pieces.append(held.take())
    assert held.last_sequence == 0  # nothing is shown before it is released
    for piece in pieces:
        again.restore(read_entries(write_entries(piece)))
        held.release(piece)
    for after in range(plain.last_sequence + 1):
        assert again.read(after) == held.read(after) == plain.read(after)
    assert again.continuation == plain.continuation
    assert again.output_tokens == plain.output_tokens


def test_a_run_that_goes_on_is_not_changed_where_it_was_taken() -> None:
    """What is written on another thread stays as it is while the task tells more."""
    stream = TaskStream(TaskId("t"), 1 << 20, EventBudget(1 << 30))
    stream.hold_back(lambda: None)
    stream.tell_tokens("a", array("I", [1]))
    (taken,) = stream.take()
    stream.tell_tokens("b", array("I", [2]))
    assert isinstance(taken, Run)
    assert taken.texts == ["a"]


def task(**changes: Any) -> Task:
    spec = TaskSpec(
        task_id=TaskId("id"),
        tenant=Tenant("who"),
        model=ModelName("m"),
        demand=Demand(prompt_tokens=3, most_output=None, samples=2, memory_bytes=9, affinity=b"\0a", contents=b"\xff"),
        work=task_pb2.Work(prefix_cache=True),
        priority=Priority.HIGH,
        lease_id=LeaseId("l"),
        labels={"a": "ä\0"},
        detached=True,
        request_id="r",
        fingerprint=b"\1\2",
    )
    return Task(**({"spec": spec, "number": 7, "created": 100.0, "expires": 500.0} | changes))


def test_a_task_is_read_as_it_was_written() -> None:
    """What a task is to do comes back equal, its work too, and its instants on the clock of the reader."""
    clock = Clock(monotonic=lambda: 600.0, wall=lambda: 5000.0, boot=Boot("first"))
    later = Clock(monotonic=lambda: 1700.0, wall=lambda: 5100.0, boot=Boot("second"))  # 100 s after that
    made = task()
    kept = read_task(write_task(made, clock), later)
    assert kept.spec == made.spec
    assert kept.number == 7
    assert kept.created == pytest.approx(1100.0)  # 600 s before that moment, as it was
    running = task(state=TaskState.RUNNING, attempt=2, deaths=1, started=200.0, instance_id=InstanceId("m-1"))
    running.device_id = DeviceId("cpu:0")
    value = write_progress(running, Continuation(cached_tokens=5), clock)
    restored, cached_tokens = read_progress(kept, value, None, later)
    assert cached_tokens == 5
    assert (restored.state, restored.attempt, restored.deaths) == (TaskState.RUNNING, 2, 1)
    assert (restored.started, restored.expires) == pytest.approx((1200.0, 1500.0))
    assert (restored.finished, restored.outcome, restored.instance_id) == (None, None, "m-1")


def test_a_model_is_read_as_it_was_written() -> None:
    """Every field of a model's spec comes back equal, with settings of each type."""
    spec = ModelSpec(
        name=ModelName("m"),
        source="hf:x",
        path="/m",
        format="gguf",
        size_bytes=1 << 40,
        backend="cpu",
        backend_reason="why",
        loader="a:B",
        devices=(DeviceId("cpu:0"), DeviceId("h/cuda:1")),
        alternatives=("torch",),
        settings={"threads": "4"},
        values={"threads": 4, "scale": 0.1, "fast": True, "kind": "auto", "none": None},
        draft_tokens=3,
        min_instances=1,
        max_instances=2,
        sampling=SamplingDefaults(temperature=0.7, top_k=40),
        catalogue_sampling=SamplingDefaults(),
        file_version="v",
    )
    read = read_model(write_model(spec))
    for field in fields(ModelSpec):
        assert getattr(read, field.name) == getattr(spec, field.name), field.name
    assert type(read.values["fast"]) is bool
