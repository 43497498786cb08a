"""Words of texts, and how much they say: what stands in few texts says more."""

from __future__ import annotations

import math
import re
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

WORD = re.compile(r"\w+", re.UNICODE)
K1, B = 1.5, 0.75  # of BM25
SUFFIXES = ("ing", "edly", "ed", "ly", "es", "s")
LEAST_STEM = 3


def words_of(text: str) -> list[str]:
    """The words of a text, in small letters, without endings of English that say little."""
    return [_stem(word) for word in WORD.findall(text.casefold())]


def _stem(word: str) -> str:
    for suffix in SUFFIXES:
        if word.endswith(suffix) and len(word) - len(suffix) >= LEAST_STEM:
            return word[: -len(suffix)]
    return word


class Lexicon:
    """Texts, and how well each goes with a question, by BM25.

    Args:
        texts: They.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self._counts = [Counter(words_of(text)) for text in texts]
        self._lengths = [sum(each.values()) for each in self._counts]
        self._mean = sum(self._lengths) / max(1, len(texts)) or 1.0
        self._in = Counter(word for each in self._counts for word in each)

    def weight(self, word: str) -> float:
        """How much a word says, above 0."""
        number = len(self._counts)
        return math.log(1 + (number - self._in[word] + 0.5) / (self._in[word] + 0.5))

    def scores(self, query: str) -> list[float]:
        """How well each text goes with a question."""
        asked = Counter(words_of(query))
        found = []
        for counts, length in zip(self._counts, self._lengths, strict=True):
            norm = K1 * (1 - B + B * length / self._mean)
            found.append(
                sum(
                    self.weight(word) * counts[word] * (K1 + 1) / (counts[word] + norm)
                    for word in asked
                    if counts[word]
                )
            )
        return found
