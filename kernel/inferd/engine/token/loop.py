"""The loop of the engine: schedule, step, postprocess."""

from __future__ import annotations

import logging
import threading
from collections import deque
from functools import partial
from itertools import compress
from typing import TYPE_CHECKING, Any

from inferd.core.vigil import Doing, Pulse
from inferd.engine.activity import Activity
from inferd.engine.cause import placed_line
from inferd.engine.cells.cell import Cells
from inferd.engine.token.adapters import Adapters
from inferd.engine.token.apart import Apart
from inferd.engine.token.aside import Aside
from inferd.engine.token.batcher import Batcher
from inferd.engine.token.draft_model import DraftModel
from inferd.engine.token.flights import Flight, Flights
from inferd.engine.token.forward import Forward
from inferd.engine.token.grammar import Following, Grammars, why_stuck
from inferd.engine.token.intake import Intake
from inferd.engine.token.keeping import Keeping
from inferd.engine.token.limits import Bounds, EngineLimits
from inferd.engine.token.output import Ended, PrefillProgress, SampleEnd, StepOutput
from inferd.engine.token.pace import Pace
from inferd.engine.token.reception import Reception
from inferd.engine.token.sampler import BAD_ROW, NOTHING_LEFT, Sampler
from inferd.engine.token.samples import Samples, release
from inferd.engine.token.sources import Sources
from inferd.engine.token.suspects import Suspects
from inferd.errors import BackendFailedError, InferdError, is_failure, present

if TYPE_CHECKING:
    from collections.abc import Callable

    from inferd.core.task import FinishReason
    from inferd.core.task_events import Logprobs
    from inferd.engine.token.sequence import Sequence
    from inferd.engine.token.step import Step
    from inferd.engine.token.submission import Submission
    from inferd.plugin import LoadedModel

_log = logging.getLogger(__name__)


class Loop:
    """Runs the tasks of one model.

    `run` belongs to the thread that loaded the session and is the only writer of batcher, sampler and sequences. Texts
    become tokens in a thread of their own (`Reception`). `submit`, `cancel`, `hold` and `stop`
    come from any thread and take effect between two steps, in their order.

    Args:
        model: The loaded model.
        limits: Bounds of the kernel's configuration.
        deliver: Called once per step with what it produced, from the thread of `run`. May block: then steps wait.
        activity: Told what the thread of `run` is doing.
        cells: Where foreign code runs; None for its own.

    Attributes:
        bounds: What the model can do under these limits.
        steps: Steps computed so far.
        keeping: Takes the prefix cache out of the session, and into it.

    Raises:
        ModelLoadError: No tokenizer can be built from the model's vocabulary.
        ValueError: The session states impossible limits.
    """

    def __init__(
        self,
        model: LoadedModel,
        limits: EngineLimits,
        deliver: Callable[[StepOutput], None],
        *,
        activity: Activity | None = None,
        cells: Cells | None = None,
    ) -> None:
        self.bounds = Bounds.of(model.session.limits, limits)
        self.steps = self._preempted = 0  # of the latter those that were told
        self.refusals = 0  # steps that the session refused
        self._deliver = deliver
        self._session = model.session
        self._activity = activity or Activity()
        size, ends = self.bounds.vocabulary_size, model.vocabulary.eos_ids
        sampler = Sampler(rows=self.bounds.rows, vocabulary_size=size)
        self._batcher = Batcher(bounds=self.bounds, sampler=sampler, draft=DraftModel.beside(model, self._activity))
        self._places = self._batcher.places
        self._cells = cells or Cells(model.vocabulary, size=size, memory_bytes=limits.cell_memory_bytes)
        self._grammars = Grammars(self._cells, ends=ends, vocabulary_size=size, limits=limits.grammar)
        following = Following(rows=self.bounds.rows, vocabulary_size=size, wait_s=limits.grammar.wait_s)
        self._aside = Aside(self._grammars, following, self._places, command=self._command, go_on=self._go_on)
        sources = Sources(model.session, self._activity)
        ways: Any = {"announce": self._announce, "tell": self._tell, "start": self._join}
        self._apart = Apart(model.session, sources, self._activity, fail=self._fail_source, **ways)
        self._adapters = Adapters(model.session, self._fail_task)
        given: Any = {"sources": sources, "adapters": self._adapters, "activity": self._activity}
        self._forward = Forward(model.session, self.bounds, sampler=sampler, following=following, **given)
        self.keeping = Keeping(model.session, self._places, self._activity)
        self._suspects = Suspects(self._batcher, self._aside)
        self._alone: int | None = None  # the task that was last told to run alone; None since a step for all
        intake = Intake.of(model, self.bounds, cells=self._cells, limits=limits)
        self._reception = Reception(intake, self.bounds, self._grammars, self._arrive)
        self._pace = Pace(gap_s=limits.gap_s)
        self._flights = Flights(self._forward, self._batcher, self._pace)
        self._flight: Flight | None = None  # the step that was launched and is to be read
        self._tasks: dict[int, Samples] = {}  # by handle: waiting or running
        self._owed: set[Sequence] = set()  # those that still have to tell of their prompt
        self._several = 0  # tasks with several samples
        self._constrained = 0  # tasks with a grammar
        self._measured = 0  # tasks that ask how likely their tokens were
        self._refused, self._stopping = list[Ended](), False
        # shared between threads
        self._commands: deque[Callable[[], None]] = deque()
        self._wake = threading.Event()

    def submit(self, submission: Submission) -> None:
        """Run a task. Whatever becomes of it, its handle is in `StepOutput.ended` once, unless it is cancelled."""
        self._reception.put(submission)

    def cancel(self, handle: int, *, again: bool = False) -> None:  # noqa: ARG002 - it goes on by its continuation
        """Forget a task: its place is free before the next step. A task that has ended is none of ours any more."""
        if not self._reception.withdraw(handle):
            self._command(partial(self._drop, handle))

    def hold(self, lease_id: str, fencing_token: int, *, sequences: int, kv_tokens: int) -> None:
        """Leave rows and KV blocks free for the tasks of a lease; a later hold of the lease replaces it.

        Tasks of others are preempted where they have too much of that already. What is given back with zeros is free
        for all; tasks that are still under the lease then are like those under none. `fencing_token` is of its grant: a
        hold with a smaller one than was seen is ignored. KV tokens are held in whole blocks.

        Raises:
            ValueError: It is more than there is: a defect of the caller, who was told the bounds.
        """
        self.bounds.check_hold(lease_id, sequences=sequences, kv_tokens=kv_tokens)
        blocks = self._places.pool.blocks_for(kv_tokens)
        self._command(partial(self._places.holds.change, lease_id, fencing_token, rows=sequences, blocks=blocks))

    def fail(self, handle: int, error: InferdError) -> None:
        """End a task with an error, unless it has ended."""
        self._command(partial(self._fail_task, handle, error))

    def see_to_prefixes(self, errand: Callable[[Keeping], None]) -> None:
        """Have the prefix cache kept or found again, between two steps."""
        self._command(partial(errand, self.keeping))

    def see_to_adapters(self, errand: Callable[[Adapters], None]) -> None:
        """Have adapters held, or no more, between two steps."""
        self._command(partial(errand, self._adapters))

    def consult(self, query: Callable[[Intake], None]) -> None:
        """Have `query` called where tasks are prepared, in turn with them; no step waits for it."""
        self._reception.consult(query)

    def pulse(self) -> Pulse:
        """What the thread of the steps is doing now."""
        return self._activity.pulse(self.steps)

    def stop(self) -> None:
        """Let `run` return before its next step; what was submitted is forgotten."""
        self._reception.withdraw_all()
        self._command(partial(setattr, self, "_stopping", True))

    def run(self) -> None:
        """Compute steps until `stop`; sleeps while there is nothing to do."""
        self._reception.consult(Intake.warm)
        reception = threading.Thread(target=self._reception.run, name="reception", daemon=True)
        reception.start()
        try:
            while not self._stopping:
                self._turn()
        finally:
            self._reception.close()
            reception.join()
            self._grammars.shut()
            self._cells.close()

    def _turn(self) -> None:
        self._activity.begin(Doing.SCHEDULE)
        flight, self._flight = self._flight, None
        if flight is not None:
            self._flight = self._begin_behind(flight)
            self._land(flight)
            return
        self._wake.clear()  # before the commands are read: one that comes later wakes again
        while self._commands:
            self._commands.popleft()()
        if self._stopping:
            return
        self.keeping.read()
        self._apart.see_to(beside=self._places.decoding > 0)
        most = self._pace.prompt_tokens if self._places.decoding else None
        schedule = partial(self._batcher.schedule, prompt_tokens=most, alone_tokens=self._pace.alone_tokens)
        step = self._suspects.schedule(schedule)
        if step is not None:
            self._step(step)
        elif self._refused:
            self._send(StepOutput())
        elif not (self._apart.waiting or self.keeping.pending):
            self._activity.begin(Doing.IDLE)
            self._wake.wait()

    def _announce(self, handle: int | None) -> None:
        """The next step is of one task alone, or of all again."""
        if handle != self._alone:
            self._alone = handle
            if handle is not None:
                self._deliver(StepOutput(alone=handle))  # before the worker can die of it

    def _tell(self, task: Samples, numbers: tuple[float, ...]) -> None:
        self._forget(task)
        self._refused.append(Ended(handle=task.leader.handle, usage=task.usage))
        self._send(StepOutput(embeddings={task.leader.handle: numbers}))

    def _step(self, step: Step) -> None:
        self._announce(step.alone)
        flight = self._flights.begin(step, constrained=self._constrained > 0)
        if flight.launched:
            self._flight = flight  # it is read when the next one was begun
        else:
            self._land(flight)

    def _begin_behind(self, flight: Flight) -> Flight | None:
        """Begin the next step before one is read, where nothing has to be done or known between them."""
        if self._commands or self._suspects or self._apart.waiting or self.keeping.pending or self._adapters.going:
            return None
        if self._several and len(flight.step.sampled) > flight.step.decode_tokens:
            return None  # other samples take over what was read
        return self._flights.begin_behind(flight, constrained=self._constrained > 0)

    def _land(self, flight: Flight) -> None:
        """Take the tokens of a step, and tell what comes of them."""
        try:
            step, ids, seen, verified = self._flights.read(flight)
        except BaseException as error:
            if not is_failure(error):
                raise
            _log.exception("the backend failed in a step with %d sequences", len(flight.step.sequences))
            self._answer_failure(flight, error)
            return
        self.steps += 1
        if not step.sequences:
            return  # all have ended before it
        told = self._forward.measure(step, ids, seen) if self._measured and seen is not None else {}
        if self._several:
            release(step.sampled, self._tasks, self._places.follow)
        self._suspects.told(step)
        first = ids.tolist() if verified is None else [tokens[0] for tokens in verified]
        output = self._collect(step, first, told, verified)
        output.seconds, output.batch_size = flight.seconds, len(step.sequences)
        output.kv_tokens, output.pictured = self._batcher.kv_tokens, self._forward.pictures
        output.preempted, self._preempted = self._places.preempted - self._preempted, self._places.preempted
        self._send(output)

    def _answer_failure(self, flight: Flight, error: BaseException) -> None:
        """A step was not computed: of a batch that was refused each task runs alone, else all end that have a place."""
        refused = self._forward.refused and not flight.launched
        self.refusals += refused
        sequences = [each for each in flight.step.sequences if each.handle in self._tasks]  # others ended before it
        handles = dict.fromkeys(sequence.handle for sequence in sequences)
        if refused and len(handles) > 1:
            self._suspects.part([self._tasks[handle] for handle in handles])
        else:
            self._fail(sequences if refused else self._places.rows, placed_line(error, self._session))
        self._send(StepOutput())

    def _collect(
        self, step: Step, ids: list[int], told: dict[Sequence, Logprobs], verified: list[list[int]] | None
    ) -> StepOutput:
        """Give each sequence its new token, or all those of `verified`, and gather what comes of it."""
        sequences = step.sampled
        embeddings = {}
        if step.embeds or min(ids, default=0) < 0:
            self._fail_bad(step, ids)
            embeddings = self._finish_embeddings(sequences)
            living = [s.handle in self._tasks and number >= 0 for s, number in zip(sequences, ids, strict=True)]
            sequences, ids = list(compress(sequences, living)), list(compress(ids, living))
            verified = None if verified is None else list(compress(verified, living))
        if self._constrained:
            self._aside.following.advance([sequence.constraint for sequence in sequences], ids)
        output = StepOutput(handles=[sequence.handle for sequence in sequences], embeddings=embeddings)
        if verified is None and step.mute:
            verified = [[number] for number in ids]
        output.take(sequences, ids, verified)
        if told:
            output.logprobs = {place: told[s] for place, s in enumerate(sequences) if s in told and not s.mute}
        if self._owed:
            output.prompts = {s.handle: s.report.tell() for s in sequences if s in self._owed}
            self._owed.difference_update(sequences)
        if self._several:
            output.samples = [sequence.sample for sequence in sequences]
        self._conclude(sequences, output)
        output.begun_prompts = {s.handle: s.place.cached_tokens for s in step.begun}
        output.prefills += [PrefillProgress(s.handle, fraction) for s, fraction in self._batcher.reading]
        return output

    def _conclude(self, sequences: list[Sequence], output: StepOutput) -> None:
        """End those that have their last token, and put aside those of which that is not known yet."""
        for sequence in sequences:
            if sequence.finish is not None:
                self._end(sequence, sequence.finish, output)
        for sequence in sequences if self._constrained else ():
            if sequence.undecided:
                self._aside.put(sequence)

    def _fail_bad(self, step: Step, ids: list[int]) -> None:
        """End the tasks of sequences that got no token."""
        for place, (sequence, number) in enumerate(zip(step.sampled, ids, strict=True)):
            if number == BAD_ROW:
                where = f"row {step.logit_row(place)} of {len(step.batch.logit_rows)}"
                self._fail([sequence], f"TokenSession.step gave logits that are not finite numbers in {where}")
            elif number == NOTHING_LEFT and sequence.handle in self._tasks and not self._aside.put_if_waiting(sequence):
                self._fail_task(sequence.handle, why_stuck(sequence))

    def _finish_embeddings(self, sequences: list[Sequence]) -> dict[int, tuple[float, ...]]:
        """End the tasks whose prompt was computed and that want an embedding; what they get, by handle."""
        vectors = {}
        for sequence in sequences:
            if sequence.pool is not None and sequence.handle in self._tasks:
                try:
                    vectors[sequence.handle] = sequence.pool.vector()
                except ValueError as error:
                    self._fail([sequence], str(error))
                else:
                    self._forget(self._tasks[sequence.handle])
                    self._refused.append(Ended(handle=sequence.handle, usage=sequence.usage))
        return vectors

    def _end(self, sequence: Sequence, reason: FinishReason, output: StepOutput) -> None:
        """A sample has its last token; the last one of a task ends the task."""
        task = self._tasks[sequence.handle]
        self._places.remove(sequence)
        self._aside.forget(sequence)
        task.living.remove(sequence)
        if task.several:
            output.sample_ends.append(SampleEnd(sequence.handle, sequence.sample, reason))
        if not task.living:
            self._forget(task)
            output.ended.append(Ended(handle=sequence.handle, reason=task.reason or reason, usage=task.usage))

    def _go_on(self, sequence: Sequence) -> None:
        """A sequence has no place, and may want one again."""
        handle = sequence.handle
        if handle not in self._tasks or not self._aside.decide(sequence):
            return
        if sequence.constraint is not None and sequence.constraint.failed:
            self._fail_task(handle, why_stuck(sequence))
            return
        text = sequence.conclude()
        if sequence.finish is None:
            if self._suspects.may_join(handle):
                self._places.add(sequence)
            return
        output = StepOutput(handles=[handle], counts=[0], texts=[text], samples=[sequence.sample])
        self._end(sequence, sequence.finish, output)
        self._send(output)

    def _send(self, output: StepOutput) -> None:
        output.ended.extend(self._refused)
        self._refused = []
        self._activity.begin(Doing.IDLE)  # the kernel may not read just now
        self._deliver(output)

    def _fail(self, sequences: list[Sequence], cause: str) -> None:
        """End the tasks of some sequences."""
        for handle in dict.fromkeys(sequence.handle for sequence in sequences):
            error = BackendFailedError(f"the backend failed in a step: {cause}", metadata={"cause": cause})
            self._fail_task(handle, error)

    def _fail_source(self, task: Samples, cause: str) -> None:
        self._fail([task.leader], cause)

    def _fail_task(self, handle: int, error: InferdError) -> None:
        """End a task that may have ended already, with another of its samples."""
        if handle in self._tasks:
            task = self._tasks[handle]
            self._forget(task, failed=True)
            self._refused.append(Ended(handle=handle, error=error, usage=task.usage))

    def _forget(self, task: Samples, *, failed: bool = False) -> None:
        del self._tasks[task.leader.handle]
        self._owed.discard(task.leader)
        self._apart.drop(task.leader.handle)
        self._adapters.drop(task.leader.handle)
        self._suspects.drop(task.leader.handle)
        self._several -= task.several
        self._constrained -= task.constrained
        self._measured -= task.measured
        usage = task.usage
        self._places.settle(task.leader, task.share, usage.prompt_tokens + usage.output_tokens)
        for sequence in task.living:
            self._places.remove(sequence, failed=failed)
            self._aside.forget(sequence)
        if not self._tasks:
            self._places.start_anew()

    def _arrive(self, submission: Submission, task: Samples | InferdError) -> None:
        self._command(partial(self._admit, submission, task))

    def _command(self, command: Callable[[], None]) -> None:
        """Have the thread of the steps do something before its next step."""
        self._commands.append(command)
        self._wake.set()

    def _admit(self, submission: Submission, task: Samples | InferdError) -> None:
        handle = submission.handle
        try:
            if isinstance(task, InferdError):
                raise task
            self._adapters.check(submission.adapter, submission.adapter_name)
            hold = self._places.holds.find(submission.lease_id, submission.fencing_token)
        except InferdError as error:
            self._refused.append(Ended(handle=handle, error=error))
            for sequence in () if isinstance(task, InferdError) else task.living:
                self._aside.forget(sequence)
            return
        if not task.living:  # it had told its last token when it was moved, and the kernel not heard of its end
            self._refused.append(Ended(handle=handle, reason=present(task.reason), usage=task.usage))
            return
        self._tasks[handle] = task
        self._places.join(task.living, task.share, hold=hold)
        if task.leader.report.wanted:
            self._owed.add(task.leader)
        self._several += task.several
        self._constrained += task.constrained
        self._measured += task.measured
        self._adapters.when_there(handle, submission.adapter, partial(self._start, submission, task))

    def _start(self, submission: Submission, task: Samples) -> None:
        if not self._apart.put(task, submission):
            self._join(task, submission.alone)

    def _join(self, task: Samples, alone: bool) -> None:  # noqa: FBT001 - as `Apart` calls it
        if alone:
            self._suspects.add(task)
        for sequence in task.ready:
            self._go_on(sequence)

    def _drop(self, handle: int) -> None:
        if handle in self._tasks:
            self._forget(self._tasks[handle])
