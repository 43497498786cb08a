"""What is seen of a Ray cluster and of the kernel, and what is to be done about it: values, without Ray."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

NAME_DIGITS = 16  # of the id of a node, in the name of its host


def host_name(node_id: str) -> str:
    """What the host on a node is called: a node that ends and begins again is another one, for Ray and for us."""
    return f"ray-{node_id[:NAME_DIGITS]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A node as Ray sees it.

    Attributes:
        node_id: Ray's, of one life of the node.
        names: Its address and its name.
        alive: Whether Ray takes it for alive.
        drains: Whether Ray is about to let it go.
        labels: Of Ray.
        resources: What it has in all, by Ray's names.
    """

    node_id: str
    names: tuple[str, ...] = ()
    alive: bool = True
    drains: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    resources: Mapping[str, float] = field(default_factory=dict)


class Phase(Enum):
    """How the agent of a node stands."""

    PLACING = 1  # what it reserves is not given yet, or its actor is not there yet
    IDLE = 2  # its actor is there, and has started nothing
    STARTING = 3
    ATTACHED = 4
    ENDED = 5  # it ended by itself
    SILENT = 6  # its actor does not answer
    GONE = 7  # its actor is no more, and Ray does not start it again


@dataclass(frozen=True, slots=True, kw_only=True)
class Agent:
    """The agent of a node.

    Attributes:
        node_id: Of which node.
        phase: How it stands.
        since: Since when.
        retry_at: When it may be started anew.
        drained_at: Since when its host is to drain; None when it is not.
        stuck: Whether it waits for what it reserves for longer than that may take.
        why: Why it stands so, for people.
    """

    node_id: str
    phase: Phase
    since: float = 0.0
    retry_at: float = 0.0
    drained_at: float | None = None
    stuck: bool = False
    why: str = ""


class HostState(Enum):
    """How the kernel takes a host."""

    JOINING = 1
    READY = 2
    DRAINING = 3
    CORDONED = 4
    LOST = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class HostSeen:
    """A host as the kernel sees it.

    Attributes:
        name: Its name.
        state: How it stands.
        busy: Whether something runs there, or holds something of it.
        instances: How many it holds.
        let_go: Whether it is to drain since a process as this one, perhaps before this one, wanted that.
    """

    name: str
    state: HostState
    busy: bool = False
    instances: int = 0
    let_go: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """All that is seen at once.

    Attributes:
        nodes: Of the cluster, dead ones too, by id.
        agents: By the id of their node.
        hosts: Of the kernel, by name.
        waiting: Tasks and leases that wait.
    """

    nodes: Mapping[str, Node]
    agents: Mapping[str, Agent]
    hosts: Mapping[str, HostSeen]
    waiting: int = 0


class Do(Enum):
    """What can be done about a node."""

    PLACE = 1  # reserve what its agent takes, and have an actor there
    JOIN = 2  # invite its host, and have the actor start the agent
    DRAIN = 3  # it is to be empty before its agent ends
    RESUME = 4  # it is not to drain any more
    RELEASE = 5  # end its agent and its actor, and give back what is reserved
    FORGET = 6  # tell the kernel that its host is gone


@dataclass(frozen=True, slots=True)
class Action:
    """One thing to do about a node, and why."""

    do: Do
    node_id: str
    why: str = ""
