"""Keeps an agent on each node of a cluster that is to have one: looks, decides, acts, until it is to end."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import structlog

from inferd.ray.agent_process import Orders
from inferd.ray.labels import labels_of
from inferd.ray.reconciling import Times, choose, is_excluded, reconcile
from inferd.ray.reserving import MEMORY, asked_of, bundle_of, lacking
from inferd.ray.scaling import Bounds, Scaler
from inferd.ray.values import Action, Agent, Do, HostState, Phase, Seen, host_name
from inferd_client import InferdError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from threading import Event

    from inferd.ray.cluster import Actor, Cluster
    from inferd.ray.values import HostSeen, Node
    from inferd.ray_settings import Ray

PHASES = {"idle": Phase.IDLE, "starting": Phase.STARTING, "attached": Phase.ATTACHED, "ended": Phase.ENDED}
FIRST_RETRY_S, MOST_RETRY_S = 1.0, 60.0
DOUBLINGS = 6

log = structlog.get_logger()


class KernelHosts(Protocol):
    """What is asked of the kernel; see `inferd.ray.kernel_side`."""

    def look(self) -> tuple[Mapping[str, HostSeen], int]:
        """Its hosts by name, and how many tasks and leases wait."""

    def invite(self, host: str, ttl_s: float) -> str:
        """An invitation for one host."""

    def drain(self, host: str) -> None:
        """Have a host take nothing new, and what runs there end or move."""

    def resume(self, host: str) -> None:
        """Have a host take work again."""

    def forget(self, host: str) -> None:
        """A host is gone, whatever was heard of it."""


@dataclass(slots=True)
class Record:
    """What this process remembers of a node.

    Attributes:
        phase: How its agent stood at the last look.
        since: Since when.
        failures: How often in a row its agent ended, or could not be started.
        retry_at: When it may be started anew.
        drained_at: Since when its host is to drain; None when it is not.
        begun: The number of the report after which its agent was to start; 0 for none.
        told: What was told of it last.
    """

    phase: Phase = Phase.PLACING
    since: float = 0.0
    failures: int = 0
    retry_at: float = 0.0
    drained_at: float | None = None
    begun: int = 0
    told: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How the fleet stands, for people.

    Attributes:
        nodes: That live.
        attached: Of them that have an agent which is attached.
        wanted: Of them that are to have one.
        asked: Nodes that Ray's autoscaler is asked for in all; 0 where it is not asked.
        waiting: Tasks and leases that wait.
        troubles: What is not as wanted, and why.
    """

    nodes: int = 0
    attached: int = 0
    wanted: int = 0
    asked: int = 0
    waiting: int = 0
    troubles: tuple[str, ...] = ()


@dataclass(slots=True)
class Fleet:
    """The agents of one kernel on one cluster. One writer: itself.

    Args:
        cluster: The cluster.
        kernel: The kernel.
        settings: Which nodes, what each reserves, when they are asked for.
        join: The address of the kernel for agents.
        authorities: Certificates by which they check the kernel's; "" for the usual ones.

    Attributes:
        standing: How it stands.
    """

    cluster: Cluster
    kernel: KernelHosts
    settings: Ray
    join: str
    authorities: str = ""
    standing: Standing = field(default_factory=Standing)
    _records: dict[str, Record] = field(default_factory=dict)
    _scaler: Scaler | None = None
    _asked: tuple[int, tuple[tuple[str, float], ...]] = (0, ())
    _bundles: dict[str, dict[str, float]] = field(default_factory=dict)

    def run(self, ends: Event) -> None:
        """Keep them until `ends` is set; they stay then, for as long as their leash is.

        Raises:
            Exception: Of Ray, whose cluster cannot be used any more.
        """
        self.begin()
        while not ends.is_set():
            self.look()
            self.cluster.wait(self.settings.look_s)

    def begin(self) -> None:
        """Take up what a process before this one left."""
        settings, there = self.settings, self.cluster.adopt()
        if settings.scale:
            self._scaler = Scaler(
                Bounds(
                    least_nodes=settings.least_nodes,
                    most_nodes=settings.most_nodes,
                    tasks_per_node=settings.tasks_per_node,
                    ask_after_s=settings.ask_after_s,
                    idle_s=settings.idle_s,
                ),
                there,
            )

    def look(self) -> None:
        """Look once, and act. A kernel that does not answer leaves all as it is."""
        now = time.monotonic()
        nodes = self.cluster.nodes()
        try:
            hosts, waiting = self.kernel.look()
        except InferdError as error:
            self._tell_standing(nodes, (f"the kernel does not answer: {error.message}",))
            return
        self.cluster.give_back(frozenset(node_id for node_id, node in nodes.items() if not node.alive))
        self.cluster.beat()  # as long as the kernel answers: agents of one that is gone end
        self._note_resumed(hosts)
        seen = Seen(nodes=nodes, agents=self._agents(nodes, now), hosts=hosts, waiting=waiting)
        wanted, troubles = self._wanted(seen, now)
        for action in reconcile(seen, wanted, now, Times(start_s=self.settings.start_s, drain_s=self.settings.drain_s)):
            self._act(action, nodes, now)
        self._tell(seen, wanted, troubles)

    def _note_resumed(self, hosts: Mapping[str, HostSeen]) -> None:
        """A host that was to drain, and takes work, was resumed by an operator: it drains anew if it is let go."""
        for node_id, record in self._records.items():
            host = hosts.get(host_name(node_id))
            if host is not None and host.state in {HostState.READY, HostState.CORDONED}:
                record.drained_at = None

    def _agents(self, nodes: Mapping[str, Node], now: float) -> dict[str, Agent]:
        """How the agents stand; what is remembered of nodes that are forgotten is forgotten, too."""
        agents = {node_id: self._agent(node_id, actor, now) for node_id, actor in self.cluster.actors.items()}
        for node_id in [each for each in self._records if each not in nodes and each not in agents]:
            del self._records[node_id]
            self._bundles.pop(node_id, None)
        return agents

    def _agent(self, node_id: str, actor: Actor, now: float) -> Agent:
        record = self._records.setdefault(node_id, Record(since=now))
        phase, why = _phase(actor)
        if phase in {Phase.IDLE, Phase.ENDED} and actor.report is not None and actor.report.number == record.begun:
            phase = Phase.STARTING  # as it was told to
        if phase is not record.phase:
            if phase in {Phase.ENDED, Phase.GONE}:
                self._failed(node_id, record, why, now)
            elif phase is Phase.ATTACHED:
                record.failures = 0
            record.phase, record.since = phase, now
        return Agent(
            node_id=node_id,
            phase=phase,
            since=record.since,
            retry_at=record.retry_at,
            drained_at=record.drained_at,
            stuck=phase is Phase.PLACING and now - record.since > self.settings.start_s,
            why=why,
        )

    def _failed(self, node_id: str, record: Record, why: str, now: float) -> None:
        pause_s = min(MOST_RETRY_S, FIRST_RETRY_S * 2.0 ** min(record.failures, DOUBLINGS))
        record.failures += 1
        record.retry_at = now + pause_s
        log.warning("the agent of a node ended", host=host_name(node_id), why=why, again_in_s=pause_s)

    def _wanted(self, seen: Seen, now: float) -> tuple[frozenset[str], tuple[str, ...]]:
        """Which nodes are to have an agent, and what keeps others from one."""
        settings, troubles = self.settings, []
        eligible: list[str] = []
        for node_id, node in seen.nodes.items():
            if not node.alive or node.drains or is_excluded(node, settings.exclude):
                continue
            if settings.resource and settings.resource not in node.resources:
                continue
            bundle = self._bundles.setdefault(node_id, bundle_of(node, settings))
            if lacks := lacking(node, bundle):
                troubles.append(f"node {host_name(node_id)} gets no agent: {lacks}")
            else:
                eligible.append(node_id)
        count, last = settings.most_nodes, frozenset[str]()
        if self._scaler is not None:
            serving = {
                host_name(node_id): seen.hosts[host_name(node_id)].busy
                for node_id, agent in seen.agents.items()
                if agent.phase is Phase.ATTACHED and agent.drained_at is None and host_name(node_id) in seen.hosts
            }
            target = self._scaler.decide(waiting=seen.waiting, hosts=serving, now=now)
            count, last = target.nodes, target.let_go
            self._ask(count)
        return choose(seen, eligible, count, last=last), tuple(troubles)

    def _ask(self, count: int) -> None:
        """Ask Ray's autoscaler for so many nodes, once for each change."""
        bundle = asked_of(self.settings, self._bundles)
        asked = (count, tuple(sorted(bundle.items())))
        if asked != self._asked:
            self.cluster.ask([bundle] * count)
            self._asked = asked
            log.info("Ray's autoscaler is asked for nodes", nodes=count, each=bundle)

    def _act(self, action: Action, nodes: Mapping[str, Node], now: float) -> None:
        """Do one thing; one that fails is told, and tried again at the next look."""
        node_id, host = action.node_id, host_name(action.node_id)
        record = self._records.setdefault(node_id, Record(since=now))
        try:
            match action.do:
                case Do.PLACE:
                    if now >= record.retry_at and node_id not in self.cluster.ending:
                        self.cluster.place(nodes[node_id], self._bundles[node_id])
                        record.phase, record.since, record.drained_at = Phase.PLACING, now, None
                case Do.JOIN:
                    record.begun = self.cluster.begin(node_id, self._orders(nodes[node_id]))
                    record.phase, record.since = Phase.STARTING, now
                case Do.DRAIN:
                    self.kernel.drain(host)
                    record.drained_at = now
                case Do.RESUME:
                    self.kernel.resume(host)
                    record.drained_at = None
                case Do.RELEASE:
                    self.cluster.release(node_id)
                    record.drained_at, record.begun = None, 0
                case Do.FORGET:
                    self.kernel.forget(host)
        except InferdError as error:
            self._tell_failure(record, action, host, error.message)
            return
        if action.do not in {Do.PLACE, Do.JOIN} or not record.failures:
            log.info("the agents on Ray are changed", what=action.do.name, host=host, why=action.why)

    def _tell_failure(self, record: Record, action: Action, host: str, why: str) -> None:
        told = f"{action.do.name} {why}"
        if told != record.told:
            record.told = told
            log.warning("the kernel did not do what was asked about a host", host=host, asked=action.do.name, why=why)

    def _orders(self, node: Node) -> Orders:
        host, bundle = host_name(node.node_id), self._bundles[node.node_id]
        return Orders(
            address=self.join,
            invitation=self.kernel.invite(host, self.settings.invite_s),
            name=host,
            labels=labels_of(node, self.settings.labels),
            authorities=self.authorities,
            memory_bytes=int(bundle.get(MEMORY, 0)),
        )

    def _tell(self, seen: Seen, wanted: frozenset[str], troubles: tuple[str, ...]) -> None:
        found = [*troubles]
        for node_id, agent in sorted(seen.agents.items()):
            host = seen.hosts.get(host_name(node_id))
            if agent.stuck:
                reserved = ", ".join(f"{amount:g} of {name}" for name, amount in self._bundles.get(node_id, {}).items())
                found.append(
                    f"node {host_name(node_id)} waits to reserve {reserved}: other work of Ray's has some of that"
                )
            elif agent.phase in {Phase.ENDED, Phase.GONE}:
                found.append(f"the agent of {host_name(node_id)} ended: {agent.why}")
            elif agent.phase is Phase.ATTACHED and host is not None and host.state is HostState.LOST:
                found.append(f"{host_name(node_id)} is lost to the kernel, and its agent runs")
        if self.cluster.others:
            found.append("another process keeps agents of this kernel on this cluster: end one of the two")
        self._tell_standing(seen.nodes, tuple(found), wanted=len(wanted), waiting=seen.waiting)

    def _tell_standing(
        self, nodes: Mapping[str, Node], troubles: tuple[str, ...], *, wanted: int = 0, waiting: int = 0
    ) -> None:
        attached = sum(_phase(actor)[0] is Phase.ATTACHED for actor in self.cluster.actors.values())
        self.standing = Standing(
            nodes=sum(node.alive for node in nodes.values()),
            attached=attached,
            wanted=wanted,
            asked=self._asked[0],
            waiting=waiting,
            troubles=troubles,
        )


def _phase(actor: Actor) -> tuple[Phase, str]:
    if actor.gone:
        return Phase.GONE, actor.gone
    if actor.silent_since is not None:
        return Phase.SILENT, "its actor does not answer"
    if actor.report is None:
        return Phase.PLACING, ""
    return PHASES[actor.report.state], actor.report.why
