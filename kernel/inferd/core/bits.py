"""Sets of small numbers as integers: what two have in common costs less than a microsecond for ten thousand numbers."""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Iterator
from itertools import islice
from math import frexp

FEW = 32  # numbers of a set that are kept one by one: there may be very many such sets
FINE = 8  # tiers between an amount and its double


def numbers_in(bits: int) -> Iterator[int]:
    """The numbers of a set, descending: from the top one costs half of what it does from below."""
    while bits:
        number = bits.bit_length() - 1
        yield number
        bits ^= 1 << number


class NumberSet:
    """Numbers, as the bits of one integer once they are many. One writer: its owner."""

    __slots__ = ("_few", "_many")

    def __init__(self) -> None:
        self._few: set[int] | None = set()
        self._many = 0

    def __bool__(self) -> bool:
        return bool(self._few or self._many)

    @property
    def bits(self) -> int:
        """All of them."""
        if self._few is None:
            return self._many
        bits = 0
        for number in self._few:
            bits |= 1 << number
        return bits

    def add(self, number: int) -> None:
        """A number is among them."""
        if self._few is None:
            self._many |= 1 << number
            return
        self._few.add(number)
        if len(self._few) > FEW:
            self._many, self._few = self.bits, None

    def remove(self, number: int) -> None:
        """A number is not among them any more."""
        if self._few is not None:
            self._few.discard(number)
        elif self._many >> number & 1:
            self._many ^= 1 << number


class Tiers:
    """Numbers by an amount each; the amounts of a tier differ by less than an eighth. One writer: its owner."""

    def __init__(self) -> None:
        self._tiers: dict[int, int] = {}
        self._order: list[int] = []  # of the tiers, ascending
        self._tier_of: dict[int, int] = {}

    def put(self, number: int, amount: int) -> None:
        """A number has this amount, in place of an earlier one; all that is not above 0 is alike."""
        tier, before = _tier(amount), self._tier_of.get(number)
        if tier == before:
            return
        if before is not None:
            self._take_out(number, before)
        self._tier_of[number] = tier
        if tier not in self._tiers:
            insort(self._order, tier)
        self._tiers[tier] = self._tiers.get(tier, 0) | 1 << number

    def drop(self, number: int) -> None:
        """A number has no amount any more."""
        if (before := self._tier_of.pop(number, None)) is not None:
            self._take_out(number, before)

    def most(self, among: int, count: int) -> list[int]:
        """Those of a set that have most, so many at most; of the last tier that is looked at the highest numbers."""
        return self._first(reversed(self._order), among, count)

    def least(self, among: int, count: int, amount: int) -> list[int]:
        """Those of a set that have `amount` and little more, and some that may have it; so many of each at most."""
        edge = _tier(amount)
        above = self._first(islice(self._order, bisect_right(self._order, edge), None), among, count)
        return above + self._first([edge] if edge in self._tiers else [], among, count)

    def _first(self, tiers: Iterable[int], among: int, count: int) -> list[int]:
        found = list[int]()
        for tier in tiers if among else ():
            if here := self._tiers[tier] & among:
                found += islice(numbers_in(here), count - len(found))
                if len(found) == count:
                    break
        return found

    def _take_out(self, number: int, tier: int) -> None:
        if left := self._tiers[tier] ^ 1 << number:
            self._tiers[tier] = left
        else:
            del self._tiers[tier]
            del self._order[bisect_left(self._order, tier)]


def _tier(amount: int) -> int:
    if amount <= 0:
        return 0
    part, octave = frexp(amount)
    return octave * FINE + int((part - 0.5) * 2 * FINE)
