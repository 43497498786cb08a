"""Requests of sequences that the kernel forgets: each changes the state once, in its order, or not at all."""

import pytest
from tensor_counter import Counter, step
from tensor_sessions import Told, request, running

from inferd.engine.tensor.loop import TensorLoop
from inferd.errors import SequenceNotFoundError, TaskStateError


def answer(loop: TensorLoop, told: Told, handle: int, number: float = 1.0, task_id: str = "", **more: bool) -> object:
    """What a step of the sequence is told: its number, or the class of its error."""
    loop.submit(request(handle, number, sequence=step(**more), task_id=task_id or f"task {handle}"))
    error = told.until(handle)[handle]
    return error or told.outputs()[handle][0][0][0]


@pytest.mark.parametrize("end", [False, True])
@pytest.mark.parametrize("start", [False, True])
def test_what_is_submitted_again_is_applied_once(*, start: bool, end: bool) -> None:
    """A request whose answer was lost since it was suspended gives the same again, and the state has it once."""
    session = Counter()
    session.gate.release(100)
    with running(session) as (loop, told):
        assert answer(loop, told, 1, 5.0, start=True) == 5
        first = answer(loop, told, 2, 2.0, "suspended", start=start, end=end)
        loop.cancel(2, again=True)
        assert answer(loop, told, 3, 2.0, "suspended", start=start, end=end) == first == (2 if start else 7)
        assert answer(loop, told, 4) == (SequenceNotFoundError if end else 3 if start else 8)


@pytest.mark.parametrize("again", [False, True])
def test_a_first_request_is_undone(*, again: bool) -> None:
    """Of a sequence whose first request was cancelled when it had been computed nothing is left."""
    session = Counter()
    session.gate.release(100)
    with running(session) as (loop, told):
        assert answer(loop, told, 1, start=True) == 1
        loop.cancel(1, again=again)
        assert answer(loop, told, 2) == (TaskStateError if again else SequenceNotFoundError)
        if again:
            assert answer(loop, told, 3, task_id="task 1", start=True) == 1
            assert answer(loop, told, 4) == 2


def test_a_cancelled_request_leaves_the_state_though_it_was_computed() -> None:
    """A request whose answer nobody took changes nothing; what was computed behind it meanwhile is computed anew."""
    session = Counter()
    session.gate.release(2)
    with running(session) as (loop, told):
        assert answer(loop, told, 1, 5.0, start=True) == 5
        assert answer(loop, told, 2, 100.0) == 105
        loop.submit(request(3, 1.0, sequence=step()))
        for _ in range(3):
            session.wait()
        loop.cancel(2)
        session.gate.release(100)
        told.until(3)
        assert told.outputs()[3] == [[[6]]]
        assert answer(loop, told, 4) == 7


@pytest.mark.parametrize("computed", [False, True])
def test_what_comes_behind_a_suspended_request_does_not_go_before_it(*, computed: bool) -> None:
    """Steps behind one that is suspended are refused by its name until it has come again; a new start voids it."""
    session = Counter()
    session.gate.release(2 if computed else 1)
    with running(session) as (loop, told):
        assert answer(loop, told, 1, start=True) == 1
        session.wait()
        loop.submit(request(2, 2.0, sequence=step(), task_id="first"))
        session.wait()
        if computed:
            told.until(2)
        loop.submit(request(3, 4.0, sequence=step()))
        loop.cancel(2, again=True)
        assert told.until(3)[3] is TaskStateError
        session.gate.release(100)
        assert answer(loop, told, 4) is TaskStateError
        assert answer(loop, told, 5, 2.0, "first") == 3
        assert answer(loop, told, 6) == 4
        loop.cancel(6, again=True)
        assert answer(loop, told, 7, start=True) == 1
        assert answer(loop, told, 8, task_id="task 6") is TaskStateError
        assert answer(loop, told, 9) == 2


def test_what_cannot_be_undone_is_not_done_again() -> None:
    """A suspended request whose sequence went on is refused when it comes again, and the state has it once."""
    session = Counter()
    session.gate.release(100)
    with running(session) as (loop, told):
        assert answer(loop, told, 1, start=True) == 1
        assert answer(loop, told, 2, 2.0, "suspended") == 3
        assert answer(loop, told, 3) == 4
        loop.cancel(2, again=True)
        assert answer(loop, told, 4, 2.0, "suspended") is TaskStateError
        assert answer(loop, told, 5) == 5


def test_an_old_state_is_never_used() -> None:
    """A sequence whose last request went to another worker has no state here, until it starts again."""
    session = Counter()
    session.gate.release(100)
    with running(session) as (loop, told):
        assert answer(loop, told, 1, start=True) == 1
        loop.submit(request(2, sequence=step(), moved=True))
        assert told.until(2)[2] is SequenceNotFoundError
        loop.submit(request(3, 2.0, sequence=step(start=True), moved=True))
        told.until(3)
        assert answer(loop, told, 4) == 3
