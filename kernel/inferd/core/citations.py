"""Answers that quote: the text of one as it is written, and where its quotations stand."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inferd.core.document_index import Found

HEX_DIGITS: Final = 4
SURROGATES: Final = range(0xD800, 0xE000)
HIGH: Final = range(0xD800, 0xDC00)


@dataclass(frozen=True, slots=True)
class Citation:
    """A place in a document; see `inferd.v1.Citation`."""

    passage: int
    document_id: str
    title: str
    start: int
    end: int
    quote: str


def cite(quote: str, passages: Sequence[Found]) -> Citation | None:
    """Where a quotation stands: letter by letter, or but for white space; None where it stands in no passage.

    What is cited is the document's own text at that place.
    """
    wanted = quote.strip()
    if not wanted:
        return None
    for number, passage in enumerate(passages):
        begin = passage.text.find(wanted)
        span = (begin, begin + len(wanted)) if begin >= 0 else _loosely(wanted, passage.text)
        if span is not None:
            return Citation(
                passage=number,
                document_id=passage.document_id,
                title=passage.title,
                start=passage.start + span[0],
                end=passage.start + span[1],
                quote=passage.text[span[0] : span[1]],
            )
    return None


def _loosely(wanted: str, text: str) -> tuple[int, int] | None:
    """Where it stands if white space counts for nothing."""
    places = [place for place, letter in enumerate(text) if not letter.isspace()]
    letters = "".join(text[place] for place in places)
    bare = "".join(wanted.split())
    begin = letters.find(bare)
    return None if begin < 0 else (places[begin], places[begin + len(bare) - 1] + 1)


class AnswerReader:
    """Reads the answer in a JSON object as it is written. One writer: who feeds it.

    Args:
        name: Of the member whose text it is.

    Attributes:
        text: All that has been written.
    """

    def __init__(self, name: str = "answer") -> None:
        self.text = ""
        self._key = json.dumps(name)
        self._at = -1  # where it reads on in the answer
        self._ended = False

    def feed(self, text: str) -> str:
        """What the answer goes on with."""
        self.text += text
        if self._at < 0:
            self._at = self._begin()
        if self._at < 0 or self._ended:
            return ""
        said = []
        while (letter := self._next()) is not None:
            said.append(letter)
        return "".join(said)

    def _begin(self) -> int:
        """Where the answer begins, behind its name, a colon and a quotation mark; -1 where that is not written yet."""
        key = self.text.find(self._key)
        if key < 0:
            return -1
        rest = self.text[key + len(self._key) :]
        value = rest.lstrip().removeprefix(":").lstrip()
        return len(self.text) - len(value) + 1 if value.startswith('"') else -1

    def _next(self) -> str | None:
        """The next letter of the answer; None where it is not whole yet, or the answer has ended."""
        letter = self.text[self._at : self._at + 1]
        if not letter or self._ended:
            return None
        if letter == '"':
            self._ended = True
            return None
        if letter != "\\":
            self._at += 1
            return letter
        kind = self.text[self._at + 1 : self._at + 2]
        if kind == "u":
            return self._unit()
        if not kind:
            return None
        self._at += 2
        return str(json.loads(f'"\\{kind}"'))

    def _unit(self) -> str | None:
        """A letter that is written by its number, of which some need two."""
        size = 2 + HEX_DIGITS
        first = self.text[self._at + 2 : self._at + size]
        if len(first) < HEX_DIGITS:
            return None
        if int(first, 16) in HIGH:
            both = self.text[self._at : self._at + 2 * size]
            if len(both) < 2 * size:
                return None
            size = 2 * size if both[size : size + 2] == "\\u" else size
        written = self.text[self._at : self._at + size]
        self._at += size
        letter: str = json.loads(f'"{written}"')
        return "\ufffd" if any(ord(each) in SURROGATES for each in letter) else letter

    def value(self) -> dict[str, Any]:
        """The whole object; what there is of it where it ended early: its answer."""
        try:
            read = json.loads(self.text)
        except ValueError:
            return {}
        return read if isinstance(read, dict) else {}
