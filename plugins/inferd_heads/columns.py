"""Which features of texts a model has, and what each counts: TF-IDF.

A value is (1 + ln n) of how often the feature occurs, times ln((1 + N) / (1 + d)) + 1, where d of N texts have it; the
values of a text have length 1 together.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from inferd_heads.hashing import BITS, Features, Numbers
from inferd_heads.sparse import Floats, Row

MOST_COLUMNS: Final = 1 << 18
MOST_WEIGHTS: Final = 1 << 24
"""Columns times labels."""
FEW_ROWS: Final = 64
"""With fewer rows than this a feature that one text alone has is kept, too."""
_OCCURRENCES: Final = (1 + np.log(np.maximum(np.arange(256), 1))).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Columns:
    """The features of a model.

    Attributes:
        numbers: Of the features, rising; each is a column.
        rarity: What each counts.
    """

    numbers: Numbers
    rarity: Floats

    def row(self, features: Features) -> Row:
        """What a text is, in these columns; features that the model does not have are left out."""
        columns, counts = self.find(features)
        return self.weigh(columns, counts, features.words, features.cut)

    def find(self, features: Features) -> tuple[NDArray[np.uint32], NDArray[np.uint8]]:
        """The columns of a text, and how often each occurs."""
        if not len(self.numbers):
            return np.zeros(0, np.uint32), np.zeros(0, np.uint8)
        places = np.minimum(np.searchsorted(self.numbers, features.numbers), len(self.numbers) - 1)
        known = self.numbers[places] == features.numbers
        return places[known].astype(np.uint32), features.counts[known]

    def weigh(self, columns: NDArray[np.uint32], counts: NDArray[np.uint8], words: int, cut: int) -> Row:
        """The row of what `find` gave."""
        values = _OCCURRENCES[counts] * self.rarity[columns]
        length = float(np.sqrt(np.sum(np.square(values, dtype=np.float64))))
        return Row(columns.astype(np.intp), values / np.float32(length or 1.0), words, cut)


class Counter:
    """Counts in how many texts each feature is."""

    def __init__(self) -> None:
        self._counts = np.zeros(1 << BITS, np.uint32)
        self._rows = 0

    def add(self, features: Features) -> None:
        """Count one text."""
        self._counts[features.numbers] += 1
        self._rows += 1

    def choose(self, labels: int) -> Columns:
        """The features that most texts have, as many as a model of so many labels may have."""
        kept = np.flatnonzero(self._counts >= (1 if self._rows < FEW_ROWS else 2))
        most = most_columns(labels)
        if len(kept) > most:
            first = np.argsort(-self._counts[kept].astype(np.int64), kind="stable")[:most]
            kept = np.sort(kept[first])
        share = (1 + self._rows) / (1 + self._counts[kept].astype(np.float64))
        return Columns(kept.astype(np.uint32), (np.log(share) + 1).astype(np.float32))


def most_columns(labels: int) -> int:
    """How many columns a model of so many labels has at most."""
    return min(MOST_COLUMNS, MOST_WEIGHTS // labels)
