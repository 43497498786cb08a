"""The words of a text by which it is found."""

import re
import unicodedata
from typing import Final

WORD: Final = re.compile(r"\w+")
MOST_WORD: Final = 64  # characters; the rest of a longer one counts for nothing
UNSPACED: Final = re.compile(r"([\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]+)")
"""Kana and Han, which are written without spaces: pairs of characters stand for words."""


def words(text: str) -> list[str]:
    """Its words, with letters that differ in case or width alone made the same (NFKC, case folding)."""
    found: list[str] = []
    for word in WORD.findall(unicodedata.normalize("NFKC", text).casefold()):
        for number, part in enumerate(UNSPACED.split(word)):
            if number % 2 and len(part) > 1:
                found += [part[at : at + 2] for at in range(len(part) - 1)]
            elif part:
                found.append(part[:MOST_WORD])
    return found
