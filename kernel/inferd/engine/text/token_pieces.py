"""What a token of a `tokenizer.json` adds to a text, by the decoder that the definition names.

The decoders of GPT-2 and SentencePiece are followed by rules of our own, byte for byte. Of any other it is asked what
it makes of a token between two others, which is what the token adds wherever it stands, except at both ends of a text:
a space that a decoder leaves out there is given.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from inferd.engine.text.growth import growth, steps_of
from inferd.errors import ModelLoadError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tokenizers import Tokenizer

    from inferd.engine.text.detokenizer import Piece

_SPACE: Final = "\N{LOWER ONE EIGHTH BLOCK}"  # how SentencePiece writes a space
_LEFT, _RIGHT = "\ue000", "\ue001"  # no token of a text has these
_MOST_WORK: Final = 1024  # steps of a decoder, times the growth of a text in them: each token goes through all
_SENTENCE_PIECE: Final[
    dict[str, dict[str, Any]]
] = {  # the steps of its decoder, with what they must say to be followed by its rule
    "ByteFallback": {},
    "Fuse": {},
    "Strip": {"content": " ", "stop": 0},
    "Metaspace": {"replacement": _SPACE},
    "Replace": {"pattern": {"String": _SPACE}, "content": " "},
}


def defined_pieces(
    inner: Tokenizer, definition: bytes, *, byte_level: Callable[[str], Piece], space: Callable[[str], Piece]
) -> list[Piece]:
    """What each token adds to the text, by id.

    Args:
        inner: The tokenizer that was made of the definition.
        definition: The `tokenizer.json`.
        byte_level: The piece of a token in the spelling of GPT-2.
        space: The piece of a token in the spelling of SentencePiece.

    Raises:
        ModelLoadError: What a token adds depends on the tokens beside it.
    """
    decoder = json.loads(definition).get("decoder")
    steps = decoder.get("decoders", [decoder]) if isinstance(decoder, dict) else []
    kinds = {str(step.get("type")) for step in steps}
    work = growth(steps_of(steps)) * max(1, len(steps))
    if work > _MOST_WORK:
        raise _not_followed(f"its {len(steps)} steps may make a text {growth(steps_of(steps)):g} times as long")
    if "CTC" in kinds:
        raise _not_followed("CTC drops tokens that come twice")
    piece: Callable[[str], Piece]
    if "ByteLevel" in kinds:
        piece = byte_level
    elif "ByteFallback" in kinds and all(map(_is_sentence_piece, steps)):
        piece = space
    else:
        piece = _Between(inner, of_byte=space if "ByteFallback" in kinds else None)
    silent = {number for number, token in inner.get_added_tokens_decoder().items() if token.special}
    tokens = [inner.id_to_token(number) or "" for number in range(inner.get_vocab_size(with_added_tokens=True))]
    return ["" if number in silent or not token else piece(token) for number, token in enumerate(tokens)]


def _is_sentence_piece(step: dict[str, Any]) -> bool:
    wanted = _SENTENCE_PIECE.get(str(step.get("type")))
    return wanted is not None and all(step.get(name) == value for name, value in wanted.items())


def _is_byte(token: str) -> bool:
    """Whether a token is one byte: "<0x0A>". Its neighbours may be needed for a whole character."""
    return len(token) == len("<0x00>") and token.startswith("<0x") and token.endswith(">")


class _Between:
    """What a decoder makes of a token between two others; where `of_byte` is given, tokens of one byte are its."""

    def __init__(self, inner: Tokenizer, *, of_byte: Callable[[str], Piece] | None) -> None:
        decoder = inner.decoder
        self._of_byte = of_byte
        self._decode: Callable[[Sequence[str]], str] = " ".join if decoder is None else decoder.decode
        self._head = self._decode([_LEFT])
        self._tail = self._decode([_LEFT, _RIGHT])[len(self._head) :]

    def __call__(self, token: str) -> Piece:
        if self._of_byte is not None and _is_byte(token):
            return self._of_byte(token)
        text = self._decode([_LEFT, token, _RIGHT])
        if not (text.startswith(self._head) and text.endswith(self._tail)):
            raise _not_followed(f"token {token!r} changes those beside it")
        return text[len(self._head) : len(text) - len(self._tail)]


def _not_followed(why: str) -> ModelLoadError:
    cause = f"the tokenizer's decoder cannot be followed token by token: {why}"
    return ModelLoadError(cause, metadata={"cause": cause})
