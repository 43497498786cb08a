"""What rounds cost of privacy: as a published accountant has it, and as an integral has it."""

import math

import pytest

from inferd.federation.accountant import ORDERS, epsilon_of, least_epsilon, renyi

# multiplier, rounds, rate, delta, and what dp-accounting 0.6.0 (RdpAccountant) says
PUBLISHED = [
    (1.1, 3000, 0.01, 1e-5, 2.9331432318327186),
    (0.8, 100, 0.1, 1e-5, 12.40862557162675),
    (1.0, 10, 1.0, 1e-5, 19.05359753163139),
    (4.0, 1000, 0.02, 1e-6, 0.7257541714702496),
    (2.0, 30, 0.5, 1e-3, 5.799802187777548),
    (0.5, 5, 0.3, 1e-5, 18.936424715845458),
]


@pytest.mark.parametrize(("multiplier", "rounds", "rate", "delta", "published"), PUBLISHED)
def test_epsilon_agrees_with_a_published_accountant(
    multiplier: float, rounds: int, rate: float, delta: float, published: float
) -> None:
    """Within 1 percent of dp-accounting, with and without sampling, for little and much noise."""
    found = epsilon_of(multiplier=multiplier, rounds=rounds, delta=delta, rate=rate)
    assert found == pytest.approx(published, rel=0.01)


@pytest.mark.parametrize("order", [1.3, 2.5, 4.7, 8.0, 16.0])
@pytest.mark.parametrize(("multiplier", "rate"), [(0.8, 0.1), (2.0, 0.5), (1.0, 0.01)])
def test_the_cost_of_a_round_is_the_integral_that_defines_it(order: float, multiplier: float, rate: float) -> None:
    """For whole orders and those between, the moment of the ratio of both densities, integrated by small steps."""
    width, steps = 40.0 * multiplier + 2 * order, 200_000
    step = 2 * width / steps
    total = 0.0
    for number in range(steps):
        x = -width + (number + 0.5) * step
        log_ratio = math.log1p(rate * math.expm1(min(700.0, (2 * x - 1) / (2 * multiplier**2))))
        log_density = -x * x / (2 * multiplier**2) - math.log(multiplier * math.sqrt(2 * math.pi))
        total += math.exp(order * log_ratio + log_density) * step
    assert renyi(order, multiplier, rate) == pytest.approx(math.log(total) / (order - 1), rel=1e-4)


def test_privacy_has_its_ends() -> None:
    """No rounds cost nothing, none without noise is private, more rounds cost more and more noise less."""
    assert epsilon_of(multiplier=1.0, rounds=0, delta=1e-5) == 0
    assert epsilon_of(multiplier=0.0, rounds=1, delta=1e-5) == math.inf
    costs = [epsilon_of(multiplier=1.0, rounds=rounds, delta=1e-5, rate=0.1) for rounds in (1, 10, 100)]
    assert costs == sorted(costs)
    assert epsilon_of(multiplier=2.0, rounds=10, delta=1e-5) < epsilon_of(multiplier=1.0, rounds=10, delta=1e-5)
    assert least_epsilon([0.0] * len(ORDERS), 0.999) >= 0
    for wrong in ({"delta": 0.0}, {"rate": 0.0}, {"multiplier": -1.0}):
        with pytest.raises(ValueError, match="delta must be"):
            epsilon_of(**{"multiplier": 1.0, "rounds": 1, "delta": 1e-5, **wrong})
