"""What is noted for traces of tasks, and the contexts that they are a part of."""

from types import SimpleNamespace
from typing import Any

import pytest

from inferd.core import changes
from inferd.core.ids import InstanceId, ModelName, TaskId, Tenant
from inferd.core.task import Outcome, SuspendReason, TaskChange, TaskSpec, TaskState
from inferd.runtime.telemetry.trace_context import CALL, TraceContext, read_traceparent
from inferd.runtime.telemetry.tracer import MOST_PHASES, TaskTrace, Tracer

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"


@pytest.mark.parametrize(
    ("text", "known"),
    [
        (PARENT, True),
        (f"00-{TRACE}-{SPAN}-00", True),
        (f"01-{TRACE}-{SPAN}-01-what.a.later.version.adds", True),
        (f"00-{TRACE}-{SPAN}-01-more", False),
        (f"ff-{TRACE}-{SPAN}-01", False),
        (f"00-{'0' * 32}-{SPAN}-01", False),
        (f"00-{TRACE}-{'0' * 16}-01", False),
        (f"00-{TRACE.upper()}-{SPAN}-01", False),
        (f"00-{TRACE}-{SPAN}", False),
        (f"01-{TRACE}-{SPAN}-01-{'a' * 300}", False),
        ("", False),
    ],
)
def test_contexts_are_read_as_the_standard_says(text: str, *, known: bool) -> None:
    """A `traceparent` of this version, or a later one that begins like it, is known; all else begins a trace anew."""
    found = read_traceparent(text)
    assert (found is not None) is known
    if found is not None:
        assert found == TraceContext(int(TRACE, 16), int(SPAN, 16), text.split("-")[3] == "01")


class Bench:
    """A tracer whose clock is set by hand."""

    def __init__(self, *, sample: float = 1.0, chance: float = 0.5) -> None:
        self.now, self.first_output_at, self.instance = 0.0, None, None
        self.given: list[TaskTrace] = []
        views: Any = SimpleNamespace(find_instance=lambda _: self.instance, find_task=lambda _: None)
        streams: Any = SimpleNamespace(get=lambda _: self)
        clock: Any = SimpleNamespace(now=lambda: self.now)
        self.tracer = Tracer(views, streams, clock, sample=sample, give=self.given.append, chance=lambda: chance)

    def accept(self, **spec: Any) -> None:
        made = TaskSpec(task_id=TaskId("t"), tenant=Tenant("x"), model=ModelName("m"), operation="chat", **spec)
        self.tracer.see(changes.TaskAccepted(made, 1, self.now))

    def move(self, change: TaskChange, state: TaskState, now: float, **more: Any) -> changes.TaskChanged:
        self.now = now
        told = changes.TaskChanged(
            *(TaskId("t"), Tenant("x"), ModelName("m"), change, state),
            attempt=more.pop("attempt", 1),
            instance_id=InstanceId("m-1"),
            **more,
        )
        self.tracer.see(told)
        return told

    def end(self, now: float) -> list[tuple[str, float, float]]:
        finish = changes.TaskEnd(Outcome(state=TaskState.SUCCEEDED), None, 0.0, 1.0, now)
        told = self.move(TaskChange.SUCCEED, TaskState.SUCCEEDED, now, end=finish)
        self.tracer.ended(told, SimpleNamespace())  # type: ignore[arg-type] # it is carried
        return [(phase.name, phase.begin, phase.end) for phase in self.given[-1].phases]


def test_a_task_has_its_phases_one_after_the_other() -> None:
    """A wait with a load in it, the prompt, the output; stopped and gone on with, a wait and another attempt."""
    bench = Bench()
    bench.accept()
    bench.instance = SimpleNamespace(created=0.5, ready=1.5)
    bench.move(TaskChange.DISPATCH, TaskState.RUNNING, 2.0)
    bench.first_output_at = 3.0
    bench.move(TaskChange.PREEMPT, TaskState.QUEUED, 5.0, reason=SuspendReason.PREEMPTED)
    bench.move(TaskChange.DISPATCH, TaskState.RUNNING, 6.0, attempt=2)
    assert bench.end(8.0) == [
        *(("queue", 0.0, 2.0), ("load", 0.5, 1.5), ("prefill", 2.0, 3.0), ("decode", 3.0, 5.0)),
        *(("queue", 5.0, 6.0), ("decode", 6.0, 8.0)),
    ]
    (trace,) = bench.given
    assert [phase.attempt for phase in trace.phases] == [0, 0, 1, 1, 0, 2]
    assert [phase.reason for phase in trace.phases if phase.reason] == ["preempted"]


def test_a_task_that_never_ran_has_waited() -> None:
    """One that ends in the queue, or suspended, has that phase and no other."""
    bench = Bench()
    bench.accept()
    bench.move(TaskChange.SUSPEND, TaskState.SUSPENDED, 1.0, reason=SuspendReason.CLIENT)
    assert bench.end(4.0) == [("queue", 0.0, 1.0), ("suspended", 1.0, 4.0)]


def test_phases_are_bounded() -> None:
    """Of a task that is stopped without end so many phases are kept, and how many there were besides is told."""
    bench = Bench()
    bench.accept()
    for turn in range(MOST_PHASES):
        bench.move(TaskChange.DISPATCH, TaskState.RUNNING, turn + 0.5)
        bench.move(TaskChange.INTERRUPT, TaskState.QUEUED, turn + 1.0, reason=SuspendReason.WORKER_DIED)
    assert len(bench.end(1000.0)) == MOST_PHASES
    assert bench.given[0].left_out == MOST_PHASES + 1


@pytest.mark.parametrize(
    ("said", "label", "chance", "traced", "above"),
    [
        ("", "", 0.5, False, False),
        ("", "", 0.05, True, False),
        (PARENT, "", 0.5, True, True),
        ("", PARENT, 0.5, True, True),
        (f"00-{TRACE}-{SPAN}-00", "", 0.05, False, False),
        (PARENT, f"00-{TRACE}-{SPAN}-00", 0.5, False, False),  # that of the task goes before that of its call
        ("none", "", 0.05, True, False),
    ],
)
def test_who_is_traced(said: str, label: str, chance: float, *, traced: bool, above: bool) -> None:
    """A client says whether a task is traced, by its call or its label; where it does not, a part of them is."""
    bench = Bench(sample=0.1, chance=chance)
    before = CALL.set(said)
    try:
        bench.accept(labels={"traceparent": label} if label else {})
    finally:
        CALL.reset(before)
    bench.move(TaskChange.DISPATCH, TaskState.RUNNING, 1.0)
    if traced:
        bench.end(2.0)
        assert (bench.given[0].parent is not None) is above
    else:
        assert bench.tracer._open == {}


def test_a_task_that_is_forgotten_before_its_end_is_let_go() -> None:
    """One that is withdrawn leaves nothing behind."""
    bench = Bench()
    bench.accept()
    bench.tracer.see(changes.TaskForgotten(TaskId("t"), Tenant("x")))
    assert bench.tracer._open == {}
