"""What one step produced, as far as it may be shown, and what rules say of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from inferd.engine.token.output import StepOutput


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
