"""Parts of a text that was written of a sound, each with when it was said, by the tokens of time in it."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inferd.plugin.recipe import TimeTokens

LENGTH: Final = "seconds"
"""The input that says how long a sound is."""


class Segment(NamedTuple):
    """A part of a text, and from when to when it was said, in seconds from the begin of the sound."""

    text: str
    begin_s: float
    end_s: float


class Segments:
    """Finds the segments of a text, row by row.

    Args:
        times: Which tokens are times.
        length_s: Of the sound; infinite where it is not known.
    """

    def __init__(self, times: TimeTokens, length_s: float = inf) -> None:
        self._times = times
        self._length_s = length_s
        self._row_s = 0.0  # where the row begins
        self._begin_s: float | None = None
        self._text = ""

    def add(self, token_ids: Sequence[int], text: str) -> list[Segment]:
        """The segments that tokens of a row end, and the text that they add, which is none for times."""
        found: list[Segment] = []
        self._text += text
        for token_id in token_ids:
            if (at := self._times.seconds(token_id)) is None:
                continue
            moment_s = self._row_s + at
            if self._begin_s is None or not self._text:
                self._begin_s = moment_s
            else:
                found += self._close(moment_s)
        return found

    def end_row(self) -> list[Segment]:
        """What is left of a row at its end: what is said last may go on up to it."""
        self._row_s += self._times.row_s
        if self._begin_s is None:
            self._begin_s = self._row_s - self._times.row_s
        return self._close(self._row_s)

    def _close(self, end_s: float) -> list[Segment]:
        text, begin_s = self._text, min(self._begin_s or 0.0, self._length_s)
        self._text, self._begin_s = "", None
        return [Segment(text, begin_s, min(end_s, self._length_s))] if text.strip() else []
