"""Lines of the data of an evaluation, each read as what its task needs, and what a model is to be asked for it."""

from collections.abc import Iterator
from json import loads
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictInt,
    StrictStr,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)

from inferd.plugin import function

Kind = Literal["choice", "generation", "classification", "code", "judge"]
Words = Annotated[str, StringConstraints(min_length=1)]
MOST_CHOICES = 64
MOST_REFERENCES = 32
MOST_MESSAGES = 64
SHOWN = 80  # characters of a value that an error tells
MEMORY_BYTES = 256 << 20
PIECE_CHARACTERS = 64 << 10  # of lines that are told together
PIECE_LINES = 100


class Message(BaseModel):
    """One message of a conversation."""

    model_config = ConfigDict(extra="forbid")

    role: Literal["system", "user", "assistant"]
    content: str


class Line(BaseModel):
    """What every line has: a prompt, or a conversation in its place. Other fields say nothing."""

    prompt: str | None = None
    messages: Annotated[list[Message], Field(min_length=1, max_length=MOST_MESSAGES)] | None = None

    @model_validator(mode="after")
    def _check_given(self) -> "Line":
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give one of prompt and messages")
        if self.prompt == "":
            raise ValueError("prompt is empty; the model has to be given something")
        return self


class ChoiceLine(Line):
    """Which of some texts goes on best: `answer` is the place of the right one, from 0, or its text."""

    choices: Annotated[list[Words], Field(min_length=2, max_length=MOST_CHOICES)]
    answer: StrictInt | StrictStr

    @field_validator("answer", mode="before")
    @classmethod
    def _check_is_place(cls, value: object) -> object:
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise ValueError(f"{str(value)[:SHOWN]} is no place of a choice, from 0, and no text of one; give either")  # noqa: TRY004 - pydantic's
        return value

    @property
    def right(self) -> int:
        """The place of the right one."""
        return self.answer if isinstance(self.answer, int) else self.choices.index(self.answer)

    @model_validator(mode="after")
    def _check_answer(self) -> "ChoiceLine":
        last = len(self.choices) - 1
        if isinstance(self.answer, int) and not 0 <= self.answer <= last:
            raise ValueError(f"answer is {self.answer}; there are choices 0 to {last}")
        if isinstance(self.answer, str) and self.answer not in self.choices:
            raise ValueError(f"answer is {self.answer[:SHOWN]!r}, which is none of the choices")
        if len({*self.choices}) <= last:
            raise ValueError("two choices are the same")
        return self


class GenerationLine(Line):
    """What an answer is held against: `reference`, or several `references` of which the best counts."""

    reference: str | None = None
    references: Annotated[list[str], Field(min_length=1, max_length=MOST_REFERENCES)] | None = None

    @property
    def all(self) -> list[str]:
        """All that it is held against."""
        return self.references if self.references is not None else [self.reference or ""]

    @model_validator(mode="after")
    def _check_references(self) -> "GenerationLine":
        if (self.reference is None) == (self.references is None):
            raise ValueError("give one of reference and references")
        return self


class ClassificationLine(Line):
    """Of which of the labels of the task it is."""

    label: Words


class CodeLine(Line):
    """A program is to be written, of which the tests, Python, raise nothing."""

    tests: Words


class JudgeLine(Line):
    """An answer is rated; a good one may be given to whoever rates it."""

    reference: str | None = None


LINES: dict[str, type[Line]] = {
    "choice": ChoiceLine,
    "generation": GenerationLine,
    "classification": ClassificationLine,
    "code": CodeLine,
    "judge": JudgeLine,
}


class Asked(BaseModel):
    """What a model is asked for a line.

    Attributes:
        prompt: The text that it goes on with; None where it is given a conversation.
        messages: The conversation.
        choices: Of a choice, the texts whose likelihood is asked for.
        judged: What stands between the rubric and the answer when that is rated, and behind it; empty where it is not.
        tests: What a program has to pass; "" where none is written.
    """

    prompt: str | None = None
    messages: list[Message] | None = None
    choices: list[str] = []
    judged: list[str] = []
    tests: str = ""


def read_line(kind: Kind, text: str, number: int, labels: list[str]) -> Any:
    """A line, from its JSON.

    Raises:
        ValueError: It is none; says which and why.
    """
    try:
        found = LINES[kind].model_validate(loads(text))
        found.model_dump_json()  # what has half of a character cannot be told any further
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(f"line {number}: {f'{where}: ' if where else ''}{first['msg']}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"line {number} is no JSON object: {str(error)[:SHOWN]}") from None
    if isinstance(found, ClassificationLine) and found.label.strip() not in {label.strip() for label in labels}:
        known = ", ".join(repr(each[:SHOWN]) for each in labels[:10])
        raise ValueError(f"line {number}: label is {found.label[:SHOWN]!r}, and the labels of the task are {known}")
    return found


@function(timeout_s=120, memory_bytes=MEMORY_BYTES, internal=True)
def evaluation_items(  # noqa: PLR0917 - inputs have names
    kind: Kind,
    lines: list[str],
    labels: list[str] | None = None,
    chat: bool = False,  # noqa: FBT001, FBT002 - likewise
    check: bool = False,  # noqa: FBT001, FBT002 - likewise
    numbers: list[int] | None = None,
) -> Iterator[list[Asked]]:
    """Read lines of the data of an evaluation, each as what a model is asked for it.

    What all lines have in common, labels and a rubric, is not told with each.

    Args:
        kind: Of the task.
        lines: JSON objects.
        labels: Of a classification.
        chat: Put a prompt into a conversation, as what its user says.
        check: Give nothing; what is wrong with a line is told all the same.
        numbers: Of the lines, where they do not follow each other from 1.
    """
    piece: list[Asked] = []
    size = 0
    for number, text in zip(numbers or range(1, len(lines) + 1), lines, strict=True):
        line = read_line(kind, text, number, labels or [])
        if check:
            continue
        size += len(text)
        if piece and (size > PIECE_CHARACTERS or len(piece) == PIECE_LINES):
            yield piece
            piece, size = [], len(text)
        asked = Asked(prompt=line.prompt, messages=line.messages)
        if chat and line.prompt is not None:
            asked = Asked(messages=[Message(role="user", content=line.prompt)])
        if isinstance(line, ChoiceLine):
            asked.choices = line.choices
        elif isinstance(line, CodeLine):
            asked.tests = line.tests
        elif isinstance(line, JudgeLine):
            asked.judged = _judged(line)
        piece.append(asked)
    if piece:
        yield piece


def _judged(line: JudgeLine) -> list[str]:
    said = [f"{each.role}: {each.content}" for each in line.messages or ()]
    question = line.prompt if line.prompt is not None else "\n".join(said)
    good = "" if line.reference is None else f"\n\nA good answer:\n{line.reference}"
    return [f"\n\nQuestion:\n{question}{good}\n\nAnswer:\n", "\n\nRating (1 to 5): "]
