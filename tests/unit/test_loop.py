import queue
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inferd.core.task import FinishReason, Usage
from inferd.engine.token.limits import EngineLimits
from inferd.engine.token.loop import Loop
from inferd.engine.token.output import Ended, StepOutput
from inferd.engine.token.sequence import Origin
from inferd.engine.token.step import Step
from inferd.engine.token.submission import Submission
from inferd.engine.work import ChatInput, Message, TextInput, TokenInput
from inferd.errors import BackendFailedError, InternalError, PromptTooLongError
from inferd.plugin import LoadRequest, StepResult, TokenBatch
from inferd.sampling import Sampling
from inferd.testing import fake_session
from inferd.testing.fake import FakeBackend
from inferd.testing.kernel import write_fake_model

DEADLINE_S = 60.0
GREEDY = Sampling(temperature=0, max_tokens=12)
ENDLESS = Sampling(temperature=0, max_tokens=1000)


class Running:
    """A loop in a thread, and what came out of it."""

    def __init__(self, folder: Path, *, step_tokens: int = 512, **behaviour: Any) -> None:
        request = LoadRequest(path=write_fake_model(folder, **behaviour), device="fake:0", capacity_bytes=1 << 30)
        self.model = FakeBackend().load(request, lambda _: None)
        self.outputs: queue.SimpleQueue[StepOutput] = queue.SimpleQueue()
        self.seen: list[StepOutput] = []
        self.prepared: list[int] = []
        self.at_step: Callable[[StepOutput], None] = lambda _: None
        self.loop = Loop(self.model, EngineLimits(step_tokens=step_tokens), self._deliver)

    def _deliver(self, output: StepOutput) -> None:
        self.outputs.put(output)
        self.at_step(output)

    @contextmanager
    def thread(self) -> Iterator["Running"]:
        thread = threading.Thread(target=self.loop.run)
        thread.start()
        try:
            yield self
        finally:
            self.loop.stop()
            thread.join(DEADLINE_S)
            assert not thread.is_alive()

    def next(self) -> StepOutput:
        self.seen.append(self.outputs.get(timeout=DEADLINE_S))
        return self.seen[-1]

    def wait(self, *handles: int) -> dict[int, Ended]:
        """Wait until these tasks have ended."""
        ended = {e.handle: e for output in self.seen for e in output.ended}
        while not ended.keys() >= set(handles):
            ended |= {e.handle: e for e in self.next().ended}
        return ended

    def text(self, handle: int) -> str:
        return "".join(
            text for output in self.seen for h, text in zip(output.handles, output.texts, strict=True) if h == handle
        )


def hold_intake(
    running: Running, monkeypatch: pytest.MonkeyPatch, *, handle: int
) -> tuple[threading.Event, threading.Event]:
    """Let the preparation of one task wait; events that tell that it waits, and that it may go on."""
    waits, go = threading.Event(), threading.Event()
    accept = running.loop._reception._intake.accept

    def held(origin: Origin, *rest: Any, **named: Any) -> Any:
        running.prepared.append(origin.handle)
        if origin.handle == handle:
            waits.set()
            assert go.wait(DEADLINE_S)
        return accept(origin, *rest, **named)

    monkeypatch.setattr(running.loop._reception._intake, "accept", held)
    return waits, go


def test_chat_and_text(tmp_path: Path) -> None:
    """A chat and a text run side by side; each ends for its own reason, with its text and its usage."""
    with Running(tmp_path).thread() as running:
        running.loop.submit(Submission(1, ChatInput((Message("user", "héllo"),)), GREEDY))
        running.loop.submit(Submission(2, TextInput("ab"), GREEDY))
        ended = running.wait(1, 2)
    assert running.text(1) == "héllo"
    assert ended[1] == Ended(handle=1, reason=FinishReason.END_OF_TEXT, usage=Usage(prompt_tokens=8, output_tokens=7))
    assert running.text(2) == "ab" * 6
    assert ended[2].reason is FinishReason.MAX_TOKENS


def test_one_output_a_step(tmp_path: Path) -> None:
    """All tasks of a step come in one value, whose columns fit together."""
    running = Running(tmp_path)
    for handle in range(8):
        running.loop.submit(Submission(handle, TextInput("ab"), GREEDY))
    with running.thread():
        running.wait(*range(8))
    for output in running.seen:
        assert len(output.handles) == len(output.counts) == len(output.texts)
        assert sum(output.counts) == len(output.token_ids)
    assert max(len(output.handles) for output in running.seen) == 8
    assert running.loop.steps == len(running.seen)


def test_stop_string_and_seed(tmp_path: Path) -> None:
    """A stop string ends a text before itself; the same seed gives the same random text."""
    with Running(tmp_path).thread() as running:
        running.loop.submit(Submission(1, TextInput("one two "), Sampling(temperature=0, stop=("e t",))))
        for handle in (2, 3):
            running.loop.submit(
                Submission(handle, TextInput("abc"), Sampling(temperature=9, seed=5, max_tokens=50, ignore_eos=True))
            )
        ended = running.wait(1, 2, 3)
    assert running.text(1) == "on"
    assert ended[1].reason is FinishReason.STOP_STRING
    tokens: dict[int, list[int]] = {2: [], 3: []}
    for output in running.seen:
        for handle, token in zip(output.handles, output.token_ids, strict=True):
            tokens.setdefault(handle, []).append(token)
    assert tokens[2] == tokens[3]
    assert len(set(tokens[2])) > 10


def test_progress_of_a_long_prompt(tmp_path: Path) -> None:
    """While a prompt is read in chunks, each step tells how far it is."""
    with Running(tmp_path, step_tokens=20).thread() as running:
        running.loop.submit(Submission(1, TextInput("x" * 50), GREEDY))
        running.wait(1)
    assert [(p.handle, p.fraction) for output in running.seen for p in output.prefills] == [(1, 0.4), (1, 0.8)]


def test_refusal(tmp_path: Path) -> None:
    """A task that the model cannot take ends with its typed error, also while nothing else runs."""
    with Running(tmp_path, context_tokens=30).thread() as running:
        running.loop.submit(Submission(1, TextInput("x" * 30), GREEDY))
        ended = running.wait(1)
    assert isinstance(ended[1].error, PromptTooLongError)
    assert running.loop.steps == 0


def test_cancelled_task_frees_its_place_before_the_next_step(tmp_path: Path) -> None:
    """With one place, the step after the cancellation of the first task gives the second one its first token."""
    running = Running(tmp_path, max_sequences=1)
    running.at_step = lambda output: running.loop.cancel(1) if output.handles == [1] else None
    running.loop.submit(Submission(1, TextInput("ab"), ENDLESS))
    running.loop.submit(Submission(2, TextInput("cd"), GREEDY))
    with running.thread():
        running.wait(2)
    assert [output.handles for output in running.seen] == [[1], *[[2]] * 12]
    assert running.loop._places.pool.free == running.model.session.limits.blocks


def test_cancelled_while_it_is_prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that is cancelled while its text becomes tokens is never heard of."""
    running = Running(tmp_path)
    waits, go = hold_intake(running, monkeypatch, handle=1)
    with running.thread():
        running.loop.submit(Submission(1, TextInput("ab"), GREEDY))
        running.loop.submit(Submission(2, TextInput("cd"), GREEDY))
        assert waits.wait(DEADLINE_S)
        running.loop.cancel(1)
        go.set()
        running.wait(2)
    assert {handle for output in running.seen for handle in output.handles} == {2}
    assert [e.handle for output in running.seen for e in output.ended] == [2]


def test_cancelled_before_it_is_prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that is cancelled in the queue before its text is looked at costs nothing."""
    running = Running(tmp_path)
    _, go = hold_intake(running, monkeypatch, handle=2)
    go.set()
    running.loop.submit(Submission(1, TextInput("ab"), GREEDY))
    running.loop.submit(Submission(2, TextInput("ab"), GREEDY))
    running.loop.cancel(1)
    with running.thread():
        running.wait(2)
    assert running.prepared == [2]


def test_cancel_of_what_has_ended(tmp_path: Path) -> None:
    """Cancelling a task that has ended, or that never was, changes nothing."""
    with Running(tmp_path).thread() as running:
        running.loop.submit(Submission(1, TextInput("ab"), GREEDY))
        running.wait(1)
        running.loop.cancel(1)
        running.loop.cancel(99)
        running.loop.submit(Submission(2, TextInput("ab"), GREEDY))
        assert running.wait(2)[2].error is None


def test_slow_preparation_delays_no_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one task's text becomes tokens, however long that takes, another one streams to its end."""
    running = Running(tmp_path)
    waits, go = hold_intake(running, monkeypatch, handle=2)
    with running.thread():
        running.loop.submit(Submission(1, TextInput("ab"), ENDLESS))
        running.loop.submit(Submission(2, TextInput("cd"), GREEDY))
        assert waits.wait(DEADLINE_S)
        running.wait(1)
        go.set()
        running.wait(2)
    assert len(running.text(1)) == 1000


def test_step_that_raises(tmp_path: Path) -> None:
    """A step that raises fails the tasks in it with the cause; the next task runs, and no block is lost."""
    running = Running(tmp_path, fail_step=3)
    for handle in (1, 2):
        running.loop.submit(Submission(handle, TextInput("ab"), GREEDY))
    with running.thread():
        failed = running.wait(1, 2)
        running.loop.submit(Submission(3, TextInput("ab"), GREEDY))
        assert running.wait(3)[3].error is None
    for handle in (1, 2):
        error = failed[handle].error
        assert isinstance(error, BackendFailedError)
        place = rf"RuntimeError: step 3 fails, as the model's file asks \({re.escape(fake_session.__file__)}:\d+\)"
        assert re.fullmatch(place, error.metadata["cause"])
        assert failed[handle].usage == Usage(prompt_tokens=2, output_tokens=2)
    assert running.loop._places.pool.free == running.model.session.limits.blocks


@pytest.mark.parametrize("wrong", ["shape", "number"])
def test_logits_that_are_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: str) -> None:
    """Logits of a wrong shape fail the step; logits that are no numbers fail the task that they belong to alone."""
    running = Running(tmp_path)
    compute = running.model.session.step
    rows: list[str] = []

    def step(batch: TokenBatch) -> StepResult:
        logits = compute(batch).logits
        if not np.isin(ord("!"), batch.token_ids):
            return StepResult(logits=logits)
        if wrong == "shape":
            return StepResult(logits=logits[:, :-1])
        (bad,) = np.flatnonzero(batch.token_ids[batch.logit_rows] == ord("!"))
        rows.append(f"row {bad} of {len(logits)}")
        logits[bad] = np.nan
        return StepResult(logits=logits)

    monkeypatch.setattr(running.model.session, "step", step)
    running.loop.submit(Submission(1, TextInput("ab!"), GREEDY))
    running.loop.submit(Submission(2, TextInput("ab"), GREEDY))
    with running.thread():
        ended = running.wait(1, 2)
    assert isinstance(ended[1].error, BackendFailedError)
    assert (ended[2].error is None) == (wrong == "number")
    expected = (
        f"TokenSession.step gave logits that are not finite numbers in {rows[0]}"
        if wrong == "number"
        else "TokenSession.step gave logits of shape (2, 259); it must be (2, 260)"
    )
    assert expected in ended[1].error.metadata["cause"]


@pytest.mark.parametrize("kind", [np.float64, np.float16])
def test_other_floats_become_float32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, kind: type[Any]
) -> None:
    """Logits of another width, or that cannot be written to, give the same text; the width is logged once."""
    running = Running(tmp_path)
    compute = running.model.session.step

    def step(batch: TokenBatch) -> StepResult:
        logits = np.asarray(compute(batch).logits, kind)
        logits.flags.writeable = False
        return StepResult(logits=logits)

    monkeypatch.setattr(running.model.session, "step", step)
    running.loop.submit(Submission(1, TextInput("ab"), replace(GREEDY, logprobs=1, repetition_penalty=1.1)))
    with running.thread():
        assert running.wait(1)[1].error is None
    assert running.text(1) == "ab" * 6
    assert [record.args for record in caplog.records if "float32" in record.message] == [("logits", np.dtype(kind))]


@pytest.mark.parametrize(
    ("result", "cause"),
    [
        (None, "TokenSession.step gave None; it must give a StepResult"),
        (StepResult(), "TokenSession.step gave logits as None; it must be a numpy array of float32"),
        (StepResult(logits=[[1.0]]), "gave logits as builtins.list; it must be a numpy array of float32"),  # type: ignore[arg-type]
        (StepResult(logits=np.zeros((1, 260), np.int64)), "gave logits of int64; they must be float32"),  # type: ignore[arg-type]
        (StepResult(logits=np.zeros((1, 260), np.complex64)), "gave logits of complex64; they must be float32"),  # type: ignore[arg-type]
    ],
)
def test_results_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, result: Any, cause: str) -> None:
    """What is no result, or no array of floats, fails the step with the method, what it gave and what it must give."""
    running = Running(tmp_path)
    monkeypatch.setattr(running.model.session, "step", lambda _: result)
    running.loop.submit(Submission(1, TextInput("ab"), GREEDY))
    with running.thread():
        error = running.wait(1)[1].error
    assert isinstance(error, BackendFailedError)
    assert cause in error.metadata["cause"]


def test_preparation_that_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A defect while a text becomes tokens fails that task; the next one runs."""
    running = Running(tmp_path)
    accept = running.loop._reception._intake.accept

    def broken(origin: Origin, *rest: Any, **named: Any) -> Any:
        if origin.handle == 1:
            raise KeyError("oh")
        return accept(origin, *rest, **named)

    monkeypatch.setattr(running.loop._reception._intake, "accept", broken)
    with running.thread():
        running.loop.submit(Submission(1, TextInput("ab"), GREEDY))
        running.loop.submit(Submission(2, TextInput("ab"), GREEDY))
        ended = running.wait(1, 2)
    assert isinstance(ended[1].error, InternalError)
    assert "KeyError: 'oh'" in ended[1].error.message
    assert ended[2].error is None


def test_loop_sleeps_while_there_is_nothing_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop looks for work after each step and after each call, and at no other time."""
    running = Running(tmp_path)
    looks = 0
    schedule = running.loop._batcher.schedule

    def counted(**options: Any) -> Step | None:
        nonlocal looks
        looks += 1
        return schedule(**options)

    monkeypatch.setattr(running.loop._batcher, "schedule", counted)
    with running.thread():
        for handle in range(20):
            running.loop.submit(Submission(handle, TokenInput((97, 98)), GREEDY))
            running.wait(handle)
    assert running.loop.steps == 20 * 12
    assert looks <= running.loop.steps + 2 * 20 + 1


def test_stop_forgets_what_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopping ends the loop in the middle of its tasks, and prepares none that still wait for it."""
    running = Running(tmp_path)
    waits, go = hold_intake(running, monkeypatch, handle=2)
    with running.thread():
        running.loop.submit(Submission(1, TextInput("ab"), ENDLESS))
        running.loop.submit(Submission(2, TextInput("ab"), ENDLESS))
        running.loop.submit(Submission(3, TextInput("ab"), ENDLESS))
        assert waits.wait(DEADLINE_S)
        running.next()
        running.loop.stop()
        go.set()
    assert running.loop.steps < 1000
    assert running.prepared == [1, 2]
