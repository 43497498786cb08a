"""The tensor engine: what is computed together, in which order, and what becomes of each request."""

import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from inferd.core.ids import Tenant
from inferd.core.vigil import Doing
from inferd.engine.tensor.board import Board
from inferd.engine.tensor.entry import Entry
from inferd.engine.tensor.loop import TensorLoop
from inferd.engine.tensor.request import Request, SequenceStep, TensorLimits, TensorResult
from inferd.engine.tensor.sequences import Sequences
from inferd.errors import BackendFailedError, InvalidFieldError, LimitExceededError, SequenceNotFoundError
from inferd.plugin import (
    ElementType,
    LoadedTensorModel,
    ModelDescription,
    Signature,
    Tensor,
    TensorInfo,
    TensorState,
)

DEADLINE_S = 30.0
FLOAT = ElementType.FLOAT
DESCRIPTION = ModelDescription(architecture="t", parameters=0, weight_format="", compute_format="")


def info(name: str, *shape: int | str) -> TensorInfo:
    return TensorInfo(name=name, element_type=FLOAT, shape=shape)


def floats(array: Any) -> Tensor:
    array = np.asarray(array, np.float32)
    return Tensor(element_type=FLOAT, shape=array.shape, array=array)


def request(handle: int, rows: Any = 1.0, **more: Any) -> Request:
    """One row of a number, or rows."""
    return Request(handle=handle, inputs={"x": floats([[rows]] if isinstance(rows, float) else rows)}, **more)


class Session:
    """Doubles `x`; its calls wait at a gate, and are kept."""

    def __init__(self, *, compute: Callable[[Any], Any] = lambda x: 2 * x, **signature: Any) -> None:
        self.signature = Signature(
            **{"inputs": (info("x", "b", "w"),), "outputs": (info("y", "b", "w"),), "most_batch": 8, **signature}
        )
        self.calls: list[list[float]] = []
        self.came = threading.Semaphore(0)
        self.gate = threading.Semaphore(0)
        self._compute = compute

    def predict(self, inputs: Mapping[str, Tensor], outputs: Sequence[str]) -> Any:
        self.calls.append(inputs["x"].array.ravel().tolist())
        self.came.release()
        assert self.gate.acquire(timeout=DEADLINE_S)
        given = self._compute(inputs["x"].array)
        return given if not isinstance(given, np.ndarray) else {name: floats(given) for name in outputs}

    def close(self) -> None: ...

    def wait(self) -> list[float]:
        """What the next call is given."""
        assert self.came.acquire(timeout=DEADLINE_S)
        return self.calls[-1]


class Told:
    """What a loop tells."""

    def __init__(self) -> None:
        self.results: list[TensorResult] = []
        self._changed = threading.Condition()

    def __call__(self, result: TensorResult) -> None:
        with self._changed:
            self.results.append(result)
            self._changed.notify_all()

    def outputs(self) -> dict[int, list[Any]]:
        told: dict[int, list[Any]] = {}
        for result in self.results:
            for handle, outputs in result.outputs:
                told.setdefault(handle, []).append(next(iter(outputs.values())).array.tolist())
        return told

    def ended(self) -> dict[int, type | None]:
        return {e.handle: e.error and type(e.error) for result in self.results for e in result.ended}

    def until(self, *handles: int) -> dict[int, type | None]:
        """How these ended, once they have."""
        with self._changed:
            assert self._changed.wait_for(lambda: set(handles) <= set(self.ended()), DEADLINE_S)
        return self.ended()


@contextmanager
def running(session: Any, **limits: Any) -> Iterator[tuple[TensorLoop, Told]]:
    """A loop of a session."""
    told = Told()
    loop = TensorLoop(LoadedTensorModel(session=session, description=DESCRIPTION), TensorLimits(**limits), told)
    thread = threading.Thread(target=loop.run, daemon=True)
    thread.start()
    try:
        yield loop, told
    finally:
        loop.stop()
        session.gate.release(1000)
        thread.join(DEADLINE_S)
        assert not thread.is_alive()


def test_what_came_meanwhile_is_computed_as_one() -> None:
    """Requests that came while another was computed are the next batch, and each is told its own rows."""
    session = Session()
    with running(session) as (loop, told):
        loop.submit(request(1, 1.0))
        session.wait()
        for handle in (2, 3):
            loop.submit(request(handle, float(handle)))
        loop.submit(request(4, [[4.0], [5.0]]))
        session.gate.release(2)
        assert session.wait() == [2, 3, 4, 5]
        assert told.until(1, 2, 3, 4) == dict.fromkeys((1, 2, 3, 4))
        assert told.outputs() == {1: [[[2]]], 2: [[[4]]], 3: [[[6]]], 4: [[[8], [10]]]}
        assert len(session.calls) == 2


@pytest.mark.parametrize(
    ("other", "why"),
    [
        (request(3, [[3.0, 3.0]]), "another width"),
        (request(3, 3.0, outputs=("z",)), "another output"),
        (request(3, [[3.0]] * 8), "rows beyond the most"),
        (request(3, np.zeros((0, 1))), "no rows"),
        (request(3, 3.0, alone=True), "a suspect"),
    ],
)
def test_what_differs_is_computed_apart(other: Request, why: str) -> None:
    """Only requests of equal names, types and other dimensions, and of rows that have room, are computed as one."""
    session = Session(outputs=(info("y", "b", "w"), info("z", "b", "w")))
    with running(session) as (loop, told):
        loop.submit(request(1))
        session.wait()
        loop.submit(request(2, 2.0))
        loop.submit(other)
        session.gate.release(3)
        assert told.until(1, 2, 3) == dict.fromkeys((1, 2, 3))
        assert [len(call) for call in session.calls][:2] == [1, 1]
        assert len(session.calls) == 3, why


def test_the_higher_class_comes_first() -> None:
    """Of those that wait the highest class is next, and in it the oldest; its batch may take others of its kind."""
    session = Session(most_batch=1)
    with running(session) as (loop, told):
        loop.submit(request(1))
        session.wait()
        for handle, priority in ((2, 1), (3, 3), (4, 2), (5, 3)):
            loop.submit(request(handle, float(handle), priority=priority))
        session.gate.release(5)
        told.until(1, 2, 3, 4, 5)
        assert session.calls == [[1], [3], [5], [4], [2]]


def test_more_rows_than_a_batch_has_go_alone() -> None:
    """A request of more rows than are joined is computed by itself, whole."""
    session = Session(most_batch=64)
    with running(session, batch_rows=2) as (loop, told):
        assert loop.most_batch == 2
        session.gate.release(1)
        loop.submit(request(1, [[1.0]] * 5))
        told.until(1)
        assert session.calls == [[1.0] * 5]


def board(session: Session, delay_s: float) -> Board:
    return Board(Sequences(session.signature, TensorLimits()), 4, delay_s)


def entry(handle: int, arrived: float = 0.0, rows: Any = 1.0, **more: Any) -> Entry:
    made = request(handle, rows, **more)
    return Entry(request=made, wanted=("y",), asked=("y",), arrived=arrived, inputs=dict(made.inputs))


def taken(from_board: Board, now: float) -> list[int]:
    batch = from_board.take(now)
    return [] if batch is None else [each.handle for each in batch.entries]


def test_a_batch_waits_for_others() -> None:
    """Requests wait for others for as long as the setting says, the oldest decides; a full batch waits for nothing."""
    waiting = board(Session(), 0.5)
    waiting.add(entry(1, 10.0))
    assert taken(waiting, 10.25) == []
    assert waiting.due == 10.5
    waiting.add(entry(2, 10.4))
    assert taken(waiting, 10.5) == [1, 2]
    for handle in range(3, 8):
        waiting.add(entry(handle, 11.0))
    assert taken(waiting, 11.0) == [3, 4, 5, 6]
    assert taken(waiting, 11.0) == []
    waiting.add(entry(8, 11.0, [[1.0, 1.0]] * 4))
    assert taken(waiting, 11.0) == [8]


def test_suspects_have_turns_of_their_own() -> None:
    """A suspect is computed when nothing else is, and nothing beside it until it has told something."""
    waiting = board(Session(), 0.0)
    waiting.add(entry(1))
    first = waiting.take(0.0)
    waiting.add(entry(2, alone=True))
    waiting.add(entry(3, alone=True))
    waiting.add(entry(4))
    assert first is not None
    assert taken(waiting, 0.0) == []  # the first is still computed
    waiting.end(first)
    suspect = waiting.take(0.0)
    assert suspect is not None
    assert ([each.handle for each in suspect.entries], suspect.alone) == ([2], True)
    assert taken(waiting, 0.0) == []
    waiting.told(suspect)
    assert taken(waiting, 0.0) == [4]  # the others have a turn before the next suspect
    waiting.end(suspect)
    assert taken(waiting, 0.0) == []  # until the others are done
    waiting.running -= 1
    assert taken(waiting, 0.0) == [3]


def test_a_suspect_is_told_of_before_it_is_computed() -> None:
    """That a request is computed alone is told before the session is called, which may be the last that is done."""
    session = Session()
    with running(session) as (loop, told):
        loop.submit(request(1, alone=True))
        session.wait()
        assert [result.alone for result in told.results] == [1]
        session.gate.release(1)
        told.until(1)


def failing(x: Any) -> Any:
    if 13 in x:
        raise RuntimeError("unlucky")
    if 7 in x:
        raise ValueError("not taken")
    return 2 * x


def test_of_a_batch_that_fails_each_is_tried_alone() -> None:
    """Those that raise alone fail, a ValueError as the client's fault; the others are told what they asked for."""
    session = Session(compute=failing)
    with running(session) as (loop, told):
        loop.submit(request(1))
        session.wait()
        for handle, number in ((2, 2.0), (3, 13.0), (4, 7.0), (5, 5.0)):
            loop.submit(request(handle, number))
        session.gate.release(100)
        told.until(1, 2, 3, 4, 5)
        assert told.ended() == {1: None, 2: None, 3: BackendFailedError, 4: InvalidFieldError, 5: None}
        assert told.outputs() == {1: [[[2]]], 2: [[[4]]], 5: [[[10]]]}
        assert session.calls == [[1], [2, 13, 7, 5], [2], [13], [7], [5]]


@pytest.mark.parametrize(
    ("compute", "message"),
    [
        (lambda _: None, "NoneType"),
        (lambda _: {"z": floats([[1]])}, "gave NoneType as output 'y'; it must be a Tensor"),
        (lambda x: {"y": x}, "gave ndarray as output 'y'"),
        (
            lambda x: {"y": Tensor(element_type=FLOAT, shape=x.shape, array=x.astype("f8"))},
            "float64 .* must be float32",
        ),
        (lambda x: {"y": Tensor(element_type=FLOAT, shape=(7,), array=x)}, "its shape says"),
        (lambda x: iter([{"y": floats(x)}, {}]), "gave NoneType as output 'y'"),
    ],
)
def test_what_a_session_must_not_give(compute: Callable[[Any], Any], message: str) -> None:
    """A session that gives something else than tensors fails the task as the backend's fault, with what it gave."""
    session = Session(compute=compute)
    with running(session) as (loop, told):
        session.gate.release(1)
        loop.submit(request(1))
        assert told.until(1) == {1: BackendFailedError}
        (error,) = [ended.error for result in told.results for ended in result.ended]
        assert error is not None
        assert re.search(message, error.message), error.message


def test_a_model_that_does_not_keep_rows_is_computed_alone() -> None:
    """Where outputs of a batch do not have its rows, each request is computed alone and gets what is its own."""
    session = Session(compute=lambda x: x.sum(keepdims=True))
    with running(session) as (loop, told):
        loop.submit(request(1))
        session.wait()
        for handle in (2, 3):
            loop.submit(request(handle, float(handle)))
        session.gate.release(100)
        told.until(1, 2, 3)
        assert told.outputs() == {1: [[[1]]], 2: [[[2]]], 3: [[[3]]]}


def test_as_many_threads_as_the_session_takes() -> None:
    """Batches are computed at the same time in as many threads as the signature says, and no more."""
    session = Session(threads=3, most_batch=1)
    with running(session) as (loop, told):
        assert loop.places == 4
        for handle in range(1, 6):
            loop.submit(request(handle))
        for _ in range(3):
            session.wait()
        assert not session.came.acquire(timeout=0)
        assert loop.pulse().doing is Doing.STEP
        session.gate.release(5)
        told.until(*range(1, 6))
        assert loop.steps == 5


def test_what_nobody_waits_for_is_told_to_nobody() -> None:
    """A task that is cancelled while it waits is never computed, one that is computed is never told of."""
    session = Session(most_batch=1)
    with running(session) as (loop, told):
        loop.submit(request(1))
        session.wait()
        loop.submit(request(2))
        loop.submit(request(3))
        loop.cancel(1)
        loop.cancel(2)
        loop.cancel(99)
        session.gate.release(2)
        assert told.until(3) == {3: None}
        assert set(told.outputs()) == {3}
        assert len(session.calls) == 2


def test_a_cancelled_stream_is_asked_for_no_more() -> None:
    """An iterator of outputs whose task was cancelled is closed where it is."""
    closed = threading.Event()
    more = threading.Semaphore(0)

    def stream(x: Any) -> Iterator[Any]:
        try:
            while True:
                yield {"y": floats(x)}
                assert more.acquire(timeout=DEADLINE_S)
        finally:
            closed.set()

    session = Session(compute=stream, most_batch=1)
    with running(session) as (loop, told):
        session.gate.release(2)
        loop.submit(request(1))
        session.wait()
        loop.cancel(1)
        more.release(2)
        assert closed.wait(DEADLINE_S)
        assert told.ended() == {}


def test_outputs_that_were_told_are_left_out() -> None:
    """A task that goes on elsewhere tells what is behind the sets that it told before; one that told all just ends."""
    session = Session(compute=lambda x: iter([{"y": floats(n * x)} for n in range(4)]), most_batch=1)
    with running(session) as (loop, told):
        session.gate.release(2)
        loop.submit(request(1, told=3))
        loop.submit(request(2, told=4))
        told.until(1, 2)
        assert told.outputs() == {1: [[[3]]]}


def test_outputs_have_a_bound() -> None:
    """Outputs of more bytes than fit into a message fail the task, those beside it do not."""
    session = Session()
    with running(session, output_bytes=8) as (loop, told):
        loop.submit(request(1))
        session.wait()
        loop.submit(request(2, [[1.0]] * 3))
        loop.submit(request(3, [[1.0]] * 2))
        session.gate.release(2)
        assert told.until(1, 2, 3) == {1: None, 2: LimitExceededError, 3: None}
        assert len(session.calls) == 2


STATEFUL: dict[str, Any] = {
    "inputs": (info("x", "b", 1), info("s", "b", 1)),
    "outputs": (info("y", "b", 1), info("t", "b", 1)),
    "states": (TensorState(input_name="s", output_name="t", start_shape=(1,)),),
}


class Counter(Session):
    """Adds `x` to its state."""

    def __init__(self, **signature: Any) -> None:
        super().__init__(**{**STATEFUL, **signature})

    def predict(self, inputs: Mapping[str, Tensor], outputs: Sequence[str]) -> Any:
        self.calls.append(inputs["x"].array.ravel().tolist())
        self.came.release()
        assert self.gate.acquire(timeout=DEADLINE_S)
        total = floats(failing(inputs["x"].array) / 2 + inputs["s"].array)
        return dict.fromkeys(outputs, total)


def step(name: str = "a", tenant: str = "t", **more: bool) -> SequenceStep:
    return SequenceStep(tenant=Tenant(tenant), name=name, **more)


def test_a_sequence_is_computed_in_order() -> None:
    """Requests of one sequence go one after the other, those of several as one batch; classes change no order in it."""
    session = Counter()
    with running(session) as (loop, told):
        loop.submit(request(1, 1.0, sequence=step("a", start=True)))
        session.wait()
        loop.submit(request(2, 2.0, sequence=step("a"), priority=1))
        loop.submit(request(3, 3.0, sequence=step("a"), priority=3))
        loop.submit(request(4, 40.0, sequence=step("b", start=True)))
        loop.submit(request(5, 50.0, sequence=step("a", tenant="u", start=True)))
        session.gate.release(100)
        told.until(1, 2, 3, 4, 5)
        assert told.outputs() == {1: [[[1]]], 2: [[[3]]], 3: [[[6]]], 4: [[[40]]], 5: [[[50]]]}
        assert len(session.calls[1]) == 3


@pytest.mark.parametrize("end", ["cancelled", "failed"])
def test_a_sequence_goes_on_from_where_it_was(end: str) -> None:
    """A request that failed, or was cancelled while it was computed, has changed nothing of its sequence."""
    session = Counter()
    with running(session) as (loop, told):
        loop.submit(request(1, 1.0, sequence=step(start=True)))
        session.wait()
        loop.submit(request(2, 13.0 if end == "failed" else 100.0, sequence=step()))
        session.gate.release(1)
        session.wait()
        loop.submit(request(3, 2.0, sequence=step()))
        if end == "cancelled":
            loop.cancel(2)
        session.gate.release(2)
        assert told.until(3)[3] is None
        assert told.outputs()[3] == [[[3]]]


def test_a_start_that_failed_started_nothing() -> None:
    """What follows the first request of a sequence that failed is told that the sequence is not there."""
    session = Counter()
    with running(session) as (loop, told):
        session.gate.release(100)
        loop.submit(request(1, 13.0, sequence=step(start=True)))
        loop.submit(request(2, 1.0, sequence=step()))
        assert told.until(1, 2) == {1: BackendFailedError, 2: SequenceNotFoundError}


def test_idle_sequences_are_given_up() -> None:
    """A sequence is kept for the setting's time behind its last request, as long as none waits; why is told then."""
    limits = TensorLimits(sequence_idle_s=10.0, sequences=2)
    sequences = Sequences(Signature(**STATEFUL, most_batch=8), limits)
    outputs = {"y": floats([[1]]), "t": floats([[1]])}
    assert sequences.next_expiry() is None
    for name, now in (("a", 0.0), ("b", 5.0)):
        sequences.commit(step(name), outputs, now)
    assert sequences.next_expiry() == 10.0
    waiting = entry(1, sequence=step("a"))
    sequences.join(waiting, step("a"))
    sequences.expire(12.0)
    assert sequences.states(waiting, step("a"))["s"] is outputs["t"]
    with pytest.raises(LimitExceededError, match=r"workers\.sequences is 2"):
        sequences.states(waiting, step("c", start=True))
    sequences.leave(waiting, step("a"), 12.0)
    sequences.expire(15.0)
    with pytest.raises(SequenceNotFoundError, match=r"idle for 10 s \(workers\.sequence_idle_s\)"):
        sequences.states(waiting, step("b"))
    assert sequences.next_expiry() == 22.0
    sequences.expire(22.0)
    with pytest.raises(SequenceNotFoundError, match="idle"):
        sequences.states(waiting, step("a"))
    assert sequences.next_expiry() is None


def test_zeros_at_the_start_have_the_rows_of_the_request() -> None:
    """The state of a new sequence is zeros, with as many rows as its request where the model batches, else as it is."""
    rows = entry(1, rows=[[1.0]] * 3)
    for most_batch, shape in ((8, (3, 1)), (1, (1,))):
        states = Sequences(Signature(**STATEFUL, most_batch=most_batch), TensorLimits()).states(rows, step(start=True))
        assert states["s"].shape == shape
        assert not states["s"].array.any()
