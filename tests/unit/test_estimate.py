import pytest

from inferd.core.estimate import UNKNOWN_TOKENS, ServiceTimes
from inferd.core.ids import Tenant

A, B = Tenant("a"), Tenant("b")


def test_nothing_is_promised_before_something_was_measured() -> None:
    """There is no estimate of a wait until a task ended, and a fixed one of its tokens, within what it may put out."""
    times = ServiceTimes()
    assert times.eta_s(3, 2) is None
    assert times.output_tokens(A, None) == UNKNOWN_TOKENS
    assert times.output_tokens(A, 16) == 16


def test_a_wait_is_the_tasks_before_by_their_time_over_the_places() -> None:
    """A task behind three others waits for the fourth end, of which each place has one in a mean time."""
    times = ServiceTimes()
    times.observe(A, run_s=2.0, output_tokens=5)
    times.observe(B, run_s=4.0, output_tokens=5)
    assert times.eta_s(3, 2) == pytest.approx(4 * 3.0 / 2)
    assert times.eta_s(0, 1) == pytest.approx(3.0)
    assert times.eta_s(0, 0) is None


def test_outputs_are_learned_by_tenant() -> None:
    """A tenant's tasks are expected to be like its others, a newcomer's like all; `max_tokens` bounds both."""
    times = ServiceTimes()
    for _ in range(5):
        times.observe(A, run_s=1.0, output_tokens=100)
        times.observe(B, run_s=1.0, output_tokens=20)
    assert times.output_tokens(A, None) == pytest.approx(100)
    assert times.output_tokens(B, 8192) == pytest.approx(20)
    assert times.output_tokens(Tenant("new"), None) == pytest.approx(60)
    assert times.output_tokens(A, 7) == 7


def test_what_was_learned_follows_what_is_measured() -> None:
    """When tasks become ten times as long, the estimate has followed most of the way after twenty of them."""
    times = ServiceTimes()
    for run_s in [1.0] * 100 + [10.0] * 20:
        times.observe(A, run_s=run_s, output_tokens=1)
    estimate = times.eta_s(0, 1)
    assert estimate is not None
    assert 8.0 < estimate < 10.0


def test_tenants_that_are_told_apart_are_bounded() -> None:
    """The tenant that was idle longest is forgotten when there are too many."""
    times = ServiceTimes(tenants=2)
    for tenant, tokens in ((A, 10), (B, 20), (A, 10), (Tenant("c"), 30)):
        times.observe(tenant, run_s=1.0, output_tokens=tokens)
    assert times.output_tokens(A, None) == pytest.approx(10)
    assert times.output_tokens(B, None) == pytest.approx((10 + 20 + 10 + 30) / 4)
