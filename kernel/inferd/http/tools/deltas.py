"""What of a model's text goes to a client: contents, reasoning, and calls of tools, piece by piece."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Content:
    """A piece of the answer; never empty."""

    text: str


@dataclass(frozen=True, slots=True)
class Reasoning:
    """A piece of what the model thinks before it answers; never empty."""

    text: str


@dataclass(frozen=True, slots=True)
class CallBegun:
    """A call of a tool.

    Attributes:
        index: Which of the answer's calls, from 0.
        call_id: By which its result is given back; the model's own where its format has ids.
        name: Of the tool, as the model wrote it; it need not be one of those that were offered.
    """

    index: int
    call_id: str
    name: str


@dataclass(frozen=True, slots=True)
class Arguments:
    """A piece of the arguments of the call `index`. All pieces of one together are a JSON object."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class CallEnded:
    """A call is over.

    Attributes:
        index: Which.
        complete: Whether its arguments are a whole JSON object. They may not be where they were too long to be held
            back until that was known, and the model broke off or erred.
    """

    index: int
    complete: bool


@dataclass(frozen=True, slots=True)
class Stray:
    """What a model wrote that is for nobody.

    The begin of a call in which an answer was cut off, text between calls where the format has none, a message to a
    tool that is not there. It is no content, and lost to nobody who wants it.
    """

    text: str


Delta: TypeAlias = Content | Reasoning | CallBegun | Arguments | CallEnded | Stray
"""Of one answer: contents, reasoning and calls as they come."""


def joined(deltas: list[Delta]) -> list[Delta]:
    """The same with pieces of one kind that follow each other as one."""
    found: list[Delta] = []
    for delta in deltas:
        last = found[-1] if found else None
        if isinstance(delta, Content) and isinstance(last, Content):
            found[-1] = Content(last.text + delta.text)
        elif isinstance(delta, Reasoning) and isinstance(last, Reasoning):
            found[-1] = Reasoning(last.text + delta.text)
        elif isinstance(delta, Stray) and isinstance(last, Stray):
            found[-1] = Stray(last.text + delta.text)
        elif isinstance(delta, Arguments) and isinstance(last, Arguments) and last.index == delta.index:
            found[-1] = Arguments(last.index, last.text + delta.text)
        else:
            found.append(delta)
    return found
