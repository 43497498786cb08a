"""The order of prompts, without tasks."""

import pytest

from inferd.core.ids import Tenant
from inferd.engine.token import virtual_time
from inferd.engine.token.virtual_time import VirtualTime

FLOOD, QUIET = Tenant("flood"), Tenant("quiet")


def test_one_task_goes_before_all_but_the_first_of_many() -> None:
    """A tenant that has nothing running starts before all tasks of a flood but those that began by then."""
    time = VirtualTime()
    flood = [time.start(FLOOD, 100.0) for _ in range(60)]
    assert flood == [100.0 * n for n in range(60)]
    assert time.start(QUIET, 500.0) == 0.0
    for start in flood[:11]:
        time.end(start)
    assert time.start(QUIET, 500.0) == 1000.0
    assert time.start(FLOOD, 100.0) == 6000.0


def test_nobody_is_passed_for_ever() -> None:
    """While one task waits, another tenant that never pauses gets as many tokens as go before that one, and no more."""
    time = VirtualTime()
    waits = [time.start(FLOOD, 100.0) for _ in range(60)][-1]
    served = 0.0
    while (start := time.start(QUIET, 500.0)) < waits:
        served += 500.0
        time.end(start)
    assert waits <= served < waits + 500.0


def test_a_tenant_that_was_idle_gets_no_credit() -> None:
    """After a pause a tenant starts where the others are, not where it was."""
    time = VirtualTime()
    time.end(time.start(QUIET, 10.0))
    for _ in range(10):
        time.end(time.start(FLOOD, 100.0))
    assert time.start(QUIET, 10.0) == 900.0


def test_the_next_task_starts_where_the_last_one_really_ended() -> None:
    """A task that cost less than expected brings the next one forward, one that cost more back; none before now."""
    time = VirtualTime()
    time.end(time.start(QUIET, 100.0))
    time.settle(QUIET, 70.0)
    assert time.start(QUIET, 10.0) == 30.0
    time.settle(QUIET, -5.0)
    assert time.start(QUIET, 10.0) == 45.0
    time.end(45.0)
    time.settle(QUIET, 10.0)
    assert time.start(QUIET, 1.0) == 45.0


def test_tenants_that_are_remembered_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more tenants than are remembered, the one whose task ends first starts as if it was new."""
    monkeypatch.setattr(virtual_time, "TENANTS", 2)
    time = VirtualTime()
    for name, tokens in (("a", 5.0), ("b", 3.0), ("c", 4.0)):
        assert time.start(Tenant(name), tokens) == 0.0
    assert [time.start(Tenant(name), 1.0) for name in ("c", "a")] == [4.0, 5.0]
    assert time.start(Tenant("b"), 1.0) == 0.0


def test_tenants_that_cost_more_than_expected_are_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is added when tasks end keeps the bound: the tenant that ends first starts as if it was new."""
    monkeypatch.setattr(virtual_time, "TENANTS", 2)
    time = VirtualTime()
    for name, more in (("a", 5.0), ("b", 3.0), ("c", 4.0)):
        time.settle(Tenant(name), -more)
    assert [time.start(Tenant(name), 0.0) for name in ("c", "a", "b")] == [4.0, 5.0, 0.0]
