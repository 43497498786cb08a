"""Whose turn it is of those who wait."""

import random
from collections import Counter

import pytest

from inferd.core.ids import Tenant
from inferd.engine.token.gate import MOST_PASSED, Gate, Standing, Ticket
from inferd.engine.token.submission import Share


def ticket(tenant: str, priority: int = 2, weight: float = 1.0) -> Ticket:
    return Ticket(Standing(priority=priority, share=Share(tenant=Tenant(tenant), weight=weight)))


def whose(given: Ticket | None) -> str:
    return "" if given is None else given.standing.share.tenant


def test_one_tenant_never_has_all() -> None:
    """However many one tenant asks for, it has its most, and another one's first gets a turn at once."""
    gate: Gate[Ticket] = Gate(most=4, each=2)
    for _ in range(100):
        gate.wait(ticket("a", priority=3))
    assert [whose(gate.next()) for _ in range(3)] == ["a", "a", ""]
    gate.wait(ticket("b", priority=1))
    assert whose(gate.next()) == "b"
    gate.wait(ticket("b", priority=3))
    assert whose(gate.next()) == ""  # the last turn is for a tenant that has none
    gate.wait(ticket("c", priority=1))
    assert whose(gate.next()) == "c"
    gate.wait(ticket("d"))
    assert gate.next() is None
    assert len(gate) == 100


def test_the_highest_class_goes_first() -> None:
    """Of those that may have a turn the highest class has it, and of a tenant's who came first."""
    gate: Gate[Ticket] = Gate(most=2, each=2)
    low, normal, high, again = ticket("a", 1), ticket("b", 2), ticket("c", 3), ticket("c", 3)
    for each in (low, normal, high, again):
        gate.wait(each)
    order = []
    while (given := gate.next()) is not None:
        order.append(given)
        gate.end(given)
    assert order == [high, again, normal, low]


def test_a_class_that_waits_long_goes_first_once() -> None:
    """Without end above it, a lower class gets a turn after it was passed so often."""
    gate: Gate[Ticket] = Gate(most=1, each=1)
    low = ticket("a", 1)
    gate.wait(low)
    order = []
    for _ in range(3 * MOST_PASSED):
        gate.wait(ticket("b", 3))
        given = gate.next()
        assert given is not None
        order.append(given)
        gate.end(given)
    assert order.index(low) == MOST_PASSED


@pytest.mark.parametrize("seed", range(3))
def test_turns_are_shared_by_weight(seed: int) -> None:
    """Tenants that always ask get turns about in proportion to their weights, in whatever order those end."""
    draw = random.Random(seed)
    gate: Gate[Ticket] = Gate(most=4, each=4)
    weights = {"a": 1.0, "b": 2.0}
    had: Counter[str] = Counter()
    running: list[Ticket] = []
    for tenant, weight in weights.items():
        for _ in range(700):
            gate.wait(ticket(tenant, weight=weight))
    for _ in range(900):
        while (given := gate.next()) is not None:
            running.append(given)
            had[whose(given)] += 1
        gate.end(running.pop(draw.randrange(len(running))))
    assert 1.6 < had["b"] / had["a"] < 2.4


def test_who_is_withdrawn_waits_no_more() -> None:
    """A ticket leaves its line at once; one that has its turn is none that waits."""
    gate: Gate[Ticket] = Gate(most=2, each=2)
    first, second = ticket("a"), ticket("a")
    gate.wait(first)
    gate.wait(second)
    assert gate.withdraw(first)
    assert not gate.withdraw(first)
    assert gate.next() is second
    assert not gate.withdraw(second)
    assert len(gate) == 0


def test_who_has_no_room_delays_no_other_tenant() -> None:
    """Where the first in line does not fit, its line waits with it, and that of another tenant goes on."""
    gate: Gate[Ticket] = Gate(most=4, each=2)
    large, small = ticket("a", 3), ticket("b", 1)
    gate.wait(large)
    gate.wait(ticket("a", 3))
    gate.wait(small)
    assert gate.next(lambda each: each is not large) is small
    assert gate.next(lambda each: each is not large) is None
    assert gate.next() is large
