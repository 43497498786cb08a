"""What is done about the nodes of a Ray cluster, from what is seen of them."""

from dataclasses import replace

import pytest

from inferd.ray.labels import labels_of
from inferd.ray.reconciling import HEAD, MOST_AT_ONCE, Times, choose, is_excluded, reconcile
from inferd.ray.reserving import asked_of, bundle_of, lacking
from inferd.ray.values import Agent, Do, HostSeen, HostState, Node, Phase, Seen, host_name
from inferd.ray_settings import Ray

A, B = "a" * 56, "b" * 56
TIMES = Times(start_s=60, drain_s=30)


def seen(*nodes: Node, agents: tuple[Agent, ...] = (), hosts: tuple[HostSeen, ...] = ()) -> Seen:
    return Seen(
        nodes={each.node_id: each for each in nodes},
        agents={each.node_id: each for each in agents},
        hosts={each.name: each for each in hosts},
    )


def done(what: Seen, *wanted: str, now: float = 100.0) -> list[tuple[Do, str]]:
    return [(each.do, each.node_id) for each in reconcile(what, frozenset(wanted), now, TIMES)]


def host(node_id: str, state: HostState = HostState.READY, *, busy: bool = False, instances: int = 0) -> HostSeen:
    return HostSeen(name=host_name(node_id), state=state, busy=busy, instances=instances)


def test_a_new_node_is_given_an_agent_in_two_steps() -> None:
    """A node that is to have an agent gets an actor first, which starts the agent once it is there; then nothing."""
    node = Node(node_id=A)
    assert done(seen(node), A) == [(Do.PLACE, A)]
    assert done(seen(node, agents=(Agent(node_id=A, phase=Phase.PLACING),)), A) == []
    assert done(seen(node, agents=(Agent(node_id=A, phase=Phase.IDLE),)), A) == [(Do.JOIN, A)]
    assert done(seen(node, agents=(Agent(node_id=A, phase=Phase.ATTACHED),), hosts=(host(A),)), A) == []


@pytest.mark.parametrize(("phase", "do"), [(Phase.ENDED, Do.JOIN), (Phase.GONE, Do.RELEASE)])
def test_what_failed_is_tried_again_and_not_before_its_time(phase: Phase, do: Do) -> None:
    """An agent that ended is started anew, and an actor that is no more made anew, once the pause is over."""
    agent = Agent(node_id=A, phase=phase, retry_at=101)
    assert done(seen(Node(node_id=A), agents=(agent,)), A, now=100) == []
    assert done(seen(Node(node_id=A), agents=(agent,)), A, now=101) == [(do, A)]


@pytest.mark.parametrize("phase", [Phase.STARTING, Phase.SILENT])
def test_what_does_not_come_is_made_anew(phase: Phase) -> None:
    """An agent that is not attached in time, or whose actor does not answer for as long, is given up."""
    agent = Agent(node_id=A, phase=phase, since=40)
    assert done(seen(Node(node_id=A), agents=(agent,)), A, now=100) == []
    assert done(seen(Node(node_id=A), agents=(agent,)), A, now=101) == [(Do.RELEASE, A)]


@pytest.mark.parametrize("state", HostState)
def test_a_dead_node_is_told_at_once(state: HostState) -> None:
    """The kernel hears from Ray that a host is gone, whatever it thinks of it, and what was reserved is given back."""
    what = seen(Node(node_id=A, alive=False), agents=(Agent(node_id=A, phase=Phase.ATTACHED),), hosts=(host(A, state),))
    assert done(what) == [(Do.FORGET, A), (Do.RELEASE, A)]
    assert done(seen(Node(node_id=A, alive=False))) == []


def test_a_node_is_drained_before_it_goes() -> None:
    """What runs on a node that Ray lets go, or that is not wanted, has its time to end; then its agent ends."""
    node = Node(node_id=A, drains=True)
    runs = Agent(node_id=A, phase=Phase.ATTACHED)
    drains = Agent(node_id=A, phase=Phase.ATTACHED, drained_at=80)
    holds = host(A, HostState.DRAINING, busy=True, instances=1)
    assert done(seen(node, agents=(runs,), hosts=(host(A, busy=True, instances=1),))) == [(Do.DRAIN, A)]
    assert done(seen(node, agents=(drains,), hosts=(holds,)), now=110) == []
    assert done(seen(node, agents=(drains,), hosts=(holds,)), now=111) == [(Do.RELEASE, A)]
    assert done(seen(node, agents=(drains,), hosts=(host(A, HostState.DRAINING),)), now=81) == [(Do.RELEASE, A)]
    assert done(seen(node, agents=(runs,), hosts=(host(A, HostState.LOST),))) == [(Do.RELEASE, A)]


def test_a_node_that_is_wanted_again_takes_work_again() -> None:
    """A drain that was begun is taken back if the node is wanted before it has gone, by whichever process began it.

    What an operator drains stays so, and what is let go drains also where another process has begun that.
    """
    ours = replace(host(A, HostState.DRAINING, instances=1), let_go=True)
    for drained_at in (80, None):
        agent = Agent(node_id=A, phase=Phase.ATTACHED, drained_at=drained_at)
        assert done(seen(Node(node_id=A), agents=(agent,), hosts=(ours,)), A) == [(Do.RESUME, A)]
        assert done(seen(Node(node_id=A), agents=(agent,), hosts=(host(A, HostState.DRAINING),)), A) == []
    assert done(seen(Node(node_id=A), hosts=(replace(ours, state=HostState.LOST),)), A) == [
        (Do.RESUME, A),
        (Do.PLACE, A),
    ]
    assert done(seen(Node(node_id=A), agents=(agent,), hosts=(ours,))) == [(Do.DRAIN, A)]


def test_so_many_agents_begin_at_once_and_no_more() -> None:
    """A thousand nodes that come together are invited in parts, those that begin already counted."""
    ids = [f"{number:056x}" for number in range(1000)]
    agents = [Agent(node_id=each, phase=Phase.IDLE) for each in ids]
    agents[0] = Agent(node_id=ids[0], phase=Phase.STARTING, since=100)
    what = seen(*(Node(node_id=each) for each in ids), agents=tuple(agents))
    assert len(done(what, *ids)) == MOST_AT_ONCE - 1


def test_nodes_are_chosen_that_move_the_least() -> None:
    """Of more nodes than are wanted busy ones stay, then those with an agent; what waits for room or is idle goes."""
    nodes = [Node(node_id=each * 56) for each in "abcd"]
    agents = (
        Agent(node_id="a" * 56, phase=Phase.PLACING, stuck=True),
        Agent(node_id="b" * 56, phase=Phase.ATTACHED),
        Agent(node_id="c" * 56, phase=Phase.ATTACHED),
    )
    what = seen(*nodes, agents=agents, hosts=(host("b" * 56), host("c" * 56, busy=True)))
    picked = [sorted(each[0] for each in choose(what, what.nodes, count)) for count in range(5)]
    assert picked == [[], ["c"], ["b", "c"], ["b", "c", "d"], ["a", "b", "c", "d"]]
    more = {**what.agents, "d" * 56: Agent(node_id="d" * 56, phase=Phase.ATTACHED, drained_at=1)}
    what = Seen(nodes=what.nodes, agents=more, hosts=what.hosts)
    picked = [sorted(each[0] for each in choose(what, what.nodes, count)) for count in range(5)]
    assert picked == [[], ["c"], ["b", "c"], ["b", "c", "d"], ["a", "b", "c", "d"]]
    agents = {each: Agent(node_id=each * 56, phase=Phase.ATTACHED) for each in "bcd"}
    what = Seen(nodes=what.nodes, agents={each.node_id: each for each in agents.values()}, hosts=what.hosts)
    last = choose(what, what.nodes, 2, last=frozenset({host_name("b" * 56)}))
    assert sorted(each[0] for each in last) == ["c", "d"]


@pytest.mark.parametrize("named", [A, "10.0.0.7", "gpu-7", "zone=b", "head"])
def test_a_node_is_left_out_by_what_it_is_called(named: str) -> None:
    """The configuration leaves out nodes by id, address, name or label, and the head by that word."""
    node = Node(node_id=A, names=("10.0.0.7", "gpu-7"), labels={"zone": "b"}, resources={HEAD: 1.0})
    assert is_excluded(node, (named,))
    assert not is_excluded(node, ("10.0.0.70", "zone=c", B))


def test_labels_are_those_of_the_node_in_words_that_hosts_may_have() -> None:
    """Labels come from labels and resources of Ray; what the node lacks is none, and letters that none may have go."""
    node = Node(
        node_id=A, labels={"ray.io/availability-zone": "eu west/1"}, resources={"accelerator_type:H100": 1, "x": 2}
    )
    sources = {"zone": "ray.io/availability-zone", "gpu": "resource:accelerator_type:", "x": "resource:x", "y": "y"}
    assert labels_of(node, sources) == {"zone": "eu-west-1", "gpu": "H100", "x": "2"}


def test_an_agent_reserves_what_is_configured_or_all() -> None:
    """What is not configured is all that the node has, and a node with too little is told with both numbers."""
    node = Node(node_id=A, resources={"CPU": 8, "memory": 1e9, "inferd": 1})
    assert bundle_of(node, Ray()) == {"CPU": 8, "memory": 1e9}
    assert bundle_of(node, Ray(cpus=2, gpus=1, resource="inferd")) == {"CPU": 2, "GPU": 1, "memory": 1e9, "inferd": 1}
    assert lacking(node, bundle_of(node, Ray())) == ""
    assert lacking(node, {"CPU": 9}) == "it has 8 of CPU, and ray.cpus asks for 9"
    assert lacking(Node(node_id=A), {})


def test_nodes_are_asked_for_like_those_that_are_known() -> None:
    """Ray's autoscaler is asked for what is configured; of the rest for what the least node has, else for one CPU."""
    assert asked_of(Ray(cpus=4), {A: {"CPU": 8, "memory": 2e9}, B: {"CPU": 8, "memory": 1e9}}) == {
        "CPU": 4,
        "memory": 1e9,
    }
    assert asked_of(Ray(), {}) == {"CPU": 1}
