"""DRY: what would go on repeating a stretch of the text is made less likely, the more the longer that is.

P. E. Weidmann, DRY: A modern repetition penalty, 2024, https://github.com/oobabooga/text-generation-webui/pull/5677, as
llama.cpp has it. All of it follows from the tokens of prompt and output.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from inferd.engine.text.detokenizer import Piece
    from inferd.plugin.session import Float32Array, Int32Array
    from inferd.sampling import Sampling

MOST_REPEATED: Final = 512
"""Tokens of a repeated stretch that count."""

MOST_TAKEN: Final = 10_000.0
"""Is taken of a logit at most: then it is chosen only where nothing else is left."""

_ROOM: Final = 64  # tokens that a sequence may come to hold before its table grows
_BEFORE: Final = 256  # tokens before the window of whose text a break may begin


class Dry(NamedTuple):
    """What a task asks for, in terms of tokens.

    Attributes:
        multiplier: Is taken for a stretch of `allowed` tokens.
        base: So many times that for each further token.
        allowed: Tokens that may be repeated.
        window: The last tokens that are looked at.
        breaks: Texts over which nothing repeats itself.
        pieces: What each token adds to a text, by id.
    """

    multiplier: float
    base: float
    allowed: int
    window: int
    breaks: tuple[bytes, ...]
    pieces: Sequence[Piece]

    @classmethod
    def of(cls, s: Sampling, pieces: Sequence[Piece]) -> Dry | None:
        """What is asked for; None for nothing."""
        if not s.dry_multiplier:
            return None
        breaks = tuple(text.encode() for text in s.dry_sequence_breakers)
        return cls(s.dry_multiplier, s.dry_base, s.dry_allowed_length, s.dry_window, breaks, pieces)

    def taken(self, repeated: NDArray[np.signedinteger]) -> NDArray[np.float64]:
        """What is taken of the logit of a token that would go on with stretches of so many tokens."""
        with np.errstate(over="ignore"):
            taken = self.multiplier * np.power(self.base, (repeated - self.allowed).astype(np.float64))
        return np.minimum(taken, MOST_TAKEN)


class Repeats:
    """The tokens of one sequence, and how far each place repeats its end. One writer: the sampler.

    Args:
        dry: What its task asks for.
        tokens: Prompt and output so far, shape (T,).
    """

    __slots__ = ("_count", "_dry", "_lengths", "_longest", "_tail", "_tokens")

    def __init__(self, dry: Dry, tokens: Int32Array) -> None:
        self._dry = dry
        self._longest = max((len(text) for text in dry.breaks), default=1)
        known = tokens[-dry.window :]
        self._count = len(known)
        self._tokens = np.concatenate((known, np.zeros(_ROOM, np.int32)))
        self._lengths = np.zeros(len(self._tokens), np.int32)  # of the stretches that end there and at the end
        around = tokens[-(dry.window + _BEFORE) :].tolist()
        self._tail, since = self._find_break(around)
        self._match(min(since, self._count, MOST_REPEATED))

    def part(self) -> None:
        """Share nothing any more with what this is a copy of: other tokens are added."""
        self._tokens, self._lengths = self._tokens.copy(), self._lengths.copy()

    def add(self, token_id: int) -> None:
        """There is a new token."""
        count = self._count
        if count == len(self._tokens):
            self._tokens, self._lengths = (np.concatenate((c, np.zeros_like(c))) for c in (self._tokens, self._lengths))
        begin = max(1, count - self._dry.window)  # what is before does not count any more
        tail, text = len(self._tail), self._tail + _bytes(self._dry.pieces[token_id])
        if any(text.find(each, max(0, tail - len(each) + 1)) >= 0 for each in self._dry.breaks):
            self._lengths[:count] = 0
        elif count:
            longer = np.minimum(self._lengths[begin - 1 : count - 1] + 1, MOST_REPEATED)
            self._lengths[begin:count] = np.where(self._tokens[begin:count] == token_id, longer, 0)
            self._lengths[0] = self._tokens[0] == token_id
        self._tail = self._shorten(text)
        self._tokens[count] = token_id
        self._count += 1

    def apply(self, logits: Float32Array) -> None:
        """Change the logits of this row, shape (V,), for its next token."""
        end, allowed = self._count, self._dry.allowed
        start = max(0, end - self._dry.window)
        lengths = np.minimum(self._lengths[start : end - 1], np.arange(1, max(end - start, 1)))
        places = np.flatnonzero(lengths >= allowed)
        if not places.size:
            return
        following = self._tokens[start + places + 1]
        ids, of = np.unique(following, return_inverse=True)
        longest = np.zeros(len(ids), np.int64)
        np.maximum.at(longest, of, lengths[places])
        logits[ids] = logits[ids].astype(np.float64) - self._dry.taken(longest)

    def _match(self, most: int) -> None:
        """Find the stretches that end as the tokens do, of at most so many tokens: their Z-function from the end on."""
        if not most:
            return
        back = self._tokens[: self._count][::-1]
        told, found = back.tolist(), [0] * self._count
        begin = end = 0  # of the stretch that reaches furthest: what is inside was compared at its first token
        for place in (np.flatnonzero(back[1:] == back[0]) + 1).tolist():
            size = min(found[place - begin], end - place) if place < end else 0
            while size < most and place + size < self._count and told[place + size] == told[size]:
                size += 1
            found[place] = size
            if place + size > end:
                begin, end = place, place + size
        self._lengths[: self._count - 1] = found[:0:-1]

    def _find_break(self, token_ids: list[int]) -> tuple[bytes, int]:
        """The end of the text of these tokens, and how many of them are behind the last break."""
        pieces = [_bytes(self._dry.pieces[token_id]) for token_id in token_ids]
        text = b"".join(pieces)
        last = max((at + len(each) for each in self._dry.breaks if (at := text.rfind(each)) >= 0), default=0)
        ends = np.cumsum([len(piece) for piece in pieces])
        since = len(pieces) if not last else len(pieces) - 1 - int(np.searchsorted(ends, last))
        return self._shorten(text), since

    def _shorten(self, text: bytes) -> bytes:
        """As much of the end of a text as a break may begin in that is not complete there."""
        return text[len(text) - self._longest + 1 :] if len(text) >= self._longest else text


def _bytes(piece: Piece) -> bytes:
    return piece.encode() if isinstance(piece, str) else piece
