"""The loop of the engine without its threads: its beats, one call after the other."""

from __future__ import annotations

import threading
from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from shared_cells import fake_cells

from inferd.core.priority import Priority
from inferd.core.task import FinishReason
from inferd.engine.token.limits import EngineLimits
from inferd.engine.token.loop import Loop
from inferd.engine.token.places import NO_BLOCK
from inferd.engine.token.submission import NO_SHARE, Continuation, SampleSoFar, Share, Submission
from inferd.engine.work import TokenInput
from inferd.plugin import LoadRequest, least_window_blocks
from inferd.sampling import Sampling
from inferd.testing.fake import VOCABULARY, FakeBackend
from inferd.testing.kernel import write_fake_model

if TYPE_CHECKING:
    from pathlib import Path

    from inferd.core.task_events import Logprobs, PromptOutput
    from inferd.engine.token.output import Ended, StepOutput
    from inferd.engine.token.places import Places
    from inferd.engine.token.step import Step
    from inferd.engine.work import Embedding
    from inferd.plugin import LoadedModel

DEADLINE_S = 60.0

Place = tuple[int, int]
"""A task's handle and the number of its sample."""


class IdleError(Exception):
    """The loop has nothing to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What is submitted."""

    prompt: tuple[int, ...]
    sampling: Sampling
    salt: bytes = b""
    prefix_cache: bool = True
    priority: int = Priority.NORMAL
    share: Share = NO_SHARE
    embedding: Embedding | None = None
    lease_id: str = ""
    alone: bool = False


@dataclass(frozen=True, slots=True)
class Held:
    """What was last said of a lease."""

    fencing_token: int
    rows: int
    blocks: int


@dataclass(slots=True)
class Engine:
    """A loop, and what came out of it, by handle and sample or by handle."""

    model: LoadedModel
    limits: EngineLimits = field(default_factory=EngineLimits)
    outputs: dict[Place, list[int]] = field(default_factory=dict)
    texts: defaultdict[Place, str] = field(default_factory=lambda: defaultdict(str))
    logprobs: defaultdict[Place, list[Logprobs]] = field(default_factory=lambda: defaultdict(list))
    prompts: dict[int, PromptOutput] = field(default_factory=dict)
    vectors: dict[int, tuple[float, ...]] = field(default_factory=dict)
    ended: dict[int, Ended] = field(default_factory=dict)
    held: dict[str, Held] = field(default_factory=dict)
    refused: set[int] = field(default_factory=set)  # they came under a lease that had given its hold back
    tasks: dict[int, Task] = field(default_factory=dict)
    reasons: dict[Place, FinishReason] = field(default_factory=dict)
    cached: dict[int, int] = field(default_factory=dict)
    stopped: list[int] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    alone: list[int] = field(default_factory=list)
    preempted: int = 0
    expects_refusals: bool = False  # else a step that the session refuses is a defect of the engine
    loop: Loop = field(init=False)

    def __post_init__(self) -> None:
        # Grammars may be late on a busy machine, but none is given up.
        grammar = replace(self.limits.grammar, compile_s=DEADLINE_S, step_s=DEADLINE_S)
        limits = replace(self.limits, grammar=grammar)
        cells = fake_cells() if self.model.vocabulary is VOCABULARY else None
        self.loop = Loop(self.model, limits, self._deliver, cells=cells)
        self.loop._wake.wait = self._idle  # type: ignore[method-assign] # there is no other thread to wait for
        schedule, schedule_alone = self.loop._batcher.schedule, self.loop._batcher.schedule_alone

        def checked_alone(handle: int) -> Step | None:
            step = schedule_alone(handle)
            self._check_holds()
            if step is not None:
                self.steps.append(step)
                assert {sequence.handle for sequence in step.sequences} == {handle}
            return step

        self.loop._batcher.schedule_alone = checked_alone  # type: ignore[method-assign] # as below

        def checked(**options: Any) -> Step | None:
            step = schedule(**options)
            self._check_holds()
            if step is not None:
                self.steps.append(step)
                for length, table in zip(step.batch.lengths, step.batch.block_tables, strict=True):
                    assert np.count_nonzero(table != NO_BLOCK) == self.places.pool.blocks_for(int(length))
                self._check_windows(step)
            return step

        self.loop._batcher.schedule = checked  # type: ignore[method-assign] # checks what holds for every step

    @property
    def places(self) -> Places:
        return self.loop._places

    @property
    def living(self) -> list[int]:
        return list(self.loop._tasks)

    @property
    def suspended(self) -> list[int]:
        return sorted(self.stopped)

    def submit(self, handle: int, task: Task) -> None:
        self.tasks[handle] = task
        for sample in range(1 if task.embedding else task.sampling.n):
            self.outputs[handle, sample] = []
        self._put(handle, None)

    def _put(self, handle: int, continuation: Continuation | None) -> None:
        task = self.tasks[handle]
        held = self.held.get(task.lease_id)
        if held is not None and not held.rows and not held.blocks:
            self.refused.add(handle)
        self.loop.submit(
            Submission(
                handle,
                TokenInput(task.prompt),
                task.sampling,
                salt=task.salt,
                prefix_cache=task.prefix_cache,
                priority=task.priority,
                share=task.share,
                embedding=task.embedding,
                lease_id=task.lease_id,
                fencing_token=0 if held is None else held.fencing_token,
                continuation=continuation,
                alone=task.alone,
            )
        )
        self.loop._wake.clear()
        reception = self.loop._reception
        reception.turn()
        if not reception._turns.empty():  # what is slow has a thread of its own elsewhere
            reception._see_to(reception._turns.get())
        assert threading.Event.wait(self.loop._wake, DEADLINE_S)  # a grammar is opened in another thread
        self._obey()

    @property
    def running(self) -> list[int]:
        """The tasks that have a row, in the order of their rows."""
        return list(dict.fromkeys(sequence.handle for sequence in self.places.rows))

    def cancel(self, handle: int) -> None:
        self.loop.cancel(handle)
        self._obey()

    def suspend(self, handle: int) -> None:
        """Drop a task, as the kernel does, and keep what it has told."""
        self.cancel(handle)
        self.stopped.append(handle)
        assert handle not in self.running

    def resume(self, handle: int) -> None:
        """Let a task go on behind what it has told."""
        self.stopped.remove(handle)
        self._put(handle, self._continuation(handle))

    def move(self, handle: int, other: Engine) -> None:
        """Let a task that was suspended here go on in another engine."""
        self.stopped.remove(handle)
        other.tasks[handle] = self.tasks[handle]
        for mine, theirs in ((self.outputs, other.outputs), (self.texts, other.texts), (self.logprobs, other.logprobs)):
            theirs.update({place: told for place, told in mine.items() if place[0] == handle})  # type: ignore[arg-type]
        other.prompts |= self.prompts
        other._put(handle, self._continuation(handle))

    def _continuation(self, handle: int) -> Continuation | None:
        told = {
            sample: SampleSoFar(tuple(ids), self.reasons.get((h, sample), FinishReason.UNSPECIFIED))
            for (h, sample), ids in self.outputs.items()
            if h == handle and ids
        }
        if handle not in self.cached:
            return None
        prompt_told = handle in self.prompts
        return Continuation(samples=told, prompt_told=prompt_told, cached_tokens=self.cached[handle])

    def hold(self, lease_id: str, *, rows: int, blocks: int) -> None:
        """Hold so much for a lease by a new grant, or give it back by the old one."""
        token = self.held[lease_id].fencing_token if lease_id in self.held else 0
        token += bool(rows or blocks)
        self.held[lease_id] = Held(token, rows, blocks)
        self.loop.hold(lease_id, token, sequences=rows, kv_tokens=blocks * self.loop.bounds.block_tokens)
        self._obey()

    def preempt(self, number: int) -> None:
        """Take the row of one of the sequences that run."""
        if running := self.places.rows:
            self.places.preempt(running[number % len(running)])

    def step(self) -> bool:
        """One beat; False when there is nothing to do."""
        try:
            self.loop._turn()
        except IdleError:
            return False
        return True

    def finish(self) -> None:
        """Beat until all tasks have ended; checks that all that fit beside the holds do, and that blocks came back."""
        self._beat()
        for handle in self.living:
            for sequence in self.loop._tasks[handle].ready:
                assert not self.places._admission.fits_alone(sequence)
        for lease_id in self.held:
            self.hold(lease_id, rows=0, blocks=0)
        self._beat()
        assert not self.living
        assert self.loop.refusals == 0 or self.expects_refusals
        assert self.places.pool.free == self.loop.bounds.blocks
        assert self.places.windows is None or self.places.windows.pool.free == self.loop.bounds.window_blocks
        assert self.places.holds.kept_rows == self.places.holds.kept_blocks == 0

    def play(self, tasks: list[Task], events: list[tuple[str, int]]) -> set[int]:
        """Let events happen, then submit what is left and run to the end; the handles that were cancelled.

        An event is one of "submit", "step", "preempt", "cancel", "suspend", "resume" and "hold", with a number that
        chooses among what there is.
        """
        cancelled, handle = set(), 0
        for kind, number in events:
            running = sorted(self.living)
            if kind == "submit" and handle < len(tasks):
                self.submit(handle, tasks[handle])
                handle += 1
            elif kind == "preempt":
                self.preempt(number)
            elif kind == "suspend" and running:
                self.suspend(running[number % len(running)])
            elif kind == "resume" and self.suspended:
                self.resume(self.suspended[number % len(self.suspended)])
            elif kind == "hold":
                part, bounds = number // 2 % 4, self.loop.bounds  # two leases hold up to 3/8 each, rounded up
                self.hold(f"l{number % 2}", rows=bounds.rows * part // 8, blocks=-(-bounds.blocks * part // 8))
            elif kind == "cancel" and number % 3 == 0 and (living := self.living):  # what is suspended is the kernel's
                self.cancel(living[number % len(living)])
                cancelled.add(living[number % len(living)])
            else:
                self.step()
        for stopped in self.suspended:
            self.resume(stopped)
        for rest in range(handle, len(tasks)):
            self.submit(rest, tasks[rest])
        self.finish()
        return cancelled

    def _beat(self) -> None:
        beats = 0
        while self.step():
            beats += 1
            assert beats < 4_000, "the engine does not come to an end"

    def _obey(self) -> None:
        """Carry out what was asked of the loop."""
        while self.loop._commands:
            self.loop._commands.popleft()()

    def _check_holds(self) -> None:
        """What is held and not taken is free, counted anew."""
        rows, blocks = defaultdict[str, int](int), defaultdict[str, set[int]](set)
        for sequence in self.places.rows:
            for lease_id, hold in self.places.holds._leases.items():
                if sequence.place.hold is hold:
                    rows[lease_id] += 1
                    blocks[lease_id].update(sequence.place.blocks)
        kept_rows = sum(max(0, held.rows - rows[lease_id]) for lease_id, held in self.held.items())
        kept_blocks = sum(max(0, held.blocks - len(blocks[lease_id])) for lease_id, held in self.held.items())
        assert self.places.holds.kept_rows == kept_rows
        assert self.places.holds.kept_blocks == kept_blocks
        assert self.loop.bounds.rows - len(self.places.rows) >= kept_rows
        assert self.places.pool.free >= kept_blocks

    def _check_windows(self, step: Step) -> None:
        """No row has more blocks of windows than its window and its tokens of the step need at most."""
        bounds, batch = self.loop.bounds, step.batch
        assert (batch.window_tables is None) == (bounds.window_blocks == 0)
        if batch.window_tables is not None:
            most = least_window_blocks(
                window_tokens=bounds.window_tokens, block_tokens=bounds.block_tokens, sequences=1, step_tokens=0
            )
            held = np.count_nonzero(batch.window_tables != NO_BLOCK, axis=1)
            assert (held <= most + np.diff(batch.starts) // bounds.block_tokens).all()

    def _idle(self, timeout: float | None = None) -> None:  # noqa: ARG002 - the name is Event.wait's
        if not len(self.loop._aside):
            raise IdleError
        assert threading.Event.wait(self.loop._wake, DEADLINE_S)  # a grammar was late

    def _deliver(self, output: StepOutput) -> None:
        samples = output.samples or [0] * len(output.handles)
        self.preempted += output.preempted
        start = 0
        for place, each in enumerate(zip(output.handles, samples, strict=True)):
            assert each[0] not in self.stopped
            self.outputs[each] += output.token_ids[start : start + output.counts[place]]
            self.texts[each] += output.texts[place]
            start += output.counts[place]
            if place in output.logprobs:
                self.logprobs[each].append(output.logprobs[place])
        assert start == len(output.token_ids)
        assert not self.prompts.keys() & output.prompts.keys()
        self.vectors |= output.embeddings
        self.alone += [] if output.alone is None else [output.alone]
        self.cached |= output.begun_prompts
        self.reasons |= {(end.handle, end.sample): end.reason for end in output.sample_ends}
        self.prompts |= output.prompts
        for ended in output.ended:
            assert ended.handle not in self.ended
            self.ended[ended.handle] = ended


def make_engine(folder: Path, limits: EngineLimits | None = None, **behaviour: Any) -> Engine:
    """An engine over the fake backend; a new folder for each."""
    request = LoadRequest(path=write_fake_model(folder, **behaviour), device="fake:0", capacity_bytes=1 << 30)
    return Engine(FakeBackend().load(request, lambda _: None), limits or EngineLimits())


def greedy(prompt: tuple[int, ...], *, max_tokens: int, **more: Any) -> Task:
    """A task whose output does not depend on its seed."""
    return Task(prompt=prompt, sampling=Sampling(temperature=0, max_tokens=max_tokens, ignore_eos=True), **more)
