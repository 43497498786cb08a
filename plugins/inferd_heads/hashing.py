"""Features of a text: its words, pairs of words and runs of characters, each as a number, and how often each occurs.

A text is normalised (NFKC), folded to one case, and cut into words at everything that is no letter and no digit. A run
is of four characters within a word and the spaces around it; where scripts do without spaces, as Chinese, also of two.
Numbers are the top bits of a 64-bit polynomial hash of the characters, so nothing has to be kept of the texts that were
seen, and the same text gives the same numbers everywhere.
"""

import re
import unicodedata
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

BITS: Final = 22
"""Of a number: four million features are told apart."""
WORDS: Final = (1, 2)
"""Words of a feature."""
RUN: Final = 4
"""Characters of a feature within a word."""
PAIR: Final = 2
"""Characters of a feature, where the first one is from `EAST` on."""
EAST: Final = 0x2E80
MOST_CHARACTERS: Final = 1 << 18
"""Of a normalised text, what is cut off apart: a longer one is refused."""

_GAP: Final = re.compile(r"[\W_]+")
_BASE: Final = 0x9E3779B97F4A7C15
_MODULUS: Final = 1 << 64
_MIX: Final = np.uint64(0xBF58476D1CE4E5B9)
_SPACE: Final = ord(" ") + 1  # characters count from 1, so that U+0000 is something, too
_OWN: Final = 1000  # added to the size of a run, so that it is no word of the same letters

Numbers = NDArray[np.uint32]
Hashes = NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Features:
    """What a text consists of.

    Attributes:
        numbers: Of its features, each once, rising.
        counts: How often each occurs, at most 255.
        words: How many were read.
        cut: How many were not.
    """

    numbers: Numbers
    counts: NDArray[np.uint8]
    words: int
    cut: int

    @property
    def size_bytes(self) -> int:
        """What it takes of memory, at most."""
        return self.numbers.nbytes + self.counts.nbytes + 512  # as `ROW_BYTES` of sources


class _Powers:
    """Powers of the base, and of its inverse, modulo 2 to the 64: as many as were needed so far."""

    def __init__(self) -> None:
        self._up = self._down = np.ones(1, np.uint64)

    def up_to(self, count: int) -> tuple[Hashes, Hashes]:
        """So many of each, from the zeroth on."""
        if count > len(self._up):
            size = 1 << max(12, (count - 1).bit_length())
            self._up, self._down = (_powers(base, size) for base in (_BASE, pow(_BASE, -1, _MODULUS)))
        return self._up[:count], self._down[:count]


def _powers(base: int, count: int) -> Hashes:
    made = np.full(count, np.uint64(base))
    made[0] = 1
    return np.cumprod(made, dtype=np.uint64)


_POWERS: Final = _Powers()


def find_features(text: str, most_words: int) -> Features:
    """The features of a text, of its first `most_words` words.

    Raises:
        ValueError: They have too many bytes; the message says how many.
    """
    words = _GAP.sub(" ", unicodedata.normalize("NFKC", text).casefold()).split()
    read = words[:most_words]
    line = f" {' '.join(read)} "
    if len(line) > MOST_CHARACTERS:
        raise ValueError(f"{len(line)} characters in {len(read)} words; at most {MOST_CHARACTERS} are read")
    raw = np.frombuffer(line.encode("utf-32-le", "surrogatepass"), "<u4").astype(np.uint64) + np.uint64(1)
    found = _hash(raw) if read else np.zeros(0, np.uint32)
    numbers, counts = np.unique(found, return_counts=True)
    return Features(numbers, np.minimum(counts, 255).astype(np.uint8), len(read), len(words) - len(read))


def _hash(raw: Hashes) -> Numbers:
    """The numbers of all features of the characters of a text, which begins and ends with a space."""
    up, down = _POWERS.up_to(len(raw))
    sums = np.zeros(len(raw) + 1, np.uint64)
    np.cumsum(raw * up, out=sums[1:])

    def spell(begins: NDArray[np.intp], ends: NDArray[np.intp], kind: int) -> Hashes:
        return _mix((sums[ends] - sums[begins]) * down[begins] + np.uint64(kind))

    spaces = np.flatnonzero(raw == _SPACE)
    found = [spell(spaces[:-size] + 1, spaces[size:], size) for size in WORDS if len(spaces) > size]
    seen = np.concatenate(([0], np.cumsum(raw == _SPACE)))
    begins = np.arange(max(0, len(raw) - RUN + 1))
    begins = begins[seen[begins + RUN - 1] == seen[begins + 1]]  # no space but at its ends
    found.append(spell(begins, begins + RUN, _OWN + RUN))
    begins = np.flatnonzero(raw[: 1 - PAIR] > EAST)
    found.append(spell(begins, begins + PAIR, _OWN + PAIR))
    return (np.concatenate(found) >> np.uint64(64 - BITS)).astype(np.uint32)


def _mix(hashes: Hashes) -> Hashes:
    """Let every bit depend on all others: the top ones of a polynomial alone would not do."""
    hashes = (hashes ^ (hashes >> np.uint64(30))) * _MIX
    mixed: Hashes = (hashes ^ (hashes >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
