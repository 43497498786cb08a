"""Where a text is cut: sentences, and chunks of whole sentences where these are not too long."""

import re
from collections.abc import Iterator
from typing import Final

BORDER: Final = re.compile("\\n\\s*|(?<=[.!?\u2026])[\"'\u201d\u2019)\\]]*\\s+|(?<=[\u3002\uff01\uff1f])")
"""Behind a sentence, of scripts with and without spaces, or a line."""
SPACE: Final = re.compile(r"\s+")

Span = tuple[int, int]
"""Where something begins and ends, in characters."""


def sentences(text: str) -> list[Span]:
    """The sentences and lines of a text, white space around them left out, in their order."""
    found, begin = [], 0
    for border in BORDER.finditer(text):
        found.append((begin, border.end()))
        begin = border.end()
    found.append((begin, len(text)))
    return [span for span in (_stripped(text, *each) for each in found) if span[0] < span[1]]


def chunks(text: str, size: int, overlap: int) -> list[Span]:
    """Chunks of at most `size` characters, each of sentences that follow each other.

    A sentence that is longer is cut between words, and a word that is longer anywhere. A chunk begins with the first
    sentence that begins within the last `overlap` characters of the one before, where the next one has room with it.
    """
    parts = [piece for span in sentences(text) for piece in _pieces(text, span, size)]
    found: list[Span] = []
    first = 0
    while first < len(parts):
        last = first
        while last + 1 < len(parts) and parts[last + 1][1] - parts[first][0] <= size:
            last += 1
        found.append((parts[first][0], parts[last][1]))
        behind = last + 1
        if behind < len(parts):  # go back as far as the overlap, and the next sentence has room behind it
            least = max(parts[last][1] - overlap, parts[behind][1] - size)
            while behind - 1 > first and parts[behind - 1][0] >= least:
                behind -= 1
        first = behind
    return found


def _pieces(text: str, span: Span, size: int) -> Iterator[Span]:
    begin, end = span
    while end - begin > size:
        cut = max((each.start() for each in SPACE.finditer(text, begin + size // 2, begin + size + 1)), default=0)
        cut = cut or begin + size
        yield _stripped(text, begin, cut)
        space = SPACE.match(text, cut, end)
        begin = space.end() if space else cut
    if begin < end:
        yield begin, end


def _stripped(text: str, begin: int, end: int) -> Span:
    part = text[begin:end]
    left = len(part) - len(part.lstrip())
    return begin + left, begin + left + len(part.strip())
