"""The names of control tokens, which give no text, put back to where they stand in an output."""

from __future__ import annotations

import codecs
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


class Spelling:
    """One output: texts and tokens come in pieces that need not be of the same tokens, as text may be held back.

    One writer: whoever feeds it.

    Args:
        names: Of the control tokens that are to be seen, by id.
        piece: Gives the bytes that a token adds to the text.
    """

    def __init__(self, names: Mapping[int, str], piece: Callable[[int], bytes]) -> None:
        self._names = names
        self._piece = piece
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._made = 0  # characters of the text of all tokens
        self._told = 0  # characters of the text that came
        self._marks: deque[tuple[int, str]] = deque()

    def add(self, text: str, token_ids: Sequence[int]) -> str:
        """The next text, with the names of the control tokens that stand in it or right behind it."""
        for token_id in token_ids:
            if name := self._names.get(token_id):
                self._marks.append((self._made, name))
            else:
                self._made += len(self._decoder.decode(self._piece(token_id)))
        parts: list[str] = []
        while self._marks and self._marks[0][0] <= self._told + len(text):
            place, name = self._marks.popleft()
            parts += (text[: place - self._told], name)
            text = text[place - self._told :]
            self._told = place
        self._told += len(text)
        return "".join([*parts, text])
