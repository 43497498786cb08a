"""What privacy rounds cost: Rényi differential privacy of the sampled Gaussian mechanism (Mironov, Talwar, Zhang 2019).

Of each order the cost of rounds adds up; the tightest of them gives an epsilon for a delta (Canonne, Kamath, Steinke
2020, proposition 12). Each round takes each client with a probability `rate`, independently; what a client adds is at
most `clip` long, and Gaussian noise of `multiplier` times that is in the sum.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

ORDERS: Final[tuple[float, ...]] = (
    *(1 + tenth / 10 for tenth in range(1, 100)),
    *map(float, range(11, 65)),
    *(128.0, 256.0, 512.0, 1024.0),
)
"""Of Rényi's divergences that are tried."""
_SMALL: Final = -30.0  # exponent of terms that a series ends at
_ERFC_FAR: Final = 25.0  # from here erfc is below what a number holds


def epsilon_of(*, multiplier: float, rounds: int, delta: float, rate: float = 1.0) -> float:
    """The epsilon of so many rounds for a delta; infinite without noise.

    Raises:
        ValueError: A value is outside what it may be.
    """
    if not 0 < delta < 1 or not 0 < rate <= 1 or multiplier < 0 or rounds < 0:
        raise ValueError("delta must be in (0, 1), rate in (0, 1], multiplier and rounds at least 0")
    if rounds == 0:
        return 0.0
    if multiplier == 0:
        return math.inf
    return least_epsilon([rounds * renyi(order, multiplier, rate) for order in ORDERS], delta)


def least_epsilon(costs: Sequence[float], delta: float) -> float:
    """The smallest epsilon that costs by order, as `ORDERS` has them, give for a delta."""
    found = math.inf
    for order, cost in zip(ORDERS, costs, strict=True):
        if math.isfinite(cost):
            value = cost + math.log1p(-1 / order) - math.log(delta * order) / (order - 1)
            found = min(found, max(0.0, value))
    return found


def renyi(order: float, multiplier: float, rate: float = 1.0) -> float:
    """What one round costs, of an order above 1."""
    if rate == 1:
        return order / (2 * multiplier**2)
    log_moment = _whole if order == int(order) else _between
    return max(0.0, log_moment(order, multiplier, rate) / (order - 1))


def _whole(order: float, multiplier: float, rate: float) -> float:
    """Logarithm of the moment of a whole order: a finite sum."""
    terms = [
        _log_binomial(order, k)
        + k * math.log(rate)
        + (order - k) * math.log1p(-rate)
        + (k * k - k) / (2 * multiplier**2)
        for k in range(int(order) + 1)
    ]
    return _log_sum(terms)


def _between(order: float, multiplier: float, rate: float) -> float:
    """The same of an order between whole ones: two series, whose terms change their sign where the binomials do."""
    middle = multiplier**2 * math.log(1 / rate - 1) + 0.5
    root = math.sqrt(2) * multiplier
    plus, minus = [-math.inf], [-math.inf]
    k = 0
    while True:
        log_binomial, sign = _signed_binomial(order, k)
        rest = order - k
        low = k * math.log(rate) + rest * math.log1p(-rate) + (k * k - k) / (2 * multiplier**2)
        high = rest * math.log(rate) + k * math.log1p(-rate) + (rest * rest - rest) / (2 * multiplier**2)
        low += math.log(0.5) + _log_erfc((k - middle) / root)
        high += math.log(0.5) + _log_erfc((middle - rest) / root)
        (plus if sign > 0 else minus).extend((log_binomial + low, log_binomial + high))
        k += 1
        if k > order and max(low, high) + log_binomial < _SMALL:
            break
    above, below = _log_sum(plus), _log_sum(minus)
    return above if below == -math.inf else above + math.log1p(-math.exp(min(below - above, -1e-15)))


def _log_binomial(order: float, k: int) -> float:
    return math.lgamma(order + 1) - math.lgamma(k + 1) - math.lgamma(order - k + 1)


def _signed_binomial(order: float, k: int) -> tuple[float, int]:
    """Logarithm of a generalised binomial, and its sign."""
    below = order - k + 1  # its gamma function is negative where an odd number of factors is
    sign = 1 if below > 0 or math.floor(below) % 2 == 0 else -1
    return _log_binomial(order, k), sign


def _log_erfc(x: float) -> float:
    if x < _ERFC_FAR:
        return math.log(math.erfc(x))
    square = 1 / (x * x)  # by its asymptotic series
    series = 1 - square / 2 + 3 * square**2 / 4 - 15 * square**3 / 8
    return -x * x - math.log(x) - 0.5 * math.log(math.pi) + math.log(series)


def _log_sum(terms: Sequence[float]) -> float:
    most = max(terms)
    return most if math.isinf(most) else most + math.log(math.fsum(math.exp(term - most) for term in terms))
