"""What is known of a conversation: its messages, what they were about, and which of them a question is about."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from inferd_language.summaries import pick, sentences_of
from inferd_language.words import Lexicon, words_of

MOST_CHARACTERS = 150_000  # of messages that are kept; the oldest that state nothing go first
MOST_BYTES = 240_000  # of them as they are kept, which letters beyond ASCII reach before: functions.memo_bytes has more
TURN_BYTES = 40  # of a message beside its text
MOST_LINES = 6  # that are told again for one question
LEAST_SHARE = 0.6  # of how well the best line goes with a question, that others have to
CHARACTERS_PER_TOKEN = 3  # of lines that are told again: from below
STATED = 0.5  # how much more a line counts in which somebody says something of themselves
SELF = frozenset({"i", "my", "me", "mine", "we", "our", "us", "remember", "name", "call"})


@dataclass(slots=True)
class Turn:
    """One message.

    Attributes:
        role: Who says it.
        text: What.
        tokens: How many it has; 0 where that is not known.
    """

    role: str
    text: str
    tokens: int = 0


@dataclass(slots=True)
class Memory:
    """A conversation.

    Attributes:
        turns: Its messages, oldest first.
        number: Turns so far: messages of the user, those too that are kept no longer.
        notes: What older messages were about.
        noted: So many of the messages are in the notes.
        counted: The model whose tokens are those of the messages.
    """

    turns: list[Turn] = field(default_factory=list)
    number: int = 0
    notes: str = ""
    noted: int = 0
    counted: str = ""

    @classmethod
    def read(cls, plain: Any) -> Memory:
        """What was written; nothing of None."""
        if plain is None:
            return cls()
        turns = [Turn(*each) for each in plain["turns"]]
        return cls(
            turns=turns,
            number=plain["number"],
            notes=plain["notes"],
            noted=plain["noted"],
            counted=plain.get("counted", ""),
        )

    def write(self) -> dict[str, Any]:
        """As plain values."""
        turns = [[each.role, each.text, each.tokens] for each in self.turns]
        return {
            "turns": turns,
            "number": self.number,
            "notes": self.notes,
            "noted": self.noted,
            "counted": self.counted,
        }

    @property
    def tokens(self) -> int:
        """Of all messages."""
        return sum(each.tokens for each in self.turns)

    def add(self, *turns: Turn) -> None:
        """Messages at the end; where they are too many the oldest go, those first that state nothing."""
        self.turns += turns
        self.number += sum(each.role == "user" for each in turns)
        sizes = [_bytes_of(each) for each in self.turns]
        size, size_bytes = sum(len(each.text) for each in self.turns), sum(sizes)
        for stays in (_states, lambda _: False):
            place = 0
            while (size > MOST_CHARACTERS or size_bytes > MOST_BYTES) and place < len(self.turns) - len(turns):
                if stays(self.turns[place].text):
                    place += 1
                    continue
                size -= len(self.turns.pop(place).text)
                size_bytes -= sizes.pop(place)
                self.noted -= place < self.noted

    def fitting(self, room: int, frame: int) -> int:
        """From which message on the last ones fit into so many tokens, each with its frame."""
        begin = len(self.turns)
        while begin and (room := room - self.turns[begin - 1].tokens - frame) >= 0:
            begin -= 1
        return begin

    def recalled(self, question: str, before: int, room: int) -> list[str]:
        """Lines of messages before one that a question is about, in their order, in so many tokens."""
        lines = [line for each in self.turns[:before] if each.role == "user" for line in sentences_of(each.text)]
        lines = list(dict.fromkeys(line for line in lines if not line.endswith("?")))
        scores = Lexicon(lines).scores(question)
        values = [score * (1 + STATED * _states(line)) for score, line in zip(scores, lines, strict=True)]
        chosen, left = [], room * CHARACTERS_PER_TOKEN
        least = LEAST_SHARE * max(values, default=0.0)
        for n in sorted(range(len(lines)), key=lambda n: -values[n])[:MOST_LINES]:
            if values[n] > 0 and values[n] >= least and len(lines[n]) <= left:
                chosen.append(n)
                left -= len(lines[n])
        return [lines[n] for n in sorted(chosen)]


def picked_notes(text: str, most_characters: int) -> str:
    """Sentences of a conversation that say most of it."""
    return pick(text, most_characters)


def _bytes_of(turn: Turn) -> int:
    return TURN_BYTES + len(json.dumps(turn.text, ensure_ascii=False).encode(errors="replace"))


def _states(text: str) -> bool:
    """Whether somebody says something of themselves, or wants something remembered."""
    return not text.rstrip().endswith("?") and bool(SELF & set(words_of(text)))
