"""The tokens of a model as llguidance wants them described."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Final

from llguidance import LLTokenizer, TokenizerWrapper

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inferd.engine.text.tokenizer import Tokenizer

_SPECIAL: Final = b"\xff"  # llguidance's mark in front of the name of a token that gives no text
_LONGEST_WORD: Final = 64  # bytes


def make_tokenizer(tokenizer: Tokenizer, ends: Sequence[int]) -> LLTokenizer:
    """What grammars are compiled for; slow.

    Args:
        tokenizer: The model's.
        ends: Tokens that end a text, at least one.
    """
    return LLTokenizer(TokenizerWrapper(_Words(tokenizer, ends)), eos_token=list(ends))


class _Words:
    """The tokens, and how a text becomes tokens."""

    bos_token_id: Final = None

    def __init__(self, tokenizer: Tokenizer, ends: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self.eos_token_id = ends[0]
        self.tokens = [piece.encode() if isinstance(piece, str) else piece for piece in tokenizer.pieces]
        self.special_token_ids = []
        for number, word in enumerate(self.tokens):
            if word.startswith(_SPECIAL):  # a byte that is in no UTF-8 text, so never allowed
                self.tokens[number] = b""
            elif not word and (name := tokenizer.name(number)):
                self.tokens[number] = _SPECIAL + name.encode()
                self.special_token_ids.append(number)

    def __call__(self, text: str | bytes) -> list[int]:
        """Tokens of exactly this text: where a grammar leaves no choice, they are the model's own for it."""
        if isinstance(text, bytes):
            raise TypeError("a text, not bytes")  # so that llguidance keeps incomplete characters to itself
        ids = self._tokenizer.encode(text, template=True)
        data = text.encode()
        known = max(ids, default=0) < len(self.tokens)  # a tokenizer may have more tokens than there are logits
        if known and b"".join(self.tokens[number] for number in ids) == data:
            return list(ids)
        return self._greedy(data)  # the tokenizer puts a space in front of a text, or changes its characters

    def _greedy(self, data: bytes) -> list[int]:
        """The longest token first."""
        ids, at = [], 0
        while at < len(data):
            end = next(end for end in range(min(len(data), at + _LONGEST_WORD), at, -1) if data[at:end] in self._ids)
            ids.append(self._ids[data[at:end]])
            at = end
        return ids

    @cached_property
    def _ids(self) -> dict[bytes, int]:
        return {word: number for number, word in enumerate(self.tokens) if word}
