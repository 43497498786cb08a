"""Reads the models of SentencePiece that merge pairs: a message of protocol buffers, of which few fields count.

The fields are those of `sentencepiece_model.proto`. Every length is checked before anything is taken.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from inferd.plugin.backend import LoadError, UnsupportedModelError
from inferd.plugin.vocabulary import TokenKind

_PIECE, _TRAINER, _NORMALIZER = 1, 2, 3  # fields of a model
_UNIGRAM, _BPE = 1, 2  # kinds of models
_KINDS: Final = {1: "unigram", 2: "bpe", 3: "word", 4: "char"}
_VARINT, _WIDE, _BYTES, _NARROW = 0, 1, 2, 5
_LONGEST_VARINT: Final = 10  # bytes

Value = int | bytes


@dataclass(frozen=True, slots=True)
class Piece:
    """A token."""

    text: str
    score: float
    kind: TokenKind


@dataclass(frozen=True, slots=True)
class SentencePieceModel:
    """Its pieces by number, and whether a space goes in front of a text."""

    pieces: list[Piece]
    prefixed: bool


def read_sentencepiece(path: Path, data: bytes) -> SentencePieceModel:
    """Read a model.

    Raises:
        LoadError: It is damaged.
        UnsupportedModelError: It is of another kind, or changes texts before they are split.
    """
    pieces, trainer, normalizer = [], dict[int, Value](), dict[int, Value]()
    try:
        for field, value in _read_fields(data):
            if field == _PIECE and isinstance(value, bytes):
                pieces.append(_read_piece(value))
            elif field == _TRAINER and isinstance(value, bytes):
                trainer |= dict(_read_fields(value))
            elif field == _NORMALIZER and isinstance(value, bytes):
                normalizer |= dict(_read_fields(value))
    except (ValueError, struct.error) as error:
        raise LoadError(f"{path}: it is no model of SentencePiece, or it is damaged: {error}") from error
    kind = trainer.get(3, _UNIGRAM)
    if kind != _BPE:
        raise UnsupportedModelError(
            f"{path}: it is a {_KINDS.get(kind, 'strange') if isinstance(kind, int) else 'strange'} model of"
            " SentencePiece; without a tokenizer.json only those that merge pairs (bpe) are supported: save the"
            " tokenizer with AutoTokenizer, which writes one"
        )
    for name, changes in (
        ("precompiled_charsmap", bool(normalizer.get(2))),
        ("remove_extra_whitespaces", normalizer.get(4, 1) != 0),
        ("escape_whitespaces", normalizer.get(5, 1) == 0),
        ("treat_whitespace_as_suffix", trainer.get(24, 0) != 0),
    ):
        if changes:
            raise UnsupportedModelError(f"{path}: its {name} changes texts, which is not supported")
    return SentencePieceModel(pieces, prefixed=normalizer.get(3, 1) != 0)


def _read_piece(data: bytes) -> Piece:
    fields = dict(_read_fields(data))
    text, score, kind = fields.get(1), fields.get(2, b"\0\0\0\0"), fields.get(3, 1)
    if not isinstance(text, bytes) or not text or not isinstance(score, bytes) or not isinstance(kind, int):
        raise ValueError("a piece has no text, or a score or kind of another type")
    (number,) = struct.unpack("<f", score)
    if number != number or abs(number) == float("inf"):  # noqa: PLR0124 - not a number
        raise ValueError(f"a piece has the score {number}")
    return Piece(text.decode(), number, TokenKind(kind))


def _read_fields(data: bytes) -> Iterator[tuple[int, Value]]:
    """The fields of a message by their numbers; floats as their bytes."""
    at = 0
    while at < len(data):
        key, at = _read_varint(data, at)
        field, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, at = _read_varint(data, at)
            yield field, value
            continue
        size = {_WIDE: 8, _NARROW: 4}.get(wire, -1)
        if wire == _BYTES:
            size, at = _read_varint(data, at)
        if size < 0 or size > len(data) - at:
            raise ValueError(f"field {field} at byte {at} needs {size} bytes of {len(data) - at}")
        yield field, data[at : at + size]
        at += size


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for place in range(_LONGEST_VARINT):
        if at + place >= len(data):
            raise ValueError("a number is cut short")
        byte = data[at + place]
        value |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:  # noqa: PLR2004 - the last byte of a number
            return value, at + place + 1
    raise ValueError(f"a number at byte {at} has more than {_LONGEST_VARINT} bytes")
