"""Requests that a recipe prepares: beside what is computed, in the order of their sequences, and each for itself."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
from tensor_sessions import DEADLINE_S, Session, Told, floats, info, running

from inferd.core.ids import Tenant
from inferd.core.vigil import Doing, Vigil, WorkerTimes
from inferd.engine.recipe.engine import RecipeEngine
from inferd.engine.recipe.limits import RecipeLimits
from inferd.engine.recipe.preparation import Preparation
from inferd.engine.tensor.loop import TensorLoop
from inferd.engine.tensor.request import Request, SequenceStep
from inferd.errors import BackendFailedError, InternalError, InvalidFieldError, LimitExceededError
from inferd.plugin import BytesInput, ElementType, LabelOutput, Recipe, Tensor, TensorState

RECIPE = Recipe(where="recipe.toml", inputs=(BytesInput(name="file", gives="x", first=1, padding=-1),))
LABELLED = Recipe(
    where="recipe.toml",
    inputs=RECIPE.inputs,
    outputs=(LabelOutput(name="label", takes="y", labels=("none", "some")),),
)
TIMES = WorkerTimes(
    start_timeout_s=9,
    load_silence_s=9,
    heartbeat_s=1,
    heartbeat_timeout_s=9,
    step_floor_s=5,
    step_ceiling_s=5,
    stop_timeout_s=9,
)


class Gated(Preparation):
    """Waits at a gate before it prepares a file that begins with "w"."""

    gate: threading.Semaphore
    came: threading.Semaphore

    def prepare(self, inputs: Any, *, carried: bool) -> Any:
        content = inputs["file"].array.tobytes() if inputs else b""
        if content == b"d":
            raise RuntimeError("dreadful")
        if content.startswith(b"w"):
            self.came.release()
            assert self.gate.acquire(timeout=DEADLINE_S)
        return super().prepare(inputs, carried=carried)


def request(handle: int, content: bytes, **more: Any) -> Request:
    array = np.frombuffer(content, np.uint8)
    tensor = Tensor(element_type=ElementType.UINT8, shape=array.shape, array=array)
    return Request(handle=handle, inputs={"file": tensor}, **more)


@contextmanager
def preparing(
    session: Session, recipe: Recipe = RECIPE, threads: int = 1, **limits: Any
) -> Iterator[tuple[RecipeEngine, Gated, TensorLoop, Told]]:
    with running(session, **limits) as (loop, told):
        preparation = Gated(recipe, session.signature, RecipeLimits())
        preparation.gate, preparation.came = threading.Semaphore(0), threading.Semaphore(0)
        engine = RecipeEngine(loop, preparation, told, threads=threads)
        try:
            yield engine, preparation, loop, told
        finally:
            preparation.gate.release(1000)
            engine.stop()


def test_a_bad_file_harms_nobody() -> None:
    """Of files that came together the bad ones are refused, each with its reason, and the others computed as one."""
    session = Session()
    wrong = Tensor(element_type=ElementType.FLOAT, shape=(1,), array=np.ones(1, np.float32))
    with preparing(session) as (engine, _, _, told):
        engine.submit(request(1, b"\x01"))
        session.wait()
        engine.submit(request(2, b"\x02"))
        engine.submit(Request(handle=3, inputs={"file": wrong}))
        engine.submit(request(4, b"d"))
        engine.submit(request(5, b"\x05"))
        engine.submit(Request(handle=6, inputs={}))  # behind all of them
        assert told.until(6)[6] is InvalidFieldError
        session.gate.release(2)
        ended = told.until(1, 2, 3, 4, 5, 6)
        assert ended == {1: None, 2: None, 3: InvalidFieldError, 4: InternalError, 5: None, 6: InvalidFieldError}
        assert session.calls == [[1], [2, 5]]
        assert told.outputs() == {1: [[[2]]], 2: [[[4]]], 5: [[[10]]]}


def test_a_slow_file_delays_no_other() -> None:
    """While one is prepared others are prepared and computed; one that is cancelled meanwhile goes no further."""
    session = Session()
    with preparing(session, threads=2) as (engine, preparation, _, told):
        engine.submit(request(1, b"w"))
        assert preparation.came.acquire(timeout=DEADLINE_S)
        engine.submit(request(2, b"\x02"))
        session.gate.release(2)
        assert told.until(2) == {2: None}
        engine.cancel(1)
        engine.cancel(99)  # nobody's
        preparation.gate.release()
        engine.submit(request(3, b"\x03"))
        assert told.until(3) == {2: None, 3: None}
        assert session.calls == [[2], [3]]


def test_sequences_keep_their_order() -> None:
    """What comes behind a slow file of a sequence waits for it, and what is cancelled of one is left out."""
    states = (TensorState(input_name="before", output_name="y", start_shape=(1,)),)
    inputs = (info("x", "b", "w"), info("before", "b", "w"))
    session = Session(inputs=inputs, states=states)

    def of(handle: int, content: bytes, *, start: bool = False) -> Request:
        return request(handle, content, sequence=SequenceStep(tenant=Tenant("t"), name="s", start=start))

    with preparing(session, threads=4) as (engine, preparation, _, told):
        engine.submit(of(1, b"w", start=True))
        assert preparation.came.acquire(timeout=DEADLINE_S)
        for handle in (2, 3, 4):
            engine.submit(of(handle, bytes([handle])))
        engine.cancel(3)
        preparation.gate.release()
        session.gate.release(4)
        assert told.until(1, 2, 4) == {1: None, 2: None, 4: None}
        assert session.calls == [[ord("w")], [2], [4]]


def test_a_suspect_is_prepared_when_it_is_alone() -> None:
    """That it runs alone is told before its file is looked at, and what of it is wrong is its own affair."""
    session = Session()
    with preparing(session) as (engine, preparation, _, told):
        engine.submit(request(1, b"\x01"))
        session.wait()
        engine.submit(request(2, b"w", alone=True))
        engine.submit(request(3, b"d", alone=True))
        assert not preparation.came.acquire(blocking=False)
        session.gate.release(3)
        assert preparation.came.acquire(timeout=DEADLINE_S)
        assert [each.alone for each in told.results if each.alone] == [2]
        preparation.gate.release()
        assert told.until(1, 2, 3) == {1: None, 2: None, 3: BackendFailedError}
        assert [each.alone for each in told.results if each.alone] == [2, 3]
        assert session.calls == [[1], [ord("w")]]


def test_answers_are_what_is_bounded() -> None:
    """What the model gives may be larger than what is told of it; one that gives something else fails its own task."""

    def compute(x: Any) -> Any:
        return np.repeat(x, 2 if x.max() > 0 else 3, axis=1) * [1, 2, 3][: 2 if x.max() > 0 else 3]

    session = Session(compute=compute, outputs=(info("y", "b", 2),))
    with preparing(session, LABELLED, output_bytes=16) as (engine, _, _, told):
        session.gate.release(3)
        engine.submit(request(1, b"\x01"))
        assert told.until(1) == {1: None}
        assert told.outputs() == {1: [[["some"]]]}
        engine.submit(request(2, b"\x00"))
        assert told.until(2)[2] is BackendFailedError
    with running(Session(compute=compute), output_bytes=4) as (loop, told):
        loop.submit(Request(handle=1, inputs={"x": floats([[1.0]])}))
        loop._session.gate.release()
        assert told.until(1)[1] is LimitExceededError


def test_nothing_is_prepared_after_the_end() -> None:
    """An engine that was stopped takes nothing in, and what is cancelled then is nobody's."""
    session = Session()
    with preparing(session) as (engine, _, _, told):
        engine.stop()
        engine.submit(request(1, b"\x01"))
        engine.cancel(1)
        assert not told.results


def test_who_waits_for_room_in_vain_goes() -> None:
    """A task that is cancelled while its file waits for room leaves its thread to others; one in line is not read."""

    class Roomy(Gated):
        seen: list[bytes]

        def prepare(self, inputs: Any, *, carried: bool) -> Any:
            content = inputs["file"].array.tobytes()
            self.seen.append(content)
            if content == b"r":
                self.came.release()
                with self._room.taken(1):
                    pass
            return super().prepare(inputs, carried=carried)

    session = Session()
    with running(session) as (loop, told):
        preparation = Roomy(RECIPE, session.signature, RecipeLimits())
        preparation.came, preparation.seen = threading.Semaphore(0), []
        engine = RecipeEngine(loop, preparation, told, threads=1)
        session.gate.release(2)
        with preparation._room.taken(1 << 62):
            engine.submit(request(1, b"r"))
            engine.submit(request(2, b"\x02"))
            engine.submit(request(3, b"\x03"))
            assert preparation.came.acquire(timeout=DEADLINE_S)
            engine.cancel(2)
            engine.cancel(1)
            assert told.until(3) == {3: None}
        assert preparation.seen == [b"r", b"\x03"]
        engine.submit(request(4, b"r"))
        assert told.until(4) == {3: None, 4: None}
        engine.stop()


def test_a_file_that_is_decoded_for_ever_is_seen() -> None:
    """The pulse tells the file that is decoded for longest, and the vigil sees one that goes on for ever."""
    session = Session()
    with preparing(session) as (engine, preparation, loop, _):
        room = preparation._room
        assert engine.pulse().doing is not Doing.DECODE
        with room.taken(1):
            first = engine.pulse()
            with room.taken(1):
                assert engine.pulse().turn == first.turn
        assert first.doing is Doing.DECODE
        vigil = Vigil(TIMES, 0.0)
        for second in range(1, 8):
            vigil.feel(replace(first, seconds=float(second)))
            vigil.hear(float(second))
            told = vigil.beat(float(second))
        assert "the decoding of a picture or a sound has run for 7.0 s (limit 5 s)" in told
        with room.taken(1 << 62):
            assert engine.pulse().turn != first.turn
        assert engine.pulse().turn == 2 * loop.pulse().turn
