"""Secrets in shares (Shamir 1979): so many of them give the secret, one fewer give nothing.

The field is that of the Mersenne prime 2^521 - 1, in which a secret of 64 bytes fits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

PRIME: Final = (1 << 521) - 1
SECRET_BYTES: Final = 64
"""Most of a secret."""
SHARE_BYTES: Final = 66
"""Of a share as it is written."""
_DRAWN: Final = 80  # bytes drawn for a coefficient: far more than the field has, so that none is likelier


class TooFewSharesError(ValueError):
    """There are fewer shares of a secret than its threshold."""


def split(secret: bytes, points: Iterable[int], *, threshold: int, draw: Callable[[int], bytes]) -> dict[int, bytes]:
    """Shares of a secret, by point.

    Args:
        secret: At most 64 bytes.
        points: Different whole numbers from 1: who gets a share.
        threshold: So many shares give the secret, from 1.
        draw: Gives so many random bytes.

    Raises:
        ValueError: The secret is too long, a point is none, or there are fewer points than the threshold.
    """
    where = [*points]
    if len(secret) > SECRET_BYTES:
        raise ValueError(f"a secret has {len(secret)} bytes; at most {SECRET_BYTES}")
    if len({*where}) != len(where) or not all(0 < point < PRIME for point in where):
        raise ValueError("points must be different whole numbers from 1")
    if not 1 <= threshold <= len(where):
        raise ValueError(f"threshold is {threshold}; it must be from 1 to {len(where)}, the number of points")
    polynomial = [int.from_bytes(secret), *(int.from_bytes(draw(_DRAWN)) % PRIME for _ in range(threshold - 1))]
    return {point: _at(polynomial, point).to_bytes(SHARE_BYTES) for point in where}


def _at(polynomial: list[int], point: int) -> int:
    value = 0
    for coefficient in reversed(polynomial):
        value = (value * point + coefficient) % PRIME
    return value


def combine(shares: Mapping[int, bytes], *, threshold: int, size: int) -> bytes:
    """The secret of so many bytes that shares are of.

    Raises:
        TooFewSharesError: There are fewer than the threshold.
        ValueError: They are no shares of a secret of this size: one of them is false.
    """
    if len(shares) < threshold:
        raise TooFewSharesError(f"{len(shares)} shares are there, and {threshold} are needed")
    used = [(point, int.from_bytes(share)) for point, share in sorted(shares.items())[:threshold]]
    secret = 0
    for point, value in used:
        above, below = 1, 1
        for other, _ in used:
            if other != point:
                above = above * -other % PRIME
                below = below * (point - other) % PRIME
        secret = (secret + value * above * pow(below, -1, PRIME)) % PRIME
    try:
        return secret.to_bytes(size)
    except OverflowError:
        raise ValueError(f"the shares are not of one secret of {size} bytes") from None
