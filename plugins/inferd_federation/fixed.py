"""Updates as whole numbers modulo 2^64, so that sums of them are exact in any order, also where they are masked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

FRACTION_BITS: Final = 24
"""Of a number behind its point: it is rounded to a multiple of 2^-24."""
LIMIT: Final = 512.0
"""Longest number of an update, either way; a longer one is cut to it."""
MOST_EXAMPLES: Final = 1 << 20
"""Highest weight of a client: with 512 clients, numbers of this size stay below 2^63."""
MOST_CLIENTS: Final = 512


def to_words(update: Floats, examples: int) -> bytes:
    """An update as words, each times its weight, and the weight behind them.

    Raises:
        ValueError: The weight is not from 1 to 2^20, or a number is none.
    """
    if not 1 <= examples <= MOST_EXAMPLES:
        raise ValueError(f"an update is of {examples} examples; it must be of 1 to {MOST_EXAMPLES}")
    if not np.isfinite(update).all():
        raise ValueError("an update has numbers that are not finite; lower the learning rate")
    fixed = np.rint(np.clip(update, -LIMIT, LIMIT) * (1 << FRACTION_BITS)).astype(np.int64)
    return np.append(fixed * examples, np.int64(examples)).astype("<i8").tobytes()


def of_words(words: bytes) -> tuple[Floats, int]:
    """The mean of the updates of which this is the sum, and their weight together.

    Raises:
        ValueError: The weight is none that clients can have.
    """
    found = np.frombuffer(words, "<i8")
    examples = int(found[-1]) if len(found) else 0
    if not 1 <= examples <= MOST_EXAMPLES * MOST_CLIENTS:
        raise ValueError(f"the sum of updates is of {examples} examples, which no clients can have")
    return found[:-1] / float(examples) / (1 << FRACTION_BITS), examples
