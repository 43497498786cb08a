"""Which tokens of a prompt stand for which spans of its texts. Pure.

A template writes texts into a prompt, and a vocabulary cuts that as it likes: a token may stand for the end of one span
and the beginning of the next, and then counts for each by its bytes.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inferd.core.explained_spans import Span

    Parts = Sequence[tuple[int, float]]
    """Tokens by their places, each with the share of it that is meant, above 0 and at most 1."""


def find_text(prompt: bytes, without: bytes, text: bytes, behind: int = 0) -> tuple[int, int] | None:
    """Where a text stands in a prompt: where its first byte would be, and the byte behind what stands of it.

    Args:
        prompt: All of it.
        without: The prompt if the text was empty: up to the text both are the same.
        text: What is looked for; where a template leaves out white space around it, the rest of it.
        behind: Where the text before it ends.

    Returns:
        None where it does not stand there.
    """
    pairs = enumerate(zip(prompt, without, strict=False))
    most = next((at for at, (one, other) in pairs if one != other), min(len(prompt), len(without)))
    for each in (text, text.strip()):
        if each and (found := prompt.rfind(each, behind, most + len(each))) >= 0:
            return found - text.index(each), found + len(each)
    return None


def tokens_of(pieces: Sequence[bytes], spans: Sequence[Span], places: Sequence[tuple[int, int] | None]) -> list[Parts]:
    """The tokens that stand for each span.

    Args:
        pieces: What each token adds to the prompt.
        spans: They.
        places: Of each text, as `find_text` says; None for one of which nothing stands there.
    """
    starts = [0, *accumulate(map(len, pieces))]
    held = [0.0] * len(pieces)  # bytes of each token that are in a span
    cut: list[list[tuple[int, int]]] = []
    for span in spans:
        place = places[span.text]
        parts: list[tuple[int, int]] = []
        if place is not None:
            begin, end = max(0, place[0] + span.begin), min(place[0] + span.end, place[1])
            token = max(0, bisect_right(starts, begin) - 1)
            while token < len(pieces) and starts[token] < end:
                size = min(end, starts[token + 1]) - max(begin, starts[token])
                if size > 0:
                    parts.append((token, size))
                    held[token] += size
                token += 1
        cut.append(parts)
    return [[(token, size / held[token]) for token, size in parts] for parts in cut]


def sum_up(values: Sequence[float], parts: Parts) -> float:
    """What a span is worth, of what its tokens are."""
    return sum(values[token] * share for token, share in parts)
