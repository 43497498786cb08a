"""Texts that are the same, or nearly."""

from typing import Annotated

from pydantic import BaseModel, Field

from inferd.plugin import function
from inferd_functions.libraries import library

rensa = library("rensa")
PERMUTATIONS, SEED = 128, 42
SHINGLE_WORDS, SHINGLE_CHARACTERS = 3, 5
BANDS = 32  # of 4 rows each: of texts that are alike by 0.6 one in a hundred is no candidate


class Duplicate(BaseModel):
    """A text that is like one before it.

    Attributes:
        index: Its place.
        of: The place of the other one, which is kept.
        similarity: The part of their word triples that both have, 0 to 1.
    """

    index: int
    of: int
    similarity: float


class Duplicates(BaseModel):
    """Which texts are kept, by their places, and which are duplicates of those."""

    kept: list[int]
    duplicates: list[Duplicate]


@function(timeout_s=300, memory_bytes=512 << 20)
def deduplicate(texts: list[str], similarity: Annotated[float, Field(ge=0.5, le=1)] = 0.8) -> Duplicates:
    """Find texts that are the same as one before them, or nearly: by the word triples that both have (Jaccard).

    Candidates are found by MinHash, and each is compared itself. Case and white space do not count. Of short texts, and
    those without spaces, runs of 5 characters count in place of words.

    Args:
        texts: In their order: of those that are alike the first is kept.
        similarity: From which part of what both have together on they are duplicates; 1 for the same alone.
    """
    lsh = rensa.RMinHashLSH(threshold=max(0.5, similarity - 0.1), num_perm=PERMUTATIONS, num_bands=BANDS)
    first: dict[str, int] = {}
    shingles: dict[int, frozenset[str]] = {}
    found = Duplicates(kept=[], duplicates=[])
    for index, text in enumerate(texts):
        folded = " ".join(text.casefold().split())
        if (same := first.setdefault(folded, index)) != index:
            found.duplicates.append(Duplicate(index=index, of=same, similarity=1.0))
            continue
        mine = _shingles(folded)
        sketch = rensa.RMinHash(num_perm=PERMUTATIONS, seed=SEED)
        sketch.update(sorted(mine))
        alike = ((_jaccard(mine, shingles[other]), -other) for other in lsh.query(sketch))
        best, negative = max(alike, default=(0.0, 0))
        if similarity < 1 and best >= similarity:
            found.duplicates.append(Duplicate(index=index, of=-negative, similarity=round(best, 4)))
            first[folded] = -negative
            continue
        lsh.insert(index, sketch)
        shingles[index] = mine
        found.kept.append(index)
    return found


def _shingles(folded: str) -> frozenset[str]:
    words = folded.split(" ")
    if len(words) > 2 * SHINGLE_WORDS:
        return frozenset(" ".join(words[n : n + SHINGLE_WORDS]) for n in range(len(words) - SHINGLE_WORDS + 1))
    last = max(1, len(folded) - SHINGLE_CHARACTERS + 1)
    return frozenset(folded[n : n + SHINGLE_CHARACTERS] for n in range(last))


def _jaccard(one: frozenset[str], other: frozenset[str]) -> float:
    return len(one & other) / (len(one | other) or 1)
