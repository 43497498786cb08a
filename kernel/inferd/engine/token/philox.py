"""Counter-based random numbers: Philox4x32-10, vectorised.

J. K. Salmon, M. A. Moraes, R. O. Dror, D. E. Shaw: Parallel random numbers: as easy as 1, 2, 3. SC 2011.

A number depends on nothing but its key and its counter, so a sequence draws the same numbers whatever else runs.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]  # 32-bit words in 64-bit places, so that products do not overflow

ROUNDS: Final = 10
_MASK: Final = np.uint64(0xFFFFFFFF)
_HALF: Final = np.uint64(32)
_MULTIPLIERS: Final = np.array([[0xD2511F53], [0xCD9E8D57]], np.uint64)
_WEYL: Final = np.array([[0x9E3779B9], [0xBB67AE85]], np.uint64)
_ROUNDS: Final = np.arange(ROUNDS, dtype=np.uint64)[:, None, None]


def philox(counters: Words, keys: Words) -> Words:
    """Four random words for each counter and key.

    Args:
        counters: Shape (4, N), 32-bit words, lowest first.
        keys: Shape (2, N), 32-bit words, lowest first.

    Returns:
        Shape (4, N), 32-bit words.
    """
    schedule = (keys + _WEYL * _ROUNDS) & _MASK  # the key of each round, shape (10, 2, N)
    even, odd = counters[0::2], counters[1::2]
    for key in schedule:
        product = even * _MULTIPLIERS
        even = (product >> _HALF)[::-1] ^ odd ^ key
        odd = (product & _MASK)[::-1]
    words = np.empty_like(counters)
    words[0::2], words[1::2] = even, odd
    return words


def uniform(seeds: NDArray[np.uint64], positions: NDArray[Any]) -> NDArray[np.float64]:
    """A number of [0, 1), of 53 random bits, for each 64-bit seed (the key) and position (the counter), shape (N,)."""
    counters = np.zeros((4, len(seeds)), np.uint64)
    counters[0] = positions
    words = philox(counters, np.stack((seeds & _MASK, seeds >> _HALF)))
    bits = ((words[1] << _HALF) | words[0]) >> np.uint64(11)
    numbers: NDArray[np.float64] = bits * 2.0**-53
    return numbers
