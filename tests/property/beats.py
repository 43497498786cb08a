"""The loop of the engine without its threads: its beats, one call after the other."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from inferd.core.task import Sampling, TokenInput
from inferd.engine.limits import EngineLimits
from inferd.engine.loop import Loop

if TYPE_CHECKING:
    from inferd.engine.batcher import Batcher
    from inferd.engine.output import Ended, StepOutput
    from inferd.plugin import LoadedModel

Place = tuple[int, int]
"""A task's handle and the number of its sample."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What is submitted."""

    prompt: tuple[int, ...]
    sampling: Sampling
    salt: bytes = b""
    prefix_cache: bool = True
    priority: int = 0


@dataclass(slots=True)
class Engine:
    """A loop, and what came out of it: tokens by handle and sample, and how tasks ended by handle."""

    model: LoadedModel
    limits: EngineLimits = field(default_factory=EngineLimits)
    outputs: dict[Place, list[int]] = field(default_factory=dict)
    ended: dict[int, Ended] = field(default_factory=dict)
    loop: Loop = field(init=False)

    def __post_init__(self) -> None:
        self.loop = Loop(self.model, self.limits, self._deliver)

    @property
    def batcher(self) -> Batcher:
        return self.loop._batcher

    @property
    def living(self) -> list[int]:
        return list(self.loop._tasks)

    def submit(self, handle: int, task: Task) -> None:
        for sample in range(task.sampling.n):
            self.outputs[handle, sample] = []
        self.loop.submit(
            handle,
            TokenInput(task.prompt),
            task.sampling,
            salt=task.salt,
            prefix_cache=task.prefix_cache,
            priority=task.priority,
        )
        submission = self.loop._submissions.get_nowait()
        assert submission is not None
        self.loop._prepared(submission)()

    def cancel(self, handle: int) -> None:
        self.loop._drop(handle)

    def preempt(self, number: int) -> None:
        """Take the row of one of the sequences that run."""
        if running := self.batcher.running:
            self.batcher._preempt(running[number % len(running)])

    def step(self) -> bool:
        """One beat; False when there is nothing to do."""
        if not self.loop._tasks and not self.loop._refused:
            return False
        self.loop._turn()
        return True

    def finish(self) -> None:
        """Beat until there is nothing to do; checks that every block came back."""
        beats = 0
        while self.step():
            beats += 1
            assert beats < 100_000, "the engine does not come to an end"
        assert self.batcher.pool.free == self.loop.bounds.blocks

    def play(self, tasks: list[Task], events: list[tuple[str, int]]) -> set[int]:
        """Let events happen, then submit what is left and run to the end; the handles that were cancelled.

        An event is one of "submit", "step", "preempt" and "cancel", with a number that chooses among what there is.
        """
        cancelled, handle = set(), 0
        for kind, number in events:
            if kind == "submit" and handle < len(tasks):
                self.submit(handle, tasks[handle])
                handle += 1
            elif kind == "preempt":
                self.preempt(number)
            elif kind == "cancel" and number % 3 == 0 and (living := self.living):
                self.cancel(living[number % len(living)])
                cancelled.add(living[number % len(living)])
            else:
                self.step()
        for rest in range(handle, len(tasks)):
            self.submit(rest, tasks[rest])
        self.finish()
        return cancelled

    def _deliver(self, output: StepOutput) -> None:
        samples = output.samples or [0] * len(output.handles)
        start = 0
        for handle, sample, count in zip(output.handles, samples, output.counts, strict=True):
            self.outputs[handle, sample] += output.token_ids[start : start + count]
            start += count
        assert start == len(output.token_ids)
        for ended in output.ended:
            assert ended.handle not in self.ended
            self.ended[ended.handle] = ended


def greedy(prompt: tuple[int, ...], *, max_tokens: int, **more: Any) -> Task:
    """A task whose output does not depend on its seed."""
    return Task(prompt=prompt, sampling=Sampling(temperature=0, max_tokens=max_tokens, ignore_eos=True), **more)
