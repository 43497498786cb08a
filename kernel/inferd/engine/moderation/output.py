"""What one step produced, as far as it may be shown, and what rules say of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from inferd.engine.token.output import StepOutput

if TYPE_CHECKING:
    from collections.abc import Iterator

    from inferd.core.task_events import Logprobs


@dataclass(frozen=True, slots=True)
class Moderated:
    """A rule cut so many spans of the output of a sample, or ended it there."""

    handle: int
    sample: int
    rule: str
    action: str
    spans: int


@dataclass(frozen=True, slots=True)
class Flag:
    """A rule found what a person is to look at, in what a task was given (`is_input`) or gives."""

    handle: int
    rule: str
    excerpt: str
    is_input: bool


@dataclass(frozen=True, slots=True)
class Question:
    """A classifier is asked about a text; `number` names the question among those of its task."""

    handle: int
    sample: int
    number: int
    rule: str
    text: str


@dataclass(slots=True, kw_only=True)
class ScreenedOutput(StepOutput):
    """What may be shown of a step, or of several.

    Attributes:
        computed: What the model chose, by place in `handles`, where something was cut.
        moderated: What rules cut.
        flags: What persons are to look at.
        questions: What classifiers are asked.
    """

    computed: dict[int, list[int]] = field(default_factory=dict)
    moderated: list[Moderated] = field(default_factory=list)
    flags: list[Flag] = field(default_factory=list)
    questions: list[Question] = field(default_factory=list)

    @property
    def empty(self) -> bool:
        """Whether there is nothing to send."""
        return not (
            self.handles
            or self.ended
            or self.prefills
            or self.sample_ends
            or self.embeddings
            or self.begun_prompts
            or self.prompts
            or self.moderated
            or self.flags
            or self.questions
            or self.seconds
            or self.alone is not None
        )


def parts_of(output: StepOutput) -> Iterator[tuple[int, int, list[int], str, int]]:
    """What a step says of each sample: handle, sample, token ids, text, and its place in `handles`."""
    start = 0
    for place, (handle, count, text) in enumerate(zip(output.handles, output.counts, output.texts, strict=True)):
        sample = output.samples[place] if output.samples else 0
        yield handle, sample, output.token_ids[start : start + count], text, place
        start += count


def pass_on(
    output: StepOutput,
    whose: tuple[int, int],
    token_ids: list[int],
    text: str,
    *,
    logprobs: Logprobs | None,
    several: bool,
) -> None:
    """Have an output say something of a sample of a task, whose handle and number these are."""
    handle, sample = whose
    place = len(output.handles)
    output.handles.append(handle)
    output.counts.append(len(token_ids))
    output.token_ids += token_ids
    output.texts.append(text)
    if several and not output.samples:
        output.samples = [0] * place
    if output.samples or several:
        output.samples.append(sample)
    if logprobs is not None:
        output.logprobs[place] = logprobs
