"""Sequences of the tensor engine: their order, and the state that is carried on."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tensor_counter import STATEFUL, Counter, step
from tensor_sessions import FLOAT, Told, entry, floats, info, request, running

import inferd.engine.tensor.sequences as sequences_module
from inferd.engine.tensor.request import TensorLimits
from inferd.engine.tensor.sequences import Sequences
from inferd.errors import (
    BackendFailedError,
    InferdError,
    InternalError,
    InvalidFieldError,
    LimitExceededError,
    SequenceNotFoundError,
)
from inferd.plugin import Signature, Tensor


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
    limits = TensorLimits(sequence_idle_s=10.0, sequences=2, sequences_per_tenant=2)
    sequences = Sequences(Signature(**STATEFUL, most_batch=8), limits)
    outputs = {"y": floats([[1]]), "t": floats([[1]])}
    assert sequences.next_expiry() is None
    for name, now in (("a", 0.0), ("b", 5.0)):
        sequences.commit(step(name), outputs, now)
    assert sequences.next_expiry() == 10.0
    waiting = entry(1, sequence=step("a"))
    sequences.join(waiting, step("a"))
    sequences.expire(12.0)
    assert sequences.states(waiting, step("a"))["s"].array.tolist() == [[1]]
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


def error_of(told: Told, handle: int) -> InferdError:
    (error,) = [ended.error for result in told.results for ended in result.ended if ended.handle == handle]
    assert error is not None
    return error


def test_rows_of_a_sequence_stay_as_many() -> None:
    """A step of other rows than its sequence is refused with both numbers, and mixes no states of a batch."""
    session = Counter()
    with running(session) as (loop, told):
        session.gate.release(3)
        loop.submit(request(1, [[1.0], [2.0]], sequence=step("two", start=True)))
        loop.submit(request(2, 1000.0, sequence=step("victim", tenant="u", start=True)))
        loop.submit(request(3, 0.0, sequence=step("one", start=True)))
        told.until(1, 2, 3)
        while session.came.acquire(timeout=0):
            pass
        while session.gate.acquire(timeout=0):
            pass
        loop.submit(request(4, 0.0, sequence=step("b", start=True)))
        session.wait()
        loop.submit(request(5, 0.0, sequence=step("two")))
        loop.submit(request(6, 1.0, sequence=step("victim", tenant="u")))
        loop.submit(request(7, [[0.0], [0.0]], sequence=step("one")))
        session.gate.release(100)
        assert told.until(5, 6, 7) == {**dict.fromkeys((1, 2, 3, 4, 6)), 5: InvalidFieldError, 7: InvalidFieldError}
        assert told.outputs()[6] == [[[1001]]]
        assert re.search("has 1 rows and sequence 'two' has 2", error_of(told, 5).message)
        loop.submit(request(8, [[0.0]] * 3, sequence=step("victim", tenant="u")))
        assert told.until(8)[8] is InvalidFieldError
        loop.submit(request(9, [[1.0], [2.0]], sequence=step("two")))
        told.until(9)
        assert told.outputs()[9] == [[[2], [4]]]


def test_a_state_has_the_rows_of_its_request() -> None:
    """A session that gives a state of other rows fails the request as the backend's fault, and the state stays."""

    class Shrinking(Counter):
        def predict(self, inputs: Mapping[str, Tensor], outputs: Sequence[str]) -> Any:
            given = super().predict(inputs, outputs)
            return {**given, "t": floats(given["t"].array[:1])}

    session = Shrinking()
    with running(session) as (loop, told):
        session.gate.release(2)
        loop.submit(request(1, [[1.0], [2.0]], sequence=step(start=True)))
        assert told.until(1) == {1: BackendFailedError}


def test_a_state_is_a_copy() -> None:
    """What is kept of a sequence is its own rows, not the memory of the batch that it was computed in."""
    sequences = Sequences(Signature(**STATEFUL, most_batch=8), TensorLimits())
    batch = floats([[1.0]] * 1000)
    part = Tensor(element_type=batch.element_type, shape=(1, 1), array=batch.array[:1])
    sequences.commit(step(), {"y": part, "t": part}, 0.0)
    kept = sequences.states(entry(1), step())["s"].array
    assert kept.base is None
    assert not np.shares_memory(kept, batch.array)


def test_a_state_that_is_too_large_is_made_for_nobody() -> None:
    """A start whose zeros would exceed the bound of a sequence is refused with both numbers; others go on."""
    session = Counter(inputs=(info("x", "b", ""), info("s", "b", 1)))
    session.gate.release(100)
    nothing = Tensor(element_type=FLOAT, shape=(1 << 31, 0), array=np.zeros((1 << 31, 0), np.float32))
    with running(session, output_bytes=1 << 40) as (loop, told):
        for handle, end in ((1, False), (2, True)):
            loop.submit(replace(request(handle, sequence=step(start=True, end=end)), inputs={"x": nothing}))
        assert told.until(1, 2) == dict.fromkeys((1, 2), LimitExceededError)
        assert re.search(f"has {1 << 33} bytes and workers.sequence_bytes is {64 << 20}", error_of(told, 1).message)
        loop.submit(request(3, sequence=step(start=True)))
        assert told.until(3)[3] is None


def test_what_a_start_raises_is_its_own_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A state that cannot be made, for whatever reason, ends the request that asked for it, and no thread."""

    def none_left(*_: Any) -> Tensor:
        raise MemoryError("none left")

    session = Counter()
    session.gate.release(100)
    with running(session) as (loop, told), monkeypatch.context() as patch:
        patch.setattr(sequences_module, "zeros", none_left)
        loop.submit(request(1, sequence=step(start=True)))
        assert told.until(1) == {1: InternalError}
        patch.undo()
        loop.submit(request(2, sequence=step(start=True)))
        assert told.until(2)[2] is None


def test_states_have_bounds_in_bytes() -> None:
    """What all states take, and those of a tenant, is counted; the request that would exceed it is told the numbers."""
    limits = TensorLimits(sequences=4, sequence_bytes=400, all_sequences_bytes=1000)
    sequences = Sequences(Signature(**STATEFUL, most_batch=256), limits)

    def commit(name: str, rows: int, tenant: str = "t", **more: bool) -> None:
        outputs = dict.fromkeys(("y", "t"), floats([[1.0]] * rows))
        sequences.commit(step(name, tenant, **more), outputs, 0.0)

    with pytest.raises(LimitExceededError, match=r"has 404 bytes and workers\.sequence_bytes is 400"):
        commit("a", 101)
    commit("a", 100)
    with pytest.raises(
        LimitExceededError, match=r"tenant 't' would have 504 bytes .* workers\.all_sequences_bytes is 500"
    ):
        commit("b", 26)
    commit("b", 25)
    commit("a", 100)
    commit("c", 100, "u")
    with pytest.raises(LimitExceededError, match=r"all sequences would have 1004 bytes .* is 1000") as caught:
        commit("d", 26, "v")
    assert caught.value.metadata["bound"] == "workers.all_sequences_bytes"
    commit("a", 100, end=True)
    commit("d", 26, "v")


def test_a_tenant_leaves_sequences_to_others() -> None:
    """A tenant has half of the sequences, with those that begin at once; one that starts and ends takes no place."""
    session = Counter()
    with running(session, sequences=4) as (loop, told):
        for handle in (1, 2, 3):
            loop.submit(request(handle, sequence=step(str(handle), start=True)))
        loop.submit(request(4, sequence=step("4", start=True, end=True)))
        loop.submit(request(5, sequence=step("5", "u", start=True)))
        session.gate.release(100)
        assert told.until(1, 2, 3, 4, 5) == {**dict.fromkeys((1, 2, 4, 5)), 3: LimitExceededError}
        assert "workers.sequences_per_tenant is 2" in error_of(told, 3).message
        loop.submit(request(6, sequence=step("1", end=True)))
        told.until(6)
        loop.submit(request(7, sequence=step("7", start=True)))
        loop.submit(request(8, 13.0, sequence=step("8", "u", start=True)))
        assert told.until(7, 8)[7] is None
        loop.submit(request(9, sequence=step("9", "u", start=True)))
        assert told.until(9)[9] is None  # one that failed to begin holds nothing
