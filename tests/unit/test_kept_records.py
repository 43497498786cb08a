"""What is kept of tasks, models and events, and what is read of it."""

import json
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import fields
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferd.core import task_events as te
from inferd.core.demand import NO_DEMAND, Demand
from inferd.core.ids import DeviceId, InstanceId, LeaseId, ModelName, TaskId, Tenant
from inferd.core.lease import CoresClaim, Lease, LeaseSpec, LeaseState, MemoryClaim, ModelClaim
from inferd.core.model import ModelSpec
from inferd.core.priority import Priority
from inferd.core.quota import Quota, QuotaUse
from inferd.core.sampling_defaults import SamplingDefaults
from inferd.core.task import FinishReason, Outcome, SuspendReason, Task, TaskSpec, TaskState, Usage
from inferd.errors import EventsDroppedError, WorkerDiedError
from inferd.runtime.clock import Boot, Clock
from inferd.runtime.continuation import Continuation
from inferd.runtime.event_budget import EventBudget
from inferd.runtime.event_log import Entry, Numbered, Run
from inferd.runtime.kept_events import (
    CAN_BE_LARGE,
    PIECE_BYTES,
    InBlob,
    contents_of,
    in_blob,
    read_entries,
    write_entries,
    write_pieces,
)
from inferd.runtime.kept_records import read_progress, read_spec, read_task, write_progress, write_spec, write_task
from inferd.runtime.lease_records import read_lease, write_lease
from inferd.runtime.past import read_page
from inferd.runtime.stream import TaskStream
from inferd.store.store import Kind
from inferd_api.worker.v1 import task_pb2

LIKELY = te.Logprobs(array("I", [1, 2]), array("f", [-0.1, -30.5]), array("I", [3, 4]), array("f", [-1e-38, -7]))
USE = QuotaUse(
    quota=Quota(tenants="a*", tasks=3), tenant=Tenant("a"), requests_per_minute=1, tokens_per_minute=2, tasks=3,
    input_bytes=4, lease_bytes=5, device_seconds_per_day=6.5,
)  # fmt: skip
RECEIPT = te.Receipt(
    queue_s=1.5,
    first_token_s=None,
    run_s=0.1,
    backend="cpu",
    device="cpu:0",
    worker_memory_bytes=1 << 40,
    device_s=0.05,
    quotas=(USE,),
)
DIED = WorkerDiedError("it died", metadata={"cause": "signal 9", "log": "/l"}, field="spec.model")
EVENTS: list[te.TaskEvent] = [
    te.Queued(7, None),
    te.Queued(0, 1.25),
    te.Started(InstanceId("m-1"), 1),
    te.Suspended(SuspendReason.WORKER_DIED),
    te.Moderated("rule", "redact", 2, 1),
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


class Whole(NamedTuple):
    """A blob."""

    data: bytes

    @property
    def size_bytes(self) -> int:
        return len(self.data)

    def read(self, start: int = 0, size_bytes: int | None = None) -> bytes:
        return self.data[start:] if size_bytes is None else self.data[start : start + size_bytes]


@pytest.mark.parametrize(
    "event",
    [
        *(event for event in EVENTS if isinstance(event, CAN_BE_LARGE)),
        te.TensorOutput(b"head", ((0, Whole(b"abc")), (2, Whole(b"")), (5, Whole(bytes(range(200)))))),
    ],
    ids=lambda event: type(event).__name__,
)
@pytest.mark.parametrize("step", [1, 7, 1 << 20])
def test_an_event_is_read_of_its_blob(event: te.TaskEvent, step: int) -> None:
    """What a blob has of an event, in whatever parts it was read, makes the event again; its row says what is where."""
    contents = contents_of(event)
    data = b"".join(contents.read(start, step) for start in range(0, contents.size_bytes, step))
    assert (data, contents.read()) == (contents.read(0, len(data) + 9), data)
    (row,) = read_entries(write_entries([in_blob(Numbered(5, event), "d" * 64, len(data))]))
    assert isinstance(row, InBlob)
    assert type(row.outline()) is type(event)
    number, read = row.whole(Whole(data))
    assert number == 5
    if not isinstance(event, te.TensorOutput):
        assert read == event
        return
    assert isinstance(read, te.TensorOutput)
    assert (read.written, [(place, each.read()) for place, each in read.elements]) == (
        event.written,
        [(place, each.read()) for place, each in event.elements],
    )
    assert [each.read(1, 1) for _, each in read.elements] == [each.read(1, 1) for _, each in event.elements]


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


class Pieces:
    """What a store has of one task."""

    def __init__(self) -> None:
        self.pieces: dict[int, bytes] = {}
        self.taken = 0

    def keep(self, entries: Sequence[Entry]) -> None:
        self.pieces.update(write_pieces(entries))

    def __call__(self, _: str, __: Kind, ___: str, *, after: int = -1) -> Iterator[bytes]:
        for number in sorted(number for number in self.pieces if number > after):
            self.taken += 1
            yield self.pieces[number]


def stored() -> tuple[Any, Pieces]:
    """A store, and what it has."""
    pieces = Pieces()
    return SimpleNamespace(pieces=pieces), pieces


def page(store: Any, *, after: int, until: int) -> list[Numbered]:
    return read_page(store, Tenant("who"), TaskId("t"), after=after, until=until).events


@given(steps=STEPS, cuts=st.sets(st.integers(0, 12)), others=st.sets(st.integers(0, 12)))
def test_streams_that_are_kept_piece_by_piece_are_as_others(
    steps: list[tuple[str, list[int]]], cuts: set[int], others: set[int]
) -> None:
    """However output falls into pieces, what is read back of them is what was held, from every number on."""
    plain, held = (TaskStream(TaskId("t"), 1 << 20, EventBudget(1 << 30)) for _ in range(2))
    held.hold_back(lambda: None)
    taken = []
    for place, (text, ids) in enumerate(steps):
        for stream in (plain, held):
            if place in others:
                stream.tell(te.Progress(te.Phase.PREFILL, 0.5))
            stream.tell_tokens(text, array("I", ids))
        if place in cuts:
            taken.append(held.take())
    taken.append(held.take())
    assert held.last_sequence == 0  # nothing is shown before it is released
    store, pieces = stored()
    for entries in taken:
        pieces.keep(entries)
        held.release(entries)
    for after in range(plain.last_sequence):
        assert page(store, after=after, until=plain.last_sequence) == held.read(after) == plain.read(after)


def test_what_a_task_told_is_read_back_in_pages() -> None:
    """Of a long text, told at once or bit by bit, each reading takes about a page; together they are all of it."""
    text = "".join(chr(0x4E00 + number % 5000) for number in range(200_000))
    runs = [
        Run(10_000 * n + 10_000, list(text[10_000 * n :][:10_000]), [1] * 10_000, array("I", range(10_000)))
        for n in range(20)
    ]
    store, pieces = stored()
    pieces.keep(runs[:10])
    for run in runs[10:]:
        pieces.keep([run])
    found, after, readings = "", 0, 0
    while after < len(text):
        before = pieces.taken
        for numbered in page(store, after=after, until=len(text)):
            assert isinstance(numbered.event, te.Output)
            found, after = found + numbered.event.text, numbered.sequence
        assert pieces.taken - before <= 3
        readings += 1
    assert found == text
    assert readings > 5
    assert all(len(piece) <= 2 * PIECE_BYTES for piece in pieces.pieces.values())


def test_what_is_not_there_to_be_read_back_is_told_with_what_is() -> None:
    """Events from before a task was kept, damaged ones, and all of one that is kept no longer are EVENTS_DROPPED."""
    store, pieces = stored()
    for number in (11, 12, 13):
        pieces.keep([Numbered(number, te.Progress(te.Phase.PREFILL, 0.5))])
    with pytest.raises(EventsDroppedError, match="events 4 to 10 were dropped before the task was kept") as caught:
        page(store, after=3, until=13)
    assert caught.value.metadata["first_sequence"] == "11"
    assert [numbered.sequence for numbered in page(store, after=10, until=12)] == [11, 12]
    pieces.pieces[12] = b"[[12"
    assert [numbered.sequence for numbered in page(store, after=10, until=13)] == [11]
    with pytest.raises(EventsDroppedError, match="events 12 to 13 cannot be read") as caught:
        page(store, after=11, until=13)
    assert caught.value.metadata["first_sequence"] == "14"
    pieces.pieces.clear()
    with pytest.raises(EventsDroppedError) as caught:
        page(store, after=0, until=13)
    assert caught.value.metadata["first_sequence"] == "14"


def test_what_was_kept_twice_is_read_once() -> None:
    """Pieces that overlap, as kernels before this one may have left, give each event once, from every number on."""
    store, pieces = stored()
    queued, ids = Numbered(1, te.Queued(0, None)), array("I", [7])
    pieces.keep([queued, Run(3, ["a", "b"], [1, 1], ids * 2)])
    pieces.keep([queued, Run(5, ["a", "b", "c", "d"], [1] * 4, ids * 4)])
    pieces.keep([Run(6, ["d", "e"], [1, 1], ids * 2)])
    assert page(store, after=0, until=6) == [queued, Numbered(6, te.Output("abcde", (7,) * 5))]
    for after in range(1, 6):
        assert page(store, after=after, until=6) == [Numbered(6, te.Output("abcde"[after - 1 :], (7,) * (6 - after)))]


def test_a_piece_that_is_missing_is_told() -> None:
    """What lies before a gap is read, the gap itself is EVENTS_DROPPED with its numbers, and so is one at the end."""
    store, pieces = stored()
    for number in range(1, 6):
        pieces.keep([Numbered(number, te.Progress(te.Phase.PREFILL, 0.5))])
    del pieces.pieces[3], pieces.pieces[5]
    assert [numbered.sequence for numbered in page(store, after=0, until=5)] == [1, 2]
    for after, first in ((2, 4), (4, 6)):
        with pytest.raises(
            EventsDroppedError, match=f"events {after + 1} to {first - 1} were .* or are missing"
        ) as caught:
            page(store, after=after, until=5)
        assert caught.value.metadata["first_sequence"] == str(first)


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
    read = read_progress(write_progress(running, Continuation(cached_tokens=5), clock, last=9))
    assert (read.cached_tokens, read.last, read.end, read.ended) == (5, 9, None, False)
    restored = read.restored(kept, None, later)
    assert (restored.state, restored.attempt, restored.deaths) == (TaskState.RUNNING, 2, 1)
    assert (restored.started, restored.expires) == pytest.approx((1200.0, 1500.0))
    assert (restored.finished, restored.outcome, restored.instance_id) == (None, None, "m-1")


def test_the_end_of_a_task_is_read_from_where_it_stands() -> None:
    """An ended task's record says how it ended and under which number, and nothing of its work is taken up."""
    clock = Clock()
    ended = task(state=TaskState.FAILED, attempt=1, started=200.0, finished=300.0)
    end = Numbered(7, te.Finished(Outcome(state=TaskState.FAILED, usage=Usage(output_tokens=9)), RECEIPT))
    read = read_progress(write_progress(ended, Continuation(), clock, last=7, end=end))
    assert (read.end, read.last, read.ended) == (end, 7, True)
    kept = read_task(write_task(ended, clock), clock, ended=True)
    assert (kept.spec.work, kept.spec.demand) == (None, NO_DEMAND)
    restored = read.restored(kept, read.end, clock)
    assert isinstance(end.event, te.Finished)
    assert (restored.state, restored.outcome) == (TaskState.FAILED, end.event.outcome)


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
    read = read_spec(json.loads(json.dumps(write_spec(spec))))
    for field in fields(ModelSpec):
        assert getattr(read, field.name) == getattr(spec, field.name), field.name
    assert type(read.values["fast"]) is bool


def test_a_lease_is_read_as_it_was_written() -> None:
    """Every field of a lease comes back equal, and what it claims, of each kind; its end to the bit."""
    clock = Clock(monotonic=lambda: 100.1, wall=lambda: 1.8e9, boot=Boot("one"))
    claims = (
        MemoryClaim(device_id=DeviceId("cpu:0"), memory_bytes=5),
        CoresClaim(device_id=DeviceId("h/cpu:0"), cores=2, selector={"zone": "a"}),
        ModelClaim(model=ModelName("m"), sequences=3, kv_tokens=4),
    )
    spec = LeaseSpec(
        lease_id=LeaseId("l"),
        tenant=Tenant("a"),
        claims=claims,
        ttl_s=7.7,
        priority=Priority.HIGH,
        wait=True,
        wait_s=3.5,
        labels={"a": "ä\0"},
        request_id="r",
        fingerprint=b"\0\xff",
    )
    lease = Lease(
        spec=spec,
        number=9,
        ttl_s=8.8,
        expires=103.3,
        created=1.5,
        granted=2.5,
        fencing_token=6,
        state=LeaseState.ACTIVE,
    )
    read = read_lease(write_lease(lease, [ModelName("x")], clock), clock)
    assert (read.spec, read.number, read.ttl_s, read.expires) == (spec, 9, 8.8, 103.3)
    assert (read.fencing_token, read.models) == (6, ("x",))
    assert (read.created, read.granted) == pytest.approx((1.5, 2.5), abs=1e-6)
