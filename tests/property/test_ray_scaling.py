"""How many nodes are wanted, whatever the load does."""

from hypothesis import given
from hypothesis import strategies as st

from inferd.ray.scaling import Bounds, Scaler, Target

BOUNDS = Bounds(least_nodes=1, most_nodes=6, tasks_per_node=10, ask_after_s=5, idle_s=60)


def decide(scaler: Scaler, now: float, waiting: int, **hosts: bool) -> Target:
    return scaler.decide(waiting=waiting, hosts=hosts, now=now)


def test_nodes_are_asked_for_once_things_have_waited() -> None:
    """A wait that is short moves nothing; a long one asks for as many as wait, once, until these have come."""
    scaler = Scaler(BOUNDS, 1)
    assert decide(scaler, 0, 25, a=True).nodes == 1
    assert decide(scaler, 4, 0, a=True).nodes == 1
    assert decide(scaler, 5, 25, a=True).nodes == 1
    assert decide(scaler, 10, 25, a=True).nodes == 4
    assert decide(scaler, 100, 25, a=True).nodes == 4
    assert decide(scaler, 101, 25, a=True, b=True, c=True, d=True).nodes == 6


def test_idle_nodes_go_and_the_least_stay() -> None:
    """A host goes once it was idle for its time, with nothing waiting meanwhile; a busy one and the least do not."""
    scaler = Scaler(BOUNDS, 3)
    assert decide(scaler, 0, 0, a=False, b=True, c=False) == Target(nodes=3)
    assert decide(scaler, 59, 0, a=False, b=True, c=False) == Target(nodes=3)
    assert decide(scaler, 60, 0, a=False, b=True, c=False) == Target(nodes=1, let_go=frozenset("ac"))
    assert decide(scaler, 61, 0, b=False) == Target(nodes=1)
    assert decide(scaler, 200, 0, b=False) == Target(nodes=1)


def test_what_does_not_come_is_not_asked_for_when_nobody_waits() -> None:
    """Nodes that were asked for and did not come are not waited for, once nothing has waited for long enough."""
    scaler = Scaler(BOUNDS, 1)
    decide(scaler, 0, 30, a=True)
    assert decide(scaler, 5, 30, a=True).nodes == 4
    decide(scaler, 6, 0, a=True)
    assert decide(scaler, 65, 0, a=True).nodes == 4
    assert decide(scaler, 66, 0, a=True).nodes == 1


steps = st.lists(
    st.tuples(
        st.floats(min_value=0.1, max_value=40),
        st.integers(min_value=0, max_value=100),
        st.sets(st.sampled_from("abcdefgh")),
        st.sets(st.sampled_from("abcdefgh")),
    ),
    max_size=60,
)


@given(steps)
def test_it_stays_in_its_bounds_and_lets_only_the_idle_go(loads: list[tuple[float, int, set[str], set[str]]]) -> None:
    """Whatever comes and goes: the bounds hold, no busy host goes, and none while something waits or has of late."""
    scaler, now, calm, before = Scaler(BOUNDS), 0.0, 0.0, BOUNDS.least_nodes
    for gap_s, waiting, there, busy in loads:
        now += gap_s
        calm = now if waiting else calm
        target = decide(scaler, now, waiting, **{name: name in busy for name in there})
        assert BOUNDS.least_nodes <= target.nodes <= BOUNDS.most_nodes
        assert target.let_go <= there - busy
        assert len(there) - len(target.let_go) >= min(BOUNDS.least_nodes, len(there))
        if target.let_go:
            assert now - calm >= BOUNDS.idle_s
        if target.nodes > before:
            assert waiting
            assert len(there) >= before
        before = target.nodes


@given(st.integers(min_value=0, max_value=8), st.integers(min_value=0, max_value=200))
def test_a_load_that_does_not_change_moves_nothing_in_the_end(start: int, waiting: int) -> None:
    """With a constant load, and nodes that come and go as wanted, the number of nodes becomes one and stays."""
    scaler, there, told = Scaler(BOUNDS, start), {f"h{number}" for number in range(start)}, []
    for now in range(0, 2000, 5):
        target = scaler.decide(waiting=waiting, hosts=dict.fromkeys(there, bool(waiting)), now=float(now))
        there -= target.let_go
        there |= {f"h{now}-{number}" for number in range(target.nodes - len(there))}
        told.append(target.nodes)
    assert len(set(told[-100:])) == 1
    assert told[-1] == (BOUNDS.most_nodes if waiting else BOUNDS.least_nodes)
