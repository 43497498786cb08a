"""What a task gave, once it has ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from inferd_api.v1.task_pb2 import Finished, FinishReason, Output, Receipt, TaskEvent, TokenLogprobs, Usage

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One of the outputs of a task.

    Attributes:
        text: The output, behind the prompt where `echo` asked for that.
        token_ids: The output as token ids.
        logprobs: Of each of its tokens, where they were asked for; of the prompt see `Generation.prompt_logprobs`.
        finish_reason: Why it ended: "END_OF_TEXT", "STOP_STRING" or "MAX_TOKENS".
    """

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprobs, ...]
    finish_reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """What a task gave.

    Attributes:
        task_id: The task.
        samples: Its outputs; one, unless `n` asked for more.
        prompt_logprobs: Of each token of the prompt but the first, where they were asked for.
        usage: Tokens in and out.
        receipt: What it cost.
    """

    task_id: str
    samples: tuple[Sample, ...]
    prompt_logprobs: tuple[TokenLogprobs, ...]
    usage: Usage
    receipt: Receipt

    @property
    def text(self) -> str:
        """The first output."""
        return self.samples[0].text

    @property
    def token_ids(self) -> tuple[int, ...]:
        """The first output as token ids."""
        return self.samples[0].token_ids

    @property
    def logprobs(self) -> tuple[TokenLogprobs, ...]:
        """Of each token of the first output, where they were asked for."""
        return self.samples[0].logprobs

    @property
    def cut(self) -> bool:
        """Whether an output ended because it had as many tokens as it may have."""
        return any(sample.finish_reason == "MAX_TOKENS" for sample in self.samples)

    @property
    def finish_reason(self) -> str:
        """Why the first output ended: "END_OF_TEXT", "STOP_STRING" or "MAX_TOKENS"."""
        return self.samples[0].finish_reason


def collect(events: Iterable[TaskEvent]) -> Generation:
    """Fold the events of a task that succeeded into what it gave."""
    task_id, finished = "", Finished()
    outputs: dict[int, list[Output]] = {0: []}  # by sample
    for event in events:
        task_id = event.task_id
        if event.HasField("output"):
            outputs.setdefault(event.output.sample, []).append(event.output)
        elif event.HasField("finished"):
            finished = event.finished
    return Generation(
        task_id=task_id,
        samples=tuple(_sample(outputs[number], finished) for number in sorted(outputs)),
        prompt_logprobs=tuple(each for output in outputs[0] for each in output.prompt_logprobs),
        usage=finished.usage,
        receipt=finished.receipt,
    )


def _sample(outputs: Sequence[Output], finished: Finished) -> Sample:
    reasons = [output.finish_reason for output in outputs if output.finish_reason]  # told where there are several
    return Sample(
        text="".join(output.text for output in outputs),
        token_ids=tuple(token_id for output in outputs for token_id in output.token_ids),
        logprobs=tuple(each for output in outputs for each in output.logprobs),
        finish_reason=FinishReason.Name((reasons or [finished.reason])[-1]).removeprefix("FINISH_REASON_"),
    )
