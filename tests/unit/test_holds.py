import pytest

from inferd.engine.token import holds
from inferd.engine.token.holds import Hold, Holds
from inferd.errors import LeaseEndedError


def hold(some: Holds, lease_id: str, *, rows: int, blocks: int, token: int = 1) -> Hold:
    some.change(lease_id, token, rows=rows, blocks=blocks)
    found = some.find(lease_id, token)
    assert found is not None
    return found


def test_what_is_held_is_open_to_its_lease_alone() -> None:
    """Of what is free others may take what no lease holds; a lease's own sequences may take that and its hold."""
    some = Holds(rows=8, blocks=100)
    one, two = hold(some, "one", rows=2, blocks=30), hold(some, "two", rows=1, blocks=10)
    assert [some.open_rows(8, each) for each in (None, one, two)] == [5, 7, 6]
    assert [some.open_blocks(100, each) for each in (None, one, two)] == [60, 90, 70]
    assert [some.open_blocks(100, each, own=True) for each in (None, one, two)] == [0, 30, 10]
    assert [some.most_blocks(each) for each in (None, one, two)] == [60, 90, 70]
    assert [some.most_rows(each) for each in (None, one, two)] == [5, 7, 6]


def test_hold_is_taken_first() -> None:
    """What its sequences take of a hold need not be free any more; what they take beyond is not held."""
    some = Holds(rows=8, blocks=100)
    one = hold(some, "one", rows=1, blocks=3)
    some.take(one, [1, 2], rows=1)
    assert (some.kept_rows, some.kept_blocks) == (0, 1)
    some.take(one, [2, 3, 4, 5], rows=1)
    assert (some.kept_rows, some.kept_blocks) == (0, 0)
    assert [some.open_blocks(95, each) for each in (None, one)] == [95, 95]
    some.release(one, [1, 2], rows=1)
    assert (some.kept_rows, some.kept_blocks) == (0, 0)  # block 2 is the other's too
    some.release(one, [2, 3, 4, 5], rows=1)
    assert (some.kept_rows, some.kept_blocks) == (1, 3)


def test_later_hold_replaces_the_earlier() -> None:
    """A hold grows and shrinks with what was taken of it; one of an older grant is ignored."""
    some = Holds(rows=8, blocks=100)
    one = hold(some, "one", rows=1, blocks=3)
    some.take(one, [1, 2], rows=1)
    assert hold(some, "one", rows=4, blocks=10, token=5) is one
    assert (some.rows, some.blocks, some.kept_rows, some.kept_blocks) == (4, 10, 3, 8)
    some.change("one", 4, rows=8, blocks=100)
    some.change("one", 5, rows=0, blocks=1)
    assert (some.rows, some.blocks, some.kept_rows, some.kept_blocks) == (0, 1, 0, 0)
    some.change("one", 5, rows=0, blocks=0)
    assert (some.rows, some.blocks, some.kept_rows, some.kept_blocks) == (0, 0, 0, 0)


def test_tasks_of_an_ended_lease_are_refused() -> None:
    """A task must name the grant that holds; nothing is known of leases that never held anything here."""
    some = Holds(rows=8, blocks=100)
    hold(some, "one", rows=1, blocks=3, token=7)
    assert some.find("", 0) is None
    assert some.find("other", 3) is None
    for token in (6, 8):
        with pytest.raises(LeaseEndedError, match="held by grant 7 now") as caught:
            some.find("one", token)
        assert caught.value.metadata == {"lease_id": "one", "fencing_token": str(token)}
    some.change("one", 7, rows=0, blocks=0)
    with pytest.raises(LeaseEndedError, match="lease one has ended"):
        some.find("one", 7)


def test_ended_leases_are_remembered_within_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the leases that hold nothing the oldest is forgotten first; those that hold something never are."""
    monkeypatch.setattr(holds, "MOST_LEASES", 3)
    some = Holds(rows=8, blocks=100)
    hold(some, "held", rows=1, blocks=1)
    for number in range(5):
        hold(some, f"{number}", rows=1, blocks=1)
        some.change(f"{number}", 1, rows=0, blocks=0)
    assert [name for name in ("held", "0", "1", "2", "3", "4") if name in some._leases] == ["held", "3", "4"]


def test_holds_of_more_than_there_is() -> None:
    """Leases whose holds exceed the pool get what is free, each up to its own; others get nothing."""
    some = Holds(rows=8, blocks=4)
    one, two = hold(some, "one", rows=1, blocks=3), hold(some, "two", rows=1, blocks=3)
    assert [some.open_blocks(4, each) for each in (one, two)] == [3, 3]
    assert some.open_blocks(4, None) <= 0
    some.take(one, [0, 1, 2], rows=1)
    assert [some.open_blocks(1, each) for each in (one, two)] == [0, 1]
    assert [some.most_blocks(each) for each in (None, one)] == [0, 3]
