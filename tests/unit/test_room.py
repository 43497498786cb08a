"""How much is stored of kept tasks, and what gives way."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferd.core.ids import TaskId, Tenant
from inferd.core.room import Room
from inferd.errors import LimitExceededError

A, B = Tenant("a"), Tenant("b")


def test_whoever_has_most_gives_up_its_oldest() -> None:
    """Outputs of ended tasks go until all is within the bound: of who has most, so that another one loses none."""
    room = Room(100, 1.0)
    for number in range(4):
        room.end(TaskId(f"a{number}"), A, 20)
    room.end(TaskId("b"), B, 30)
    assert room.excess() == ("a0", A)
    room.drop(TaskId("a0"), A)
    assert (room.excess(), room.all_bytes) == (None, 90)
    room.live(TaskId("c"), B, 25)
    assert room.excess() == ("a1", A)
    for task_id in ("a1", "a2"):
        room.drop(TaskId(task_id), A)
    room.end(TaskId("c"), B, 45)
    assert (room.excess(), room.all_bytes) == (None, 95)
    room.live(TaskId("d"), A, 6)
    assert room.excess() == ("b", B)


def test_a_task_without_room_is_refused_with_both_numbers() -> None:
    """What has not ended gives no way: the next one hears what is there and may be, as does one beyond its share."""
    room = Room(100, 1.0)
    room.live(TaskId("a"), A, 40)
    room.end(TaskId("b"), B, 60)
    room.check(B, 60)
    with pytest.raises(LimitExceededError) as caught:
        room.check(B, 61)
    assert caught.value.metadata == {"bound": "store.bytes", "value": "61", "held": "40", "limit": "100"}
    room.check(A, 20)
    with pytest.raises(LimitExceededError, match=r"may have 1 times the 60 bytes that are left of 100") as caught:
        room.check(A, 21)
    assert caught.value.metadata["held"] == "40"
    assert caught.value.retry_after_s is not None


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["live", "end", "drop"]),
            st.sampled_from("pqrs"),
            st.sampled_from([A, B]),
            st.integers(0, 9),
        )
    )
)
def test_the_sums_are_those_of_the_tasks(steps: list[tuple[str, str, Tenant, int]]) -> None:
    """Whatever tasks take, end and are forgotten, the sums are what their parts come to."""
    room, living, ended = Room(5, 1.0), dict[tuple[Tenant, str], int](), dict[tuple[Tenant, str], int]()
    for what, name, tenant, size_bytes in steps:
        task_id, key = TaskId(f"{tenant}{name}"), (tenant, name)
        if what == "live" and key not in ended:
            room.live(task_id, tenant, size_bytes)
            living[key] = size_bytes
        elif what != "live":
            living.pop(key, None)
            ended.pop(key, None)
            if what == "end":
                room.end(task_id, tenant, size_bytes)
                ended[key] = size_bytes
            else:
                room.drop(task_id, tenant)
        assert room.living_bytes == sum(living.values())
        assert room.all_bytes == sum(living.values()) + sum(ended.values())
        sums = {who: sum(size for (of, _), size in ended.items() if of == who) for who in (A, B)}
        if (found := room.excess()) is not None:
            assert room.all_bytes > room.limit_bytes
            assert sums[found[1]] == max(sums.values())
            assert found[0] == next(f"{who}{each}" for who, each in ended if who == found[1])
        else:
            assert room.all_bytes <= room.limit_bytes or not ended
