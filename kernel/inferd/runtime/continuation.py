"""What a task needs to go on elsewhere: what it has told so far, by sample."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field

from inferd.core.task import FinishReason
from inferd.core.task_events import Output, PromptOutput, TaskEvent, TensorOutput
from inferd_api.worker.v1 import task_pb2


@dataclass(slots=True)
class Told:
    """The tokens that a sample has told, and why it ended; UNSPECIFIED while it has not, or where there is no other."""

    token_ids: array[int] = field(default_factory=lambda: array("I"))
    reason: FinishReason = FinishReason.UNSPECIFIED


@dataclass(slots=True)
class Continuation:
    """Kept beside a task's stream until its end. One writer: the stream.

    Attributes:
        samples: By number; only those that have told something.
        prompt_told: Whether what was asked to be told of the prompt has been told.
        cached_tokens: Tokens of the prompt that were found in the prefix cache when it was begun; None until then.
        outputs: Sets of tensors that were told.
    """

    samples: dict[int, Told] = field(default_factory=dict)
    prompt_told: bool = False
    cached_tokens: int | None = None
    outputs: int = 0

    def take(self, event: TaskEvent) -> None:
        """The task has told something."""
        if isinstance(event, Output):
            told = self.samples.get(event.sample)
            if told is None:
                told = self.samples[event.sample] = Told()
            told.token_ids.extend(event.token_ids if event.computed is None else event.computed)
            if event.reason is not FinishReason.UNSPECIFIED:
                told.reason = event.reason
        elif isinstance(event, PromptOutput):
            self.prompt_told = True
        elif isinstance(event, TensorOutput):
            self.outputs += 1

    def extend(self, token_ids: array[int]) -> None:
        """Sample 0 has told more tokens."""
        told = self.samples.get(0)
        if told is None:
            told = self.samples[0] = Told()
        told.token_ids.extend(token_ids)

    def write(self) -> task_pb2.Continuation | None:
        """For the worker; None where nothing was begun."""
        if self.cached_tokens is None and not self.outputs:
            return None
        written = task_pb2.Continuation(
            prompt_told=self.prompt_told, cached_tokens=self.cached_tokens, outputs=self.outputs
        )
        for number, told in self.samples.items():
            written.samples.add(sample=number, token_ids=told.token_ids, finish_reason=told.reason.value)
        return written

    def unfinished(self, samples: int) -> set[int]:
        """Which of so many samples have not ended."""
        ended = {n for n, told in self.samples.items() if told.reason is not FinishReason.UNSPECIFIED}
        return set(range(samples)) - ended
