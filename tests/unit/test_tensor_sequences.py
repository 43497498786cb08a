"""Sequences of the tensor engine: their order, and the state that is carried on."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from tensor_sessions import DEADLINE_S, Session, entry, failing, floats, info, request, running

from inferd.core.ids import Tenant
from inferd.engine.tensor.request import SequenceStep, TensorLimits
from inferd.engine.tensor.sequences import Sequences
from inferd.errors import BackendFailedError, LimitExceededError, SequenceNotFoundError
from inferd.plugin import Signature, Tensor, TensorState

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
