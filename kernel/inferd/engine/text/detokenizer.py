"""Tokens to text, as they come."""

import codecs
from collections.abc import Sequence

Piece = str | bytes
"""What a token adds to the text: characters, or bytes that are no whole characters by themselves."""


_AT_ONCE = 4096  # tokens


class Detokenizer:
    """Joins the pieces of one sequence's tokens; gives whole characters only, at the level of code points.

    The texts that it gives, one after the other, are the UTF-8 decoding of all bytes, with U+FFFD for each longest
    invalid part (as Unicode 3.9 recommends, and as the `tokenizers` package decodes byte-level tokens).

    Args:
        pieces: Piece of each token, by id; shared between sequences.
    """

    __slots__ = ("_decoder", "_pending", "_pieces")

    def __init__(self, pieces: Sequence[Piece]) -> None:
        self._pieces = pieces
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._pending = False

    @property
    def pending(self) -> bool:
        """Whether a character is incomplete."""
        return self._pending

    def push(self, token_id: int) -> str:
        """The text that this token completes; "" while a character is incomplete."""
        piece = self._pieces[token_id]
        if self._pending or not isinstance(piece, str):
            return self._decode(piece)
        return piece

    def finish(self) -> str:
        """The text of a character that never was completed: U+FFFD or nothing."""
        self._pending = False
        return self._decoder.decode(b"", final=True)

    def _decode(self, piece: Piece) -> str:
        text = self._decoder.decode(piece.encode() if isinstance(piece, str) else piece)
        self._pending = bool(self._decoder.getstate()[0])
        return text


def decode(pieces: Sequence[Piece], token_ids: Sequence[int]) -> str:
    """The text of tokens, as a `Detokenizer` gives it; of many at once, and others may run in between.

    Args:
        pieces: Piece of each token, by id.
        token_ids: Each one that has a piece.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    texts = []
    for at in range(0, len(token_ids), _AT_ONCE):
        some = [pieces[number] for number in token_ids[at : at + _AT_ONCE]]
        texts.append(decoder.decode(b"".join(piece.encode() if isinstance(piece, str) else piece for piece in some)))
    return "".join(texts) + decoder.decode(b"", final=True)
