"""How fast calls may be begun."""

import pytest

from inferd.errors import LimitExceededError
from inferd.services.rates import REMEMBERED, Rates


class Time:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def begun(rates: Rates, who: str, tries: int) -> int:
    """How many of so many calls may begin."""
    count = 0
    for _ in range(tries):
        try:
            rates.take(who)
            count += 1
        except LimitExceededError:
            pass
    return count


def test_calls_are_begun_at_a_rate() -> None:
    """Two seconds' worth at once, then as many a second as is said; what one may is not taken from another."""
    time = Time()
    rates = Rates(10.0, time)
    assert begun(rates, "a", 100) == 20
    assert begun(rates, "b", 100) == 20
    time.now += 0.5
    assert begun(rates, "a", 100) == 5
    with pytest.raises(LimitExceededError) as caught:
        rates.take("a")
    assert caught.value.metadata["bound"] == "limits.calls_per_s"
    assert 0 < (caught.value.retry_after_s or 0) <= 0.2
    time.now += 100
    assert begun(rates, "a", 100) == 20
    assert begun(Rates(0, time), "a", 100) == 100


def test_connections_that_come_and_go_are_forgotten() -> None:
    """However many connections there were, so many are remembered; the one that is fast is."""
    time = Time()
    rates = Rates(10.0, time)
    begun(rates, "fast", 20)
    for number in range(REMEMBERED // 2):
        rates.take(f"{number}")
    assert begun(rates, "fast", 10) == 0
    for number in range(REMEMBERED // 2 + 10):
        rates.take(f"more {number}")
    assert len(rates._due) == REMEMBERED
