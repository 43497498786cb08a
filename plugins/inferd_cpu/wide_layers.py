"""The setting `wide_layers`: which layers `quantization=4bit` leaves as wide as they are."""

import re

from inferd.plugin import LoadError

MOST_PIECES = 1000
_PIECE = re.compile(r"(\d{1,6})(?:([-/])(\d{1,6}))?", re.ASCII)


def read_wide_layers(text: str | None, *, layers: int, quantization: str) -> frozenset[int]:
    """The numbers of the layers.

    Args:
        text: Pieces with commas between: a number from 0, a range `2-5`, or a part of the depth, `0/8` for the first of
            eight. Layers that do not divide evenly fall to the parts as evenly as they can.
        layers: Of the model.
        quantization: As it is set.

    Raises:
        LoadError: A piece is none of these or beyond the model's layers, or nothing is made narrow.
    """
    if not text:
        return frozenset()
    if quantization != "4bit":
        raise LoadError(
            f"wide_layers is {text[:80]!r}, but quantization is {quantization!r}; it needs quantization=4bit"
        )
    pieces = text.split(",")
    if len(pieces) > MOST_PIECES:
        raise LoadError(f"wide_layers has {len(pieces)} pieces; it may have {MOST_PIECES}")
    found: set[int] = set()
    for piece in pieces:
        found |= _read_piece(piece.strip(), layers)
    return frozenset(found)


def _read_piece(piece: str, layers: int) -> set[int]:
    match = _PIECE.fullmatch(piece)
    if match is None:
        raise LoadError(
            f"wide_layers has {piece[:40]!r}, which is no number of a layer, no range as 2-5 and no part as 0/8"
        )
    first, kind = int(match[1]), match[2]
    last = int(match[3]) if kind else first
    if kind == "/":
        if not 0 <= first < last:
            raise LoadError(f"wide_layers has {piece!r}; a part of {last} has a number from 0 to {last - 1}")
        return set(range(first * layers // last, (first + 1) * layers // last))
    if not first <= last < layers:
        raise LoadError(f"wide_layers has {piece!r}; the model has layers 0 to {layers - 1}")
    return set(range(first, last + 1))
