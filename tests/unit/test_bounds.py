from contextlib import ExitStack

import pytest

from inferd.errors import LimitExceededError
from inferd.runtime.front.bounds import Bound, SharedBound


def test_what_is_open_is_counted_for_each_key() -> None:
    """One more than may be is refused with the bound's name and both numbers; another key has places of its own."""
    bound = Bound("scheduler.tenant_streams", 1, "streams of tasks")
    with bound.place("a"), bound.place("b"):
        with pytest.raises(LimitExceededError, match="1 streams of tasks of 'a' are open") as caught, bound.place("a"):
            pass
        assert caught.value.metadata == {"bound": "scheduler.tenant_streams", "value": "1", "limit": "1"}
        assert caught.value.retry_after_s is not None


def test_a_place_is_given_back_however_its_block_ends() -> None:
    """After a block, and after one that failed, the place is free; nothing is kept of keys that have none open."""
    bound = Bound("x", 1, "things")
    with pytest.raises(KeyError), bound.place():
        raise KeyError
    with bound.place():
        pass
    assert bound._open == {}


def test_a_tenant_has_a_share_of_what_is_free() -> None:
    """Nobody takes all: whoever comes next finds room, and the refusal names setting and numbers; what ends is free."""
    bound = SharedBound("leases.keepers", 10, 4.0, "streams that keep leases alive")
    with ExitStack() as places:
        for _ in range(8):
            places.enter_context(bound.place("a"))
        with pytest.raises(LimitExceededError, match=r"'a' has 8 .* 4 times the 2 .* 10 .*leases.keepers") as caught:
            bound.place("a")
        assert caught.value.metadata == {"bound": "scheduler.tenant_share", "value": "8", "free": "2"}
        places.enter_context(bound.place("b"))
        places.enter_context(bound.place("c"))
        with pytest.raises(LimitExceededError, match=r"10 streams .* leases.keepers is 10") as caught:
            bound.place("d")
        assert caught.value.metadata == {"bound": "leases.keepers", "value": "10", "limit": "10"}
    assert not bound._tenants
    with bound.place("a"):
        pass
