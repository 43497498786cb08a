"""How many tokens of what a model writes are thoughts: those of the text that is told as such. Pure."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from codecs import getincrementaldecoder
from itertools import accumulate
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class Thoughts:
    """What one sample has thought, and its tokens. One writer: its reader.

    Attributes:
        token_ids: All tokens of the sample so far.
    """

    def __init__(self) -> None:
        self.token_ids: list[int] = []
        self._stretches: list[list[str]] = []
        self._goes_on = False

    def __bool__(self) -> bool:
        return bool(self._stretches)

    def think(self, text: str) -> None:
        """A piece of a thought."""
        if not self._goes_on:
            self._stretches.append([])
        self._stretches[-1].append(text)
        self._goes_on = True

    def end(self) -> None:
        """Something else was told: what is thought from here on is another thought."""
        self._goes_on = False

    def count(self, piece: Callable[[int], bytes]) -> int:
        """The tokens of which a part is in a thought; the markers around it are none of them.

        A thought that is not found in the text of the tokens, as one that is told in other words, counts by its share
        of the text.

        Args:
            piece: The bytes that a token adds to the text.
        """
        decoder = getincrementaldecoder("utf-8")("replace")
        texts = [decoder.decode(piece(token_id)) for token_id in self.token_ids]
        text, ends = "".join(texts), list(accumulate(map(len, texts)))
        at = found = 0
        for stretch in map("".join, self._stretches):
            begin = text.find(stretch, at)
            if begin < 0:
                found += _share(stretch, text, ends)
                continue
            at = begin + len(stretch)
            found += bisect_left(ends, at) - bisect_right(ends, begin) + 1
        return min(found, len(self.token_ids))


def _share(stretch: str, text: str, ends: Sequence[int]) -> int:
    return round(len(ends) * min(1.0, len(stretch) / len(text))) if text else 0
