"""What is told of tokens besides their text."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol, Self


class Told(Protocol):
    """How a worker tells it."""

    chat_template: str
    tool_use_template: str

    @property
    def control_tokens(self) -> Mapping[int, str]:
        """By id."""


class Writing(NamedTuple):
    """How the texts of a language model are written: its templates, and how its control tokens are, by id."""

    chat_template: str
    tool_use_template: str
    control_tokens: Mapping[int, str]

    @classmethod
    def of(cls, told: Told) -> Self:
        """As a worker tells it."""
        return cls(told.chat_template, told.tool_use_template, dict(told.control_tokens))


class Detokenized(NamedTuple):
    """The text of tokens; the bytes of each and the model's writing where they were asked for."""

    text: str
    pieces: Sequence[bytes]
    writing: Writing | None
