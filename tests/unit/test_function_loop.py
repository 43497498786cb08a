"""The loop of functions, with processes that do as a test says: who goes next, and what is told of each call."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from queue import Queue
from typing import Any

import pytest

from inferd.core.function import CallLimits
from inferd.engine.cells.cell import CellError
from inferd.engine.function.backend import Bounded
from inferd.engine.function.call import Call, CallResult
from inferd.engine.function.loop import FunctionLoop
from inferd.plugin.channel import Channel, ClosedError, LargeError, LateError

DEADLINE_S = 60.0
DONE = ({"end": "done"}, b"")


class Cell:
    """A process of a call: what it answers is put into its queue by the test."""

    def __init__(self, begun: "Queue[Cell]") -> None:
        self.answers: Queue[Any] = Queue()
        self.channel = self
        self._begun = begun
        self.given = b""
        self.ended = threading.Event()
        self.gone = False

    def send(self, _: Any, data: bytes, *, timeout_s: float) -> None:
        assert timeout_s
        self.given = data
        self._begun.put(self)

    def receive(self, *, timeout_s: float) -> tuple[Any, bytes]:
        assert timeout_s <= 7
        answer = self.answers.get(timeout=DEADLINE_S)
        if isinstance(answer, Exception):
            raise answer
        found: tuple[Any, bytes] = answer
        return found

    def kill(self) -> None:
        self.answers.put(ClosedError())

    def end(self) -> str:
        self.ended.set()
        return "signal 9 (Killed)"


@dataclass
class Session:
    """Starts such processes, of functions "f" and "g"."""

    limits: CallLimits
    cells: "Queue[Cell]" = field(default_factory=Queue)
    functions: Any = field(
        default_factory=lambda: {
            (name, 1): Bounded(name=name, version=1, timeout_s=7, memory_bytes=1 << 20) for name in ("f", "g")
        }
    )

    def spawn(self, _: Bounded, memory_bytes: int, descriptors: tuple[int, ...] = ()) -> Cell:
        if memory_bytes != 1 << 20 or descriptors:
            raise CellError("other bounds")
        return Cell(self.cells)

    def next(self) -> Cell:
        return self.cells.get(timeout=DEADLINE_S)


class Told:
    """What the loop has told, one thing after the other."""

    def __init__(self) -> None:
        self._results: Queue[CallResult] = Queue()
        self.put = self._results.put

    def next(self) -> CallResult:
        return self._results.get(timeout=DEADLINE_S)

    def end(self) -> tuple[int, str]:
        """The next end: which call, and with which reason."""
        (ended,) = self.next().ended
        return ended.handle, "" if ended.error is None else ended.error.reason

    @property
    def nothing(self) -> bool:
        return self._results.empty()


@contextmanager
def running(*, calls: int, now: Callable[[], float] = time.monotonic) -> Iterator[tuple[FunctionLoop, Session, Told]]:
    session, told = Session(CallLimits(calls=calls, piece_bytes=8, output_bytes=20)), Told()
    loop = FunctionLoop(session, told.put, now=now)  # type: ignore[arg-type] # what it needs of one
    thread = threading.Thread(target=loop.run)
    thread.start()
    try:
        yield loop, session, told
    finally:
        loop.stop()
        thread.join(DEADLINE_S)
        assert not thread.is_alive()


def call(handle: int, **more: Any) -> Call:
    return Call(handle=handle, name="f", given=b"%d" % handle, **more)


def test_the_highest_class_goes_first_and_in_it_the_oldest() -> None:
    """Of calls that wait for a place the next one is that of the highest class that came first."""
    with running(calls=1) as (loop, session, told):
        loop.submit(call(1))
        first = session.next()
        for handle, priority in ((2, 1), (3, 2), (4, 2), (5, 3)):
            loop.submit(call(handle, priority=priority))
        first.answers.put(DONE)
        order = []
        for _ in range(4):
            cell = session.next()
            order.append(int(cell.given))
            cell.answers.put(DONE)
        assert order == [5, 3, 4, 2]
        assert [told.end() for _ in range(5)] == [(handle, "") for handle in (1, 5, 3, 4, 2)]


def test_a_suspect_runs_alone() -> None:
    """One of which workers have died waits until nothing runs, is announced first, and nothing begins beside it."""
    with running(calls=2) as (loop, session, told):
        loop.submit(call(1))
        first = session.next()
        loop.submit(call(2, alone=True))
        loop.submit(call(3))
        assert session.cells.empty()
        first.answers.put(DONE)
        assert told.end() == (1, "")
        assert told.next().alone == 2
        suspect = session.next()
        suspect.answers.put(({}, b"1"))
        assert told.next().pieces == [(2, b"1")]
        assert session.cells.empty()
        suspect.answers.put(DONE)
        assert told.end() == (2, "")
        session.next().answers.put(DONE)
        assert told.end() == (3, "")


def test_a_cancelled_call_is_ended_and_nothing_is_told_of_it() -> None:
    """The process of a call that runs is killed, one that waits never begins; the others are as they were."""
    with running(calls=1) as (loop, session, told):
        loop.submit(call(1))
        cell = session.next()
        loop.submit(call(2))
        loop.submit(call(3))
        loop.cancel(2)
        loop.cancel(1)
        loop.cancel(9)
        assert cell.ended.wait(DEADLINE_S)
        session.next().answers.put(DONE)
        assert told.end() == (3, "")
        assert told.nothing


def test_pieces_that_were_told_before_are_left_out() -> None:
    """A call that runs again gives the pieces behind those that it has told elsewhere."""
    with running(calls=1) as (loop, session, told):
        loop.submit(call(1, told=2))
        cell = session.next()
        for piece in (b"1", b"2", b"3"):
            cell.answers.put(({}, piece))
        cell.answers.put(DONE)
        assert told.next().pieces == [(1, b"3")]
        assert told.end() == (1, "")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (LateError(), "LIMIT_EXCEEDED"),
        (ClosedError(), "FUNCTION_FAILED"),
        (({}, b"123456789"), "LIMIT_EXCEEDED"),
        (LargeError(1 << 30, 1 << 20), "LIMIT_EXCEEDED"),
        (({"end": "memory"}, b""), "LIMIT_EXCEEDED"),
        (({"end": "input", "path": ".x", "why": "no"}, b""), "INVALID_FIELD"),
        (({"end": "refused", "why": "no", "trace": ""}, b""), "INVALID_FIELD"),
        (({"end": "output", "path": "", "why": "no"}, b""), "FUNCTION_FAILED"),
        (({"end": "raised", "why": "no", "trace": "in f"}, b""), "FUNCTION_FAILED"),
        (({"end": "missing"}, b""), "FUNCTION_NOT_FOUND"),
    ],
)
def test_however_a_call_ends_its_process_is_gone_and_the_next_one_runs(answer: Any, reason: str) -> None:
    """Each end has its reason, leaves no process, and harms no other call."""
    with running(calls=1) as (loop, session, told):
        loop.submit(call(1))
        cell = session.next()
        cell.answers.put(answer)
        assert told.end() == (1, reason)
        assert cell.ended.is_set()
        loop.submit(call(2))
        session.next().answers.put(DONE)
        assert told.end() == (2, "")


def test_what_cannot_begin_ends_with_why() -> None:
    """A function that its package has no longer, and one for which there is no process, end their call alone."""
    with running(calls=1) as (loop, session, told):
        loop.submit(Call(handle=1, name="h"))
        assert told.end() == (1, "FUNCTION_NOT_FOUND")
        session.functions["f", 2] = Bounded(name="f", version=2, timeout_s=7, memory_bytes=1)
        loop.submit(call(2))
        assert told.end() == (2, "FUNCTION_FAILED")
        loop.hold("lease", 2, sequences=1, kv_tokens=0)
        loop.submit(call(3, lease_id="lease", fencing_token=1))
        assert told.end() == (3, "LEASE_ENDED")
        with pytest.raises(ValueError, match="there are 1 and 0"):
            loop.hold("lease", 3, sequences=2, kv_tokens=0)


def test_the_end_of_a_suspect_that_waits_lets_others_begin() -> None:
    """It is cancelled, and what waited behind it begins beside what runs."""
    with running(calls=2) as (loop, session, told):
        loop.submit(call(1))
        first = session.next()
        loop.submit(call(2, alone=True, priority=9))
        loop.submit(call(3))
        assert session.cells.empty()
        loop.cancel(2)
        session.next().answers.put(DONE)
        assert told.end() == (3, "")
        first.answers.put(DONE)
        assert told.end() == (1, "")


def test_pieces_that_never_end_are_late() -> None:
    """The time of a call passes by the clock, though each piece is there at once."""
    clock = [0.0]
    with running(calls=1, now=lambda: clock[0]) as (loop, session, told):
        loop.submit(call(1))
        cell = session.next()
        cell.answers.put(({}, b"1"))
        assert told.next().pieces == [(1, b"1")]
        clock[0] = 7.0
        cell.answers.put(({}, b"2"))
        assert told.end() == (1, "LIMIT_EXCEEDED")


def test_all_pieces_together_have_a_bound() -> None:
    """Of a call that gives more than functions.output_bytes the rest is not told, and it ends."""
    with running(calls=1) as (loop, session, told):
        loop.submit(call(1))
        cell = session.next()
        for _ in range(3):
            cell.answers.put(({}, b"12345678"))
        assert [told.next().pieces for _ in range(2)] == [[(1, b"12345678")]] * 2
        assert told.end() == (1, "LIMIT_EXCEEDED")


def test_a_stop_ends_what_runs() -> None:
    """`run` returns although a call hangs."""
    with running(calls=2) as (loop, session, told):
        loop.submit(call(1))
        cell = session.next()
        loop.submit(call(2))
        session.next()
    assert cell.ended.is_set()
    assert told.nothing


def test_time_stands_still_while_a_model_answers() -> None:
    """What a call asks is told with its numbers; answers come in order, and its time does not run meanwhile."""
    clock = [0.0]
    with running(calls=1, now=lambda: clock[0]) as (loop, session, told):
        session.functions[("f", 1)] = Bounded(name="f", version=1, timeout_s=7, memory_bytes=1 << 20, asks=3)
        loop.submit(call(1))
        cell = session.next()
        cell.answers.put(({"ask": 2}, b'[{"do": "a"}, {"do": "b"}]'))
        asked = [each for _ in range(2) for each in told.next().asks]
        assert asked == [(1, 0, b'{"do": "a"}'), (1, 1, b'{"do": "b"}')]
        clock[0] = 100.0
        loop.reply(1, 1, b'"two"')
        loop.reply(1, 0, b'"one"')
        assert session.next().given == b'["one","two"]'
        cell.answers.put(DONE)
        assert told.end() == (1, "")


def test_a_call_that_asks_too_often_fails_and_one_that_waits_is_cancelled() -> None:
    """More questions than the function says are refused; a call that waits for a model ends when nobody wants it."""
    with running(calls=1) as (loop, session, told):
        session.functions[("f", 1)] = Bounded(name="f", version=1, timeout_s=7, memory_bytes=1 << 20, asks=1)
        loop.submit(call(1))
        session.next().answers.put(({"ask": 2}, b'[{"do": "a"}, {"do": "b"}]'))
        assert told.end() == (1, "LIMIT_EXCEEDED")
        loop.submit(call(2))
        waiting = session.next()
        waiting.answers.put(({"ask": 1}, b'[{"do": "a"}]'))
        assert told.next().asks == [(2, 0, b'{"do": "a"}')]
        loop.cancel(2)
        assert waiting.ended.wait(DEADLINE_S)
        assert told.nothing


def test_what_comes_of_questions_has_a_bound() -> None:
    """Answers that have more than functions.ask_bytes together end the call, and are not given to its process."""
    with running(calls=1) as (loop, session, told):
        session.functions[("f", 1)] = Bounded(name="f", version=1, timeout_s=7, memory_bytes=1 << 20, asks=3)
        loop.submit(call(1))
        cell = session.next()
        cell.answers.put(({"ask": 2}, b'[{"do": "a"}, {"do": "b"}]'))
        assert [each[1] for _ in range(2) for each in told.next().asks] == [0, 1]
        half = session.limits.ask_bytes // 2 + 1
        loop.reply(1, 0, bytes(half))
        loop.reply(1, 1, bytes(half))
        assert told.end() == (1, "LIMIT_EXCEEDED")
        assert session.cells.empty()


def test_answers_that_wait_for_another_one_count() -> None:
    """What comes behind an answer that takes long is bounded as it comes, and not held until that is there."""
    with running(calls=1) as (loop, session, told):
        session.functions[("f", 1)] = Bounded(name="f", version=1, timeout_s=7, memory_bytes=1 << 20, asks=3)
        asking = call(1)
        loop.submit(asking)
        session.next().answers.put(({"ask": 3}, b'[{"do": "a"}, {"do": "b"}, {"do": "c"}]'))
        assert [each[1] for _ in range(3) for each in told.next().asks] == [0, 1, 2]
        most = session.limits.ask_bytes
        loop.reply(1, 2, bytes(most))
        loop.reply(1, 1, bytes(most))
        assert told.end() == (1, "LIMIT_EXCEEDED")
        assert sum(map(len, asking.replies.values())) <= most


def test_a_call_whose_process_dies_while_a_model_answers_has_failed() -> None:
    """Nobody waits for an answer that nobody will hear: the call fails when its process is gone."""
    with running(calls=1) as (loop, session, told):
        session.functions[("f", 1)] = Bounded(name="f", version=1, timeout_s=7, memory_bytes=1 << 20, asks=1)
        loop.submit(call(1))
        waiting = session.next()
        waiting.answers.put(({"ask": 1}, b'[{"do": "a"}]'))
        assert told.next().asks == [(1, 0, b'{"do": "a"}')]
        waiting.gone = True
        assert told.end() == (1, "FUNCTION_FAILED")


@pytest.mark.parametrize("said", ["abc", [1], 10**400, float("nan"), -5], ids=["text", "list", "large", "nan", "less"])
def test_a_call_that_says_nonsense_of_how_far_it_is_has_failed(said: Any) -> None:
    """What is no number from 0 to 1 is an error of the function, and none of the kernel."""
    with running(calls=1) as (loop, session, told):
        loop.submit(call(1))
        session.next().answers.put(({"progress": said}, b""))
        assert told.end() == (1, "FUNCTION_FAILED")


def test_a_channel_knows_that_its_other_side_is_gone() -> None:
    """It is gone when it is closed, though what it said before is still to be read."""
    one, two = socket.socketpair()
    with one, two:
        mine, other = Channel(one), Channel(two)
        other.send({"progress": 0.5})
        assert not mine.gone
        two.close()
        assert mine.gone
        assert mine.receive(timeout_s=DEADLINE_S) == ({"progress": 0.5}, b"")
