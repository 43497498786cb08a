"""Text that comes in pieces, for parsers that are generators.

A parser asks the reader for what it wants next with `yield from`; where that is not there yet, the parser stands still
until a further piece comes. So each format is written down once, from its begin to its end, and how the text was cut
into pieces cannot matter.
"""

from __future__ import annotations

import re
from collections.abc import Generator
from functools import lru_cache
from typing import Final, TypeAlias, TypeVar

T = TypeVar("T")
Steps: TypeAlias = Generator[None, None, T]
"""What stands still where it needs more text, and gives a T in the end."""

SPACES: Final = " \t\r\n"


_AHEAD: Final = 256  # characters that are looked at before they are taken


class BrokenError(Exception):
    """The text does not go on as its format wants it."""


@lru_cache(maxsize=256)
def _finder(markers: tuple[str, ...]) -> tuple[re.Pattern[str], re.Pattern[str], int]:
    """What finds the first marker, longest first; what finds a proper head of one at the end, and how long that is."""
    ordered = sorted(markers, key=len, reverse=True)
    heads = {marker[:size] for marker in markers for size in range(1, len(marker))}
    ends = "|".join(map(re.escape, sorted(heads, key=len, reverse=True)))
    return re.compile("|".join(map(re.escape, ordered))), re.compile(rf"(?:{ends})\Z"), len(ordered[0]) - 1


class Reader:
    """What is not taken yet of a text, and what was taken since `record`.

    One writer: the parser that owns it. Each character is looked at a bounded number of times.
    """

    __slots__ = ("_at", "_cut", "_ended", "_record", "_text")

    def __init__(self) -> None:
        self._text = ""
        self._at = 0
        self._ended = False
        self._cut = False
        self._record: list[str] | None = None

    def push(self, text: str) -> None:
        """A further piece."""
        self._text = self._text[self._at :] + text
        self._at = 0

    def end(self, *, cut: bool) -> None:
        """Nothing comes behind the last piece, since the text is whole, or was cut off there."""
        self._ended = True
        self._cut = cut

    @property
    def cut(self) -> bool:
        """Whether all was taken, and the text was cut off there."""
        return self._cut and self._at == len(self._text)

    def record(self) -> None:
        """Keep what is taken from here on, see `recorded`."""
        self._record = []

    def recorded(self) -> str:
        """All that was taken since `record`, which ends with that."""
        text = "".join(self._record or ())
        self._record = None
        return text

    def take(self, count: int) -> str:
        """The next characters, which are there."""
        text = self._text[self._at : self._at + count]
        self._at += count
        if self._record is not None and text:
            self._record.append(text)
        return text

    def give_back(self, text: str) -> None:
        """What was taken last, with nothing between, is not taken."""
        self._at -= len(text)
        if self._record:
            self._record.pop()

    def buffer(self) -> tuple[str, int, bool]:
        """What is there, from which place on it is not taken, and whether nothing comes behind it."""
        return self._text, self._at, self._ended

    def more(self) -> Steps[bool]:
        """Wait for a further piece; False where none comes."""
        if self._ended:
            return False
        there = len(self._text) - self._at
        while len(self._text) - self._at == there:
            yield
            if self._ended:
                break
        return len(self._text) - self._at > there

    def ahead(self, count: int) -> Steps[str]:
        """The next characters without taking them: so many, or all that come."""
        while len(self._text) - self._at < count:
            if not (yield from self.more()):
                break
        return self._text[self._at : self._at + count]

    def skip(self, characters: str = SPACES) -> Steps[str]:
        """Take all that comes of these characters."""
        taken = []
        while True:
            end = self._at
            while end < len(self._text) and self._text[end] in characters:
                end += 1
            taken.append(self.take(end - self._at))
            if self._at < len(self._text) or not (yield from self.more()):
                return "".join(taken)

    def literal(self, *texts: str) -> Steps[str]:
        """Take the longest of these texts that comes next; "" where none of them does."""
        ordered = sorted(texts, key=len, reverse=True)
        while True:
            there = self._text[self._at : self._at + len(ordered[0])]
            for text in ordered:
                if there.startswith(text):
                    return self.take(len(text))
                if len(there) < len(text) and text.startswith(there) and not self._ended:
                    break  # it may come
            else:
                return ""
            yield from self.more()

    def comes(self, *texts: str) -> Steps[bool]:
        """Whether one of these texts comes next, white space apart; of "" whether the text is over. Takes nothing."""
        while True:
            there = self._text[self._at : self._at + _AHEAD].lstrip(SPACES)
            if any(there.startswith(text) if text else self._ended and not there for text in texts):
                return True
            if self._ended or not any(text.startswith(there) for text in texts) or len(self._text) - self._at >= _AHEAD:
                return False
            yield

    def expect(self, *texts: str) -> Steps[str]:
        """Take the one of these texts that comes next.

        Raises:
            BrokenError: None of them does.
        """
        found = yield from self.literal(*texts)
        if not found:
            raise BrokenError
        return found

    def until(self, *markers: str) -> Steps[tuple[str, str]]:
        """Take what comes before the first of the markers, as soon as it is there, but not the marker itself.

        Returns:
            A piece of text that may be empty; and the marker that comes behind it, or "": further pieces may come, or
            the text is over, where the piece is empty.
        """
        finder, heads, longest = _finder(markers)
        while True:
            found = finder.search(self._text, self._at)
            end = len(self._text)
            head = heads.search(self._text, max(self._at, end - longest)) if longest else None
            held = end - head.start() if head else 0
            if found and (self._ended or not held or end - held > found.start()):
                return self.take(found.start() - self._at), found.group()
            free = end if self._ended else end - held
            if free > self._at or self._ended:
                return self.take(free - self._at), ""
            yield

    def word(self, pattern: re.Pattern[str], *, most: int) -> Steps[str]:
        """Take all that comes of what the pattern matches, which is any run of some characters.

        Raises:
            BrokenError: There are more than `most`.
        """
        taken: list[str] = []
        size = 0
        while True:
            found = pattern.match(self._text, self._at)
            size += len(found.group()) if found else 0
            if size > most:
                raise BrokenError
            taken.append(self.take(len(found.group())) if found else "")
            if self._at < len(self._text) or not (yield from self.more()):
                return "".join(taken)
