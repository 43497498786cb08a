"""The tensor engine: what is computed together, in which order, and what becomes of each request."""

import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tensor_sessions import DEADLINE_S, FLOAT, Session, entry, failing, floats, info, request, running

from inferd.core.vigil import Doing
from inferd.engine.tensor.board import Board
from inferd.engine.tensor.request import Request, TensorLimits
from inferd.engine.tensor.sequences import Sequences
from inferd.errors import BackendFailedError, InvalidFieldError, LimitExceededError
from inferd.plugin import ElementType, Tensor, TensorInfo


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


@pytest.mark.parametrize("width", [1, 2])
def test_a_low_class_gets_its_turn(width: int) -> None:
    """A request that eight batches of a higher class have passed over goes first, with whatever else has waited."""
    waiting = board(Session(), 0.0)
    waiting.add(entry(1, rows=[[1.0] * width], priority=1))
    for handle in range(2, 62):
        waiting.add(entry(handle, priority=3))
    batches = [taken(waiting, 0.0) for _ in range(12)]
    assert [place for place, handles in enumerate(batches) if 1 in handles] == [8]
    assert batches[:2] == [[2, 3, 4, 5], [6, 7, 8, 9]]


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
        (
            lambda x: {"y": floats(x[:, :, None])},
            r"gave 3 dimensions, \[1, 1, 1\], as output 'y'; its Signature has FLOAT",
        ),
        (
            lambda x: {"y": Tensor(element_type=ElementType.DOUBLE, shape=x.shape, array=x.astype("f8"))},
            "gave DOUBLE as output 'y'; its Signature has FLOAT",
        ),
        (lambda x: iter([{"y": floats(x)}, {"z": floats(x)}]), "gave NoneType as output 'y'"),
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


def test_a_set_without_outputs_is_none_yet() -> None:
    """An iterator that gives an empty set has nothing yet: nobody is told of that, and it is asked again."""
    session = Session(compute=lambda x: iter([{}, {"y": floats(x)}, {}, {"y": floats(x + 1)}]))
    with running(session) as (loop, told):
        session.gate.release(1)
        loop.submit(request(1, 3.0))
        assert told.until(1) == {1: None}
        assert told.outputs() == {1: [[[3]], [[4]]]}


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


def test_a_long_call_after_short_ones() -> None:
    """How long a call may last is not taken from those before it of as many bytes: its values may make it long."""
    session = Session(most_batch=1)
    with running(session) as (loop, told):
        session.gate.release(5)
        for handle in range(1, 6):
            loop.submit(request(handle))
            told.until(handle)
            session.wait()
        loop.submit(request(6))
        session.wait()
        pulse = loop.pulse()
        assert (pulse.doing, pulse.usual_s) == (Doing.STEP, None)


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


class Stoppable(Session):
    """Its calls end with an error when they are told to stop, if they have begun."""

    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        self.stops: list[int] = []
        self.deaf = False

    def predict(self, inputs: Mapping[str, Tensor], outputs: Sequence[str]) -> Any:
        given = super().predict(inputs, outputs)
        if self.stops:
            raise RuntimeError("stopped")
        return given

    def stop(self, thread: int) -> None:
        if not self.deaf:
            self.stops.append(thread)
            self.gate.release()


def test_a_call_that_nobody_waits_for_is_stopped(caplog: pytest.LogCaptureFixture) -> None:
    """A running batch is stopped when its last request is cancelled, not before; nothing is computed or told of it."""
    session = Stoppable()
    with running(session) as (loop, told):
        loop.submit(request(1))
        session.wait()
        for handle in (2, 3):
            loop.submit(request(handle, float(handle)))
        session.gate.release()
        told.until(1)
        assert session.wait() == [2, 3]
        loop.cancel(2)
        assert session.stops == []
        loop.cancel(3)
        assert len(session.stops) == 1
        session.stops.clear()
        loop.submit(request(4, 4.0))
        assert session.wait() == [4]
        session.gate.release()
        assert told.until(4) == {1: None, 4: None}
        assert session.calls == [[1], [2, 3], [4]]
    assert not caplog.records


def test_a_stop_that_came_too_early_is_told_again() -> None:
    """A call that had not begun when it was told to stop is told again when the kernel asks what is being done."""
    session = Stoppable()
    with running(session) as (loop, told):
        loop.submit(request(1))
        session.wait()
        loop.pulse()
        assert session.stops == []
        session.deaf = True
        loop.cancel(1)
        session.deaf = False
        loop.pulse()
        assert len(session.stops) == 1
        assert told.ended() == {}


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


def test_outputs_of_a_known_size_are_refused_before_the_work() -> None:
    """Where the signature fixes what outputs will have, a request that is told too much is refused and not computed."""
    session = Session(outputs=(info("y", "b", 3), info("z", "b", 1), info("free", "b", "n"), info("few", 2)))
    with running(session, output_bytes=40) as (loop, told):
        session.gate.release(10)
        loop.submit(request(1, [[1.0]] * 3))
        loop.submit(request(2, [[1.0]] * 3, outputs=("z", "free")))
        loop.submit(request(3, [[1.0]] * 4, outputs=("y",)))
        assert told.until(1, 2, 3) == {1: LimitExceededError, 2: None, 3: LimitExceededError}
        errors = {ended.handle: ended.error for result in told.results for ended in result.ended}
    assert len(session.calls) == 1
    assert str(errors[1]).startswith("the outputs will have 56 bytes, the largest, 'y', 36, and at most 40 are told")
    assert str(errors[3]).startswith("the outputs will have 48 bytes, the largest, 'y', 48")


def test_what_a_recipe_makes_of_outputs_is_what_counts() -> None:
    """A request whose large outputs become small answers is computed, whatever the signature says of them."""
    session = Session(outputs=(info("y", "b", 3),), compute=lambda x: np.repeat(x, 3, axis=1))
    with running(session, output_bytes=40) as (loop, told):
        session.gate.release(10)
        loop.submit(request(1, [[1.0]] * 4, finish=lambda _inputs, outputs: {"y": floats(outputs["y"].array[:1])}))
        assert told.until(1) == {1: None}


def undecodable(_: Any) -> Any:
    b"\xff".decode()


@pytest.mark.parametrize("alone", [True, False])
def test_texts_that_are_none_are_the_backends_fault(*, alone: bool) -> None:
    """A text of an output that is no Unicode ends its request as the backend's fault, and no worker."""
    surrogates = np.array([["\ud800"]], object)
    lone = Tensor(element_type=ElementType.STRING, shape=(1, 1), array=surrogates)

    def compute(x: Any) -> Any:
        if 7 in x:
            undecodable(x)
        return {"y": lone} if len(x) == 1 else {"y": replace(lone, shape=x.shape, array=surrogates.repeat(len(x), 0))}

    texts = TensorInfo(name="y", element_type=ElementType.STRING, shape=("b", "w"))
    session = Session(compute=compute, outputs=(texts,))
    with running(session) as (loop, told):
        session.gate.release(100)
        loop.submit(request(1, 7.0, alone=alone))
        loop.submit(request(2, alone=alone))
        loop.submit(request(3, alone=alone))
        assert told.until(1, 2, 3) == dict.fromkeys((1, 2, 3), BackendFailedError)
        errors = {e.handle: e.error.message for r in told.results for e in r.ended if e.error is not None}
        assert "UnicodeDecodeError" in errors[1]
        assert "output 'y' has a text that is no Unicode" in errors[2]
