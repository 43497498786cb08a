"""The loop of the engine: schedule, step, postprocess."""

from __future__ import annotations

import logging
import queue
import threading
from collections import deque
from functools import partial
from typing import TYPE_CHECKING

from inferd.engine.batcher import Batcher
from inferd.engine.cause import last_line
from inferd.engine.intake import Intake
from inferd.engine.limits import Bounds
from inferd.engine.output import Ended, PrefillProgress, StepOutput
from inferd.engine.sampler import BAD_ROW, Sampler
from inferd.errors import BackendFailedError, InferdError, InternalError

if TYPE_CHECKING:
    from collections.abc import Callable

    from inferd.core.task import Sampling, TaskInput
    from inferd.engine.limits import EngineLimits
    from inferd.engine.sequence import Sequence
    from inferd.plugin import LoadedModel, TokenBatch

    Submission = tuple[int, TaskInput, Sampling]

_log = logging.getLogger(__name__)


class Loop:
    """Runs the tasks of one model.

    `run` belongs to the thread that loaded the session and is the only writer of batcher, sampler and sequences. Texts
    become tokens in a thread of their own, one after the other, so that a long prompt delays no step. `submit`,
    `cancel` and `stop` come from any thread and take effect between two steps.

    Args:
        model: The loaded model.
        limits: Bounds of the kernel's configuration.
        deliver: Called once per step with what it produced, from the thread of `run`. May block: then steps wait.

    Attributes:
        bounds: What the model can do under these limits.
        steps: Steps computed so far.

    Raises:
        ModelLoadError: No tokenizer can be built from the model's vocabulary.
        ValueError: The session states impossible limits.
    """

    def __init__(self, model: LoadedModel, limits: EngineLimits, deliver: Callable[[StepOutput], None]) -> None:
        self.bounds = Bounds.of(model.session.limits, limits)
        self.steps = 0
        self._session = model.session
        self._deliver = deliver
        self._sampler = Sampler(rows=self.bounds.rows, vocabulary_size=self.bounds.vocabulary_size)
        self._batcher = Batcher(bounds=self.bounds, sampler=self._sampler)
        self._intake = Intake(model.vocabulary, self.bounds, template_timeout_s=limits.template_timeout_s)
        self._sequences: dict[int, Sequence] = {}  # by handle, waiting or running
        self._refused: list[Ended] = []
        self._stopping = False
        # shared between threads
        self._lock = threading.Lock()
        self._preparing: set[int] = set()  # handles on their way through the intake
        self._submissions: queue.SimpleQueue[Submission | None] = queue.SimpleQueue()
        self._commands: deque[Callable[[], None]] = deque()
        self._wake = threading.Event()

    def submit(self, handle: int, task_input: TaskInput, sampling: Sampling) -> None:
        """Run a task. Whatever becomes of it, its handle is in `StepOutput.ended` once, unless it is cancelled."""
        with self._lock:
            self._preparing.add(handle)
        self._submissions.put((handle, task_input, sampling))

    def cancel(self, handle: int) -> None:
        """Forget a task: its place is free before the next step. A task that has ended is none of ours any more."""
        with self._lock:
            if handle in self._preparing:
                self._preparing.remove(handle)
                return
            self._commands.append(partial(self._drop, handle))
        self._wake.set()

    def stop(self) -> None:
        """Let `run` return before its next step; what was submitted is forgotten."""
        with self._lock:
            self._preparing.clear()
        self._commands.append(self._stop)
        self._wake.set()

    def run(self) -> None:
        """Compute steps until `stop`; sleeps while there is nothing to do."""
        intake = threading.Thread(target=self._prepare, name="intake", daemon=True)
        intake.start()
        try:
            while not self._stopping:
                self._turn()
        finally:
            self._submissions.put(None)
            intake.join()

    def _turn(self) -> None:
        self._wake.clear()  # before the commands are read: one that comes later wakes again
        while self._commands:
            self._commands.popleft()()
        if self._stopping:
            return
        batch = self._batcher.schedule()
        if batch is not None:
            self._step(batch)
        elif self._refused:
            self._send(StepOutput())
        else:
            self._wake.wait()

    def _step(self, batch: TokenBatch) -> None:
        try:
            logits = self._session.step(batch).logits
            ids = self._sampler.choose(logits, self._batcher.sampled_positions)
        except Exception as error:  # noqa: BLE001 - an edge to a plugin; logged with its traceback
            _log.exception("the backend failed in a step with %d sequences", len(batch.lengths))
            self._fail(self._batcher.running, last_line(error))
            self._send(StepOutput())
            return
        self.steps += 1
        self._batcher.commit(ids)
        self._send(self._collect(self._batcher.sampled, ids.tolist()))

    def _collect(self, sequences: list[Sequence], ids: list[int]) -> StepOutput:
        """Give each sequence its new token and gather what comes of it."""
        if BAD_ROW in ids:
            bad = [sequence for sequence, number in zip(sequences, ids, strict=True) if number == BAD_ROW]
            sequences = [sequence for sequence in sequences if sequence not in bad]
            ids = [number for number in ids if number != BAD_ROW]
            self._fail(bad, "the logits are not finite numbers")
        texts = [sequence.accept(number) for sequence, number in zip(sequences, ids, strict=True)]
        output = StepOutput(
            handles=[sequence.handle for sequence in sequences], counts=[1] * len(ids), token_ids=ids, texts=texts
        )
        for sequence in sequences:
            if sequence.finish is not None:
                self._forget(sequence)
                output.ended.append(Ended(handle=sequence.handle, reason=sequence.finish, usage=sequence.usage))
        output.prefills += [PrefillProgress(s.handle, fraction) for s, fraction in self._batcher.reading]
        return output

    def _send(self, output: StepOutput) -> None:
        output.ended += self._refused
        self._refused = []
        self._deliver(output)

    def _fail(self, sequences: list[Sequence], cause: str) -> None:
        for sequence in sequences:
            self._forget(sequence)
            error = BackendFailedError(f"the backend failed in a step: {cause}", metadata={"cause": cause})
            self._refused.append(Ended(handle=sequence.handle, error=error, usage=sequence.usage))

    def _forget(self, sequence: Sequence) -> None:
        del self._sequences[sequence.handle]
        self._batcher.remove(sequence)

    def _admit(self, sequence: Sequence) -> None:
        self._sequences[sequence.handle] = sequence
        self._batcher.add(sequence)

    def _refuse(self, handle: int, error: InferdError) -> None:
        self._refused.append(Ended(handle=handle, error=error))

    def _drop(self, handle: int) -> None:
        if handle in self._sequences:
            self._forget(self._sequences[handle])

    def _stop(self) -> None:
        self._stopping = True

    def _prepare(self) -> None:
        """The intake's thread: inputs to sequences, in the order of their submission."""
        while (submission := self._submissions.get()) is not None:
            handle = submission[0]
            if handle not in self._preparing:
                continue
            command = self._prepared(*submission)
            with self._lock:
                if handle not in self._preparing:  # cancelled meanwhile
                    continue
                self._preparing.remove(handle)
                self._commands.append(command)
            self._wake.set()

    def _prepared(self, handle: int, task_input: TaskInput, sampling: Sampling) -> Callable[[], None]:
        """What the step's thread is to do with a submission."""
        try:
            return partial(self._admit, self._intake.accept(handle, task_input, sampling))
        except InferdError as error:
            return partial(self._refuse, handle, error)
        except Exception as error:  # noqa: BLE001 - an edge to foreign code: tokenizer and template
            _log.exception("the input of a task could not be prepared")
            return partial(self._refuse, handle, InternalError(f"the input cannot be prepared: {last_line(error)}"))
