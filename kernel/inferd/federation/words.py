"""Vectors of whole numbers modulo 2^64, as bytes: 8 for each, little-endian. Sums are exact, in any order.

A vector is one large number here, whose even and odd words are added apart, so that what one carries meets a word that
is empty and is cut off: some operations on megabytes, and no loop over words.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

WORD: Final = 8
"""Bytes of a word."""
BITS: Final = 8 * WORD


@lru_cache(maxsize=4)
def _masks(count: int) -> tuple[int, int]:
    """Of so many words: all bits of the even ones, and the bit above each of these."""
    pairs = (count + 1) // 2
    even = int.from_bytes((b"\xff" * WORD + bytes(WORD)) * pairs, "little")
    above = int.from_bytes((bytes(WORD) + b"\x01" + bytes(WORD - 1)) * pairs, "little")
    return even, above


def add(one: bytes, two: bytes) -> bytes:
    """The sum, word by word, modulo 2^64.

    Raises:
        ValueError: They are of different lengths, or not of whole words.
    """
    return _combine(one, two, minus=False)


def subtract(one: bytes, two: bytes) -> bytes:
    """The difference, word by word, modulo 2^64; raises as `add`."""
    return _combine(one, two, minus=True)


def _combine(one: bytes, two: bytes, *, minus: bool) -> bytes:
    if len(one) != len(two) or len(one) % WORD:
        raise ValueError(f"vectors have {len(one)} and {len(two)} bytes; both must have the same, a multiple of {WORD}")
    even, above = _masks(len(one) // WORD)
    first, second, total = int.from_bytes(one, "little"), int.from_bytes(two, "little"), 0
    for shift in (0, BITS):
        left, right = first >> shift & even, second >> shift & even
        both = left + above - right if minus else left + right
        total |= (both & even) << shift
    return total.to_bytes(len(one), "little")


def total(vectors: Iterable[bytes], count: int) -> bytes:
    """The sum of vectors of so many words; zeros where there is none."""
    found = bytes(count * WORD)
    for each in vectors:
        found = add(found, each)
    return found
