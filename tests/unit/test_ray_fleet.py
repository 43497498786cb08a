"""A fleet on a cluster and with a kernel that are played: what comes of failures of either."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from inferd.cli.output import CommandError
from inferd.cli.ray import fleet_name, read_authorities
from inferd.cli.ray_beside import join_address
from inferd.ray import cluster as clusters
from inferd.ray import fleet as fleets
from inferd.ray.actor import Report
from inferd.ray.agent_process import Orders
from inferd.ray.cluster import Actor, ClusterError, cluster_address, connect, explain, why_of
from inferd.ray.fleet import Fleet
from inferd.ray.values import HostSeen, HostState, Node, host_name
from inferd.ray_settings import Ray
from inferd_client import InferdError

A, B = "a" * 56, "b" * 56


class Played:
    """A cluster whose actors do as they are told at once; and its kernel."""

    def __init__(self) -> None:
        self.there = {each: Node(node_id=each, resources={"CPU": 4, "memory": 1e9}) for each in (A, B)}
        self.actors: dict[str, Actor] = {}
        self.ending: dict[str, Actor] = {}
        self.others = False
        self.asked: list[int] = []
        self.orders: list[Orders] = []
        self.hosts: dict[str, HostSeen] = {}
        self.waiting, self.beats, self.told = 0, 0, list[str]()
        self.refuses: Callable[[str], bool] = lambda _: False

    def adopt(self) -> int:
        return len(self.actors)

    def nodes(self) -> Mapping[str, Node]:
        return dict(self.there)

    def place(self, node: Node, bundle: Mapping[str, float]) -> None:
        self.actors[node.node_id] = Actor(None, dict(bundle), None, report=Report(1, "idle"))

    def begin(self, node_id: str, orders: Orders) -> int:
        self.orders.append(orders)
        self.say(node_id, "attached")
        self.hosts[orders.name] = HostSeen(name=orders.name, state=HostState.READY)
        return 1

    def say(self, node_id: str, state: str, why: str = "") -> None:
        report = self.actors[node_id].report
        self.actors[node_id].report = Report(1 if report is None else report.number + 1, state, why)

    def release(self, node_id: str) -> None:
        del self.actors[node_id]

    def give_back(self, dead: object) -> None: ...

    def beat(self) -> None:
        self.beats += 1

    def ask(self, bundles: Sequence[object]) -> None:
        self.asked.append(len(bundles))

    def look(self) -> tuple[Mapping[str, HostSeen], int]:
        if self.refuses("look"):
            raise InferdError("no kernel answers")
        return dict(self.hosts), self.waiting

    def invite(self, host: str, ttl_s: float) -> str:
        if self.refuses("invite"):
            raise InferdError("too many keys")
        return f"invitation of {host} for {ttl_s:g} s"

    def drain(self, host: str) -> None:
        self.told.append(f"drain {host}")
        self.hosts[host] = HostSeen(name=host, state=HostState.DRAINING, let_go=True)

    def resume(self, host: str) -> None:
        self.told.append(f"resume {host}")

    def forget(self, host: str) -> None:
        self.told.append(f"forget {host}")
        del self.hosts[host]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    now = {"s": 1000.0}
    monkeypatch.setattr(fleets.time, "monotonic", lambda: now["s"])
    return now


def fleet_on(played: Any, **settings: Any) -> Fleet:
    made = Fleet(played, played, Ray(**settings), join="tls:kernel:7411")
    made.begin()
    return made


def test_every_node_gets_an_agent_with_an_invitation_of_its_own() -> None:
    """Two looks make a host of each node, invited by its name, with all that the node has."""
    played = Played()
    fleet = fleet_on(played)
    fleet.look()
    fleet.look()
    assert sorted(each.name for each in played.orders) == [host_name(A), host_name(B)]
    assert played.orders[0].invitation == f"invitation of {played.orders[0].name} for 120 s"
    assert played.orders[0].memory_bytes == 10**9
    fleet.look()
    assert len(played.orders) == 2
    assert (fleet.standing.nodes, fleet.standing.attached, fleet.standing.troubles) == (2, 2, ())


def test_an_agent_that_ends_again_and_again_is_begun_ever_later(clock: dict[str, float]) -> None:
    """The pauses before an agent is begun again double, to a minute, and why it ended is told."""
    played = Played()
    del played.there[B]
    fleet, begun = fleet_on(played), []
    for _ in range(1200):
        before = len(played.orders)
        fleet.look()
        if len(played.orders) > before:
            begun.append(clock["s"])
            played.say(A, "ended", "it ended with code 1: no")
        clock["s"] += 0.25
    pauses = [later - sooner for sooner, later in pairwise(begun)]
    assert pauses[:4] == [1.25, 2.25, 4.25, 8.25]
    assert max(pauses) <= 60.5
    assert fleet.standing.troubles == (f"the agent of {host_name(A)} ended: it ended with code 1: no",)


def test_a_kernel_that_does_not_answer_leaves_all_as_it_is() -> None:
    """Nothing is changed and nobody is told to stay while the kernel is away; and one refusal hinders no other node."""
    played = Played()
    fleet = fleet_on(played)
    played.refuses = lambda what: what == "look"
    fleet.look()
    assert (played.actors, played.beats) == ({}, 0)
    assert fleet.standing.troubles == ("the kernel does not answer: no kernel answers",)
    played.refuses = lambda what: what == "invite"
    fleet.look()
    fleet.look()
    assert len(played.actors) == 2
    played.refuses = lambda _: False
    fleet.look()
    assert len(played.orders) == 2


def test_a_node_that_dies_is_told_to_the_kernel() -> None:
    """The kernel knows the host no longer once Ray knows that its node is dead, and its actor is let go."""
    played = Played()
    fleet = fleet_on(played)
    fleet.look()
    fleet.look()
    played.there[A] = Node(node_id=A, alive=False)
    fleet.look()
    assert played.told == [f"forget {host_name(A)}"]
    assert list(played.actors) == [B]


def test_idle_nodes_are_drained_and_let_go_and_come_back(clock: dict[str, float]) -> None:
    """With nothing to do hosts drain, then their agents end; what waits brings them back, and more are asked for."""
    played = Played()
    fleet = fleet_on(played, scale=True, least_nodes=1, most_nodes=8, idle_s=60, ask_after_s=5, tasks_per_node=10)
    played.waiting = 15

    def looks(count: int) -> None:
        for _ in range(count):
            fleet.look()
            clock["s"] += 1

    looks(12)
    assert len(played.orders) == 2
    assert played.asked == [1, 3]
    played.waiting = 0
    looks(80)
    assert len(played.told) == 1
    assert len(played.actors) == 1
    assert played.asked == [1, 3, 1]
    for name, host in [*played.hosts.items()]:
        if host.state is HostState.DRAINING:
            played.hosts[name] = HostSeen(name=name, state=HostState.LOST)
    looks(2)
    assert [each.partition(" ")[0] for each in played.told] == ["drain", "forget"]
    played.waiting = 5
    looks(12)
    assert len(played.actors) == 2
    assert len(played.orders) == 3


@pytest.mark.parametrize(
    ("where", "address"),
    [
        ("ray:auto", "auto"),
        ("ray:10.0.0.1", "10.0.0.1:6379"),
        ("ray:head:7000", "head:7000"),
        ("ray://head", "ray://head:10001"),
        ("ray://head:10002", "ray://head:10002"),
    ],
)
def test_clusters_are_named_in_three_ways(where: str, address: str) -> None:
    """Ports that are left out are Ray's own."""
    assert cluster_address(where) == address


@pytest.mark.parametrize(
    "where", ["", "auto", "ray:", "ray://", "ray:head:x", "ray:head:70000", "http://head", "ray::1"]
)
def test_what_names_no_cluster_is_refused_with_what_does(where: str) -> None:
    """A wrong address is told with the forms there are, before anything is started."""
    with pytest.raises(ClusterError, match="ray:HOST:6379"):
        cluster_address(where)


def test_why_a_cluster_cannot_be_used_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray that is not installed, nobody that answers, and versions that differ each have the words that help."""
    monkeypatch.setitem(clusters.sys.modules, "ray", None)
    with pytest.raises(ClusterError, match=r"pip install 'inferd\[ray\]'"):
        connect("ray:auto", "inferd-1", leash_s=60, restarts=0)
    with pytest.raises(
        ClusterError,
        match="no Ray answers at ray:127.0.0.1:1: 127.0.0.1 port 1: Connection refused".replace(".", "[.]"),
    ):
        clusters._reach("ray:127.0.0.1:1", "127.0.0.1:1")
    monkeypatch.setattr(clusters, "_version", lambda: "2.60.0")
    said = "Version mismatch: The cluster was started with:\n    Ray: 2.50.0\n    Python: 3.10.1\nThis process on x …"
    told = explain("ray:auto", said)
    assert "Ray: 2.50.0 Python: 3.10.1" in told
    assert "Ray 2.60.0, Python" in told
    assert "install inferd on the node" in why_of(ModuleNotFoundError("No module named 'inferd'"))


def test_agents_join_where_other_machines_reach_the_kernel() -> None:
    """What is configured, else an address with TLS, else this machine's; one that is every address is to be named."""
    assert join_address("tls:k:1", ["unix:/k"]) == "tls:k:1"
    assert join_address("", ["unix:/k", "127.0.0.1:7", "tls:10.0.0.1:8"]) == "tls:10.0.0.1:8"
    assert join_address("", ["unix:/k", "127.0.0.1:7"]) == "127.0.0.1:7"
    assert join_address("", ["unix:/k"]) == "unix:/k"
    with pytest.raises(CommandError, match=r"ray\.join"):
        join_address("", ["tls:0.0.0.0:8"])
    assert fleet_name("tls:k:1") != fleet_name("tls:k:2")


def test_authorities_are_certificates_alone(tmp_path: Any) -> None:
    """A file with a key in it is given to nobody."""
    file = tmp_path / "ca.pem"
    file.write_text("-----BEGIN CERTIFICATE-----")
    assert read_authorities(file) == "-----BEGIN CERTIFICATE-----"
    file.write_text("-----BEGIN CERTIFICATE-----\n-----BEGIN PRIVATE KEY-----")
    with pytest.raises(CommandError, match="nothing else"):
        read_authorities(file)


def test_a_host_that_an_operator_resumed_drains_anew_before_it_goes(clock: dict[str, float]) -> None:
    """What runs there by then has its time to end, too, however long ago it was to drain first."""
    played = Played()
    fleet = fleet_on(played, drain_s=30)
    for _ in range(2):
        fleet.look()
    host = host_name(A)
    played.there[A] = Node(node_id=A, resources={"CPU": 4, "memory": 1e9}, drains=True)
    played.hosts[host] = replace(played.hosts[host], busy=True)
    fleet.look()
    for state, passed_s in ((HostState.READY, 100), (HostState.DRAINING, 20)):
        played.hosts[host] = HostSeen(name=host, state=state, busy=True)
        clock["s"] += passed_s
        fleet.look()
    assert played.told == [f"drain {host}"] * 2
    assert A in played.actors
