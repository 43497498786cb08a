"""What is to be done so that the nodes of a cluster are as wanted: pure, from what is seen to actions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from inferd.ray.values import Action, Agent, Do, HostState, Phase, Seen, host_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from inferd.ray.values import HostSeen, Node

MOST_AT_ONCE = 32  # agents that begin at once: each takes a look at what its node has, and an invitation
WORKS = frozenset({Phase.STARTING, Phase.ATTACHED})
HEAD = "node:__internal_head__"


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """How long things may take, in seconds; see `inferd.ray_settings`."""

    start_s: float
    drain_s: float


def is_excluded(node: Node, exclude: Iterable[str]) -> bool:
    """Whether the configuration leaves a node out."""
    named = {node.node_id, *node.names, *(f"{key}={value}" for key, value in node.labels.items())}
    if HEAD in node.resources:
        named.add("head")
    return not named.isdisjoint(exclude)


def choose(seen: Seen, eligible: Iterable[str], count: int, *, last: frozenset[str] = frozenset()) -> frozenset[str]:
    """Which nodes are to have an agent: of the eligible ones so many, those first that move the least.

    Busy ones before idle ones, before those that begin or may go, before those that go, before those without an agent,
    before those that have waited for long for what their agent reserves.

    Args:
        seen: What there is.
        eligible: Ids of nodes that may have one.
        count: How many.
        last: Hosts that are to be taken last.
    """

    def rank(node_id: str) -> tuple[int, str]:
        host, agent = seen.hosts.get(host_name(node_id)), seen.agents.get(node_id)
        busy = host is not None and host.busy
        if agent is None or agent.stuck:
            return (4 if agent is None else 5), node_id
        if agent.drained_at is not None or agent.phase is not Phase.ATTACHED:
            return (3 if agent.drained_at is not None else 2), node_id
        return int(not busy) if host_name(node_id) not in last else 2, node_id

    return frozenset(sorted(eligible, key=rank)[:count])


def reconcile(seen: Seen, wanted: frozenset[str], now: float, times: Times) -> tuple[Action, ...]:
    """What is to be done now.

    Args:
        seen: What there is.
        wanted: Ids of nodes that are to have an agent; each is alive.
        now: The time, in seconds.
        times: How long things may take.
    """
    actions: list[Action] = []
    for node_id in sorted({*wanted, *seen.agents, *seen.nodes}):
        node, agent, host = seen.nodes.get(node_id), seen.agents.get(node_id), seen.hosts.get(host_name(node_id))
        if node is None or not node.alive:
            actions += _bury(node_id, agent, host)
        elif node_id in wanted:
            actions += _keep(node_id, agent, host, now, times)
        elif agent is not None:
            actions += _let_go(agent, node, host, now, times)
        elif host is not None and host.state is HostState.LOST:
            actions.append(Action(Do.FORGET, node_id, "its node was let go"))
    return (*(each for each in actions if each.do is not Do.JOIN), *_joins(actions, seen.agents))


def _joins(actions: Iterable[Action], agents: Mapping[str, Agent]) -> list[Action]:
    """So many agents as may begin at once, with those that begin already."""
    begin = sum(agent.phase is Phase.STARTING for agent in agents.values())
    return [each for each in actions if each.do is Do.JOIN][: max(0, MOST_AT_ONCE - begin)]


def _bury(node_id: str, agent: Agent | None, host: HostSeen | None) -> Iterator[Action]:
    """A node is dead: whatever the kernel has heard, it is told, and what was reserved there is given back."""
    if host is not None:
        yield Action(Do.FORGET, node_id, "Ray lost its node")
    if agent is not None:
        yield Action(Do.RELEASE, node_id, "its node is gone")


def _keep(node_id: str, agent: Agent | None, host: HostSeen | None, now: float, times: Times) -> Iterator[Action]:
    """A node is to have an agent."""
    if host is not None and host.let_go:  # what an operator drains stays so
        yield Action(Do.RESUME, node_id, "its node is wanted again")
    if agent is None:
        yield Action(Do.PLACE, node_id)
        return
    match agent.phase:
        case Phase.IDLE | Phase.ENDED if now >= agent.retry_at:
            yield Action(Do.JOIN, node_id)
        case Phase.GONE if now >= agent.retry_at:
            yield Action(Do.RELEASE, node_id, agent.why)
        case Phase.STARTING if now - agent.since > times.start_s:
            yield Action(Do.RELEASE, node_id, f"its agent was not attached after {times.start_s:g} s")
        case Phase.SILENT if now - agent.since > times.start_s:
            yield Action(Do.RELEASE, node_id, f"its actor did not answer for {times.start_s:g} s")


def _let_go(agent: Agent, node: Node, host: HostSeen | None, now: float, times: Times) -> Iterator[Action]:
    """A node is to have no agent any more: what runs there ends or moves first."""
    why = "Ray lets its node go" if node.drains else "its node is not wanted"
    if agent.phase not in WORKS or host is None or host.state is HostState.LOST:
        yield Action(Do.RELEASE, agent.node_id, why)
    elif agent.drained_at is None:
        yield Action(Do.DRAIN, agent.node_id, why)
    elif not host.instances and not host.busy:
        yield Action(Do.RELEASE, agent.node_id, f"{why}, and it is empty")
    elif now - agent.drained_at > times.drain_s:
        yield Action(Do.RELEASE, agent.node_id, f"{why}, and it did not become empty in {times.drain_s:g} s")
