"""What the prefix cache saves of sequences that have beginnings in common, before they are computed. Pure.

It is the same reckoning as the engine's: full blocks are found by the chain of their digests, and of a sequence of
which it is told how likely the last tokens were, all from the one before these on is computed.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from array import array


@dataclass(frozen=True, slots=True)
class Planned:
    """What is reckoned for a sequence.

    Attributes:
        cached_tokens: Of its tokens, those that need not be computed.
        after: The sequence, by its number, that has computed these; None for none.
    """

    cached_tokens: int
    after: int | None


class PrefixPlan:
    """Sequences in the order in which they are planned. One writer: who plans.

    Args:
        block_tokens: Tokens in a block of the cache; 0 where nothing is found again.
    """

    def __init__(self, block_tokens: int) -> None:
        self._block_tokens = block_tokens
        self._known: dict[bytes, int] = {}  # by the digest of a beginning: the first sequence that has it
        self._count = 0

    def add(self, token_ids: array[int], told: int) -> Planned:
        """Plan the next sequence.

        Args:
            token_ids: All of it.
            told: Of how many of its last tokens it is told how likely they were, at least one.
        """
        number, size = self._count, self._block_tokens
        self._count += 1
        if not size:
            return Planned(0, None)
        usable = max(0, len(token_ids) - told - 1) // size
        cached, after, digest, found = 0, None, b"", True
        for block in range(len(token_ids) // size):
            part = token_ids[block * size : (block + 1) * size].tobytes()
            digest = blake2b(digest + part, digest_size=16).digest()
            first = self._known.setdefault(digest, number)
            found = found and first != number and block < usable
            if found:
                cached, after = (block + 1) * size, first
        return Planned(cached, after)

    def copy(self) -> PrefixPlan:
        """The same, to go on with in another way."""
        other = PrefixPlan(self._block_tokens)
        other._known, other._count = dict(self._known), self._count
        return other
