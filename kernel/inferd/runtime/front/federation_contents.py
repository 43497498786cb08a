"""What is in an update that is not masked: whether it is one, before it is in a round that others are in."""

from __future__ import annotations

import sys
from array import array
from itertools import pairwise
from math import isfinite
from typing import TYPE_CHECKING, Final

from inferd.core.federation import FederationCompression
from inferd.errors import InvalidFieldError

if TYPE_CHECKING:
    from inferd.core.federation import Federation

MOST_EXAMPLES: Final = 1 << 20
BLOCK: Final = 256  # numbers that share a scale where each has 8 bits
MOST_WORD: Final = 512 << 24  # of one example: `inferd_federation.fixed` has 24 bits behind the point, and 512 at most
_PLACE: Final = 8  # bytes of a place and its number where only the longest are sent


def check_content(federation: Federation, content: bytes, examples: int) -> None:
    """Refuse an update of the right size that is none; of those that are masked nothing can be said.

    Raises:
        InvalidFieldError: Counts are not from 0 to the number of rows, it is of other examples than is told, or a
            number is too long, or none.
    """
    plan = federation.plan
    if plan.secure:
        return
    if federation.round == 0:
        *counts, rows = _read("q", content)
        if not 1 <= rows <= MOST_EXAMPLES or min(counts) < 0 or max(counts) > rows:
            raise _wrong(
                f"counts are from {min(counts)} to {max(counts)}, of {rows} rows; they must be from 0 to these, and"
                f" rows from 1 to {MOST_EXAMPLES}"
            )
        return
    match plan.compression:
        case FederationCompression.NONE:
            *words, told = _read("q", content)
            most = MOST_WORD * examples
            if told != examples or max(words) > most or min(words) < -most:
                raise _wrong(
                    f"the update is of {told} examples and has numbers from {min(words)} to {max(words)}; it was told"
                    f" to be of {examples}, whose numbers are at most {most} long"
                )
        case FederationCompression.BYTES:
            _check_finite(_read("f", content[: 4 * -(-plan.size // BLOCK)]))
        case _:
            middle = len(content) // _PLACE * 4
            places = _read("I", content[:middle])
            if any(one >= two for one, two in pairwise(places)) or places[-1] >= plan.size:
                raise _wrong(f"places must rise, and be below {plan.size}")
            _check_finite(_read("f", content[middle:]))


def check_finite(weights: bytes) -> None:
    """Refuse first weights that are no numbers.

    Raises:
        InvalidFieldError: One is not finite.
    """
    if not all(map(isfinite, _read("f", weights))):
        raise InvalidFieldError("weights have numbers that are not finite", field="weights")


def _check_finite(numbers: array[float]) -> None:
    if not all(map(isfinite, numbers)):
        raise _wrong("the update has numbers that are not finite")


def _wrong(why: str) -> InvalidFieldError:
    return InvalidFieldError(why, field="update.content")


def _read(kind: str, written: bytes) -> array:  # type: ignore[type-arg] # whole numbers, or others
    found = array(kind, written)
    if sys.byteorder == "big":
        found.byteswap()
    return found
