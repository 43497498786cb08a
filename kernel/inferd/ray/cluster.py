"""A Ray cluster: what is seen of it, and what is done there. The only module that calls Ray."""

from __future__ import annotations

import contextlib
import os
import platform
import secrets
import socket
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from inferd.errors import words_of
from inferd.ray.actor import AgentActor, Report
from inferd.ray.reserving import CPU, GPU, MEMORY
from inferd.ray.values import Node, host_name

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Mapping, Sequence

    from inferd.ray.agent_process import Orders

AUTO, PREFIX, CLIENT = "auto", "ray:", "ray://"
CLIENT_PORT, PORT = 10001, 6379  # Ray's own
REACH_S = 5.0
ANSWER_S = 20.0
DRAINS_S = 5.0  # between two looks at which nodes Ray is about to let go
THREADS = 8  # of an actor, for its calls
NODE_LABEL = "ray.io/node-id"


class ClusterError(Exception):
    """A cluster cannot be used; says why, and what helps."""


@dataclass(slots=True)
class Actor:
    """The actor of a node, as this process has it.

    Attributes:
        handle: Ray's.
        group: What it reserves: Ray's placement group.
        watch: The call that answers with its next report.
        beat: The call that tells it that this process lives; None where none is under way.
        report: The latest; None before the first.
        silent_since: Since when it does not answer, or ends; None while it does neither.
        gone: Why it is no more; "" while it is there.
    """

    handle: Any
    group: Any
    watch: Any
    beat: Any = None
    report: Report | None = None
    silent_since: float | None = None
    gone: str = ""


@dataclass(slots=True)
class Cluster:
    """A cluster that this process is connected to. One writer: itself.

    Args:
        ray: The module.
        fleet: Names what is of one kernel.
        leash_s: When the actors take this process for ended.
        restarts: Times that Ray starts an actor anew.
        is_client: Whether it is reached by Ray's client server.

    Attributes:
        actors: By the id of their node.
        ending: Those that end.
        others: Whether another process keeps agents of the same kernel.
    """

    ray: Any
    fleet: str
    leash_s: float
    restarts: int
    is_client: bool
    actors: dict[str, Actor] = field(default_factory=dict)
    ending: dict[str, Actor] = field(default_factory=dict)
    others: bool = False
    _driver: str = field(default_factory=lambda: secrets.token_hex(8))
    _draining: frozenset[str] = frozenset()
    _drains_at: float = 0.0

    def nodes(self) -> dict[str, Node]:
        """All nodes, dead ones too, by id."""
        if time.monotonic() >= self._drains_at:
            self._drains_at = time.monotonic() + DRAINS_S
            self._draining = frozenset(self._elsewhere(_draining_nodes(), frozenset()))
        found = {}
        for each in self.ray.nodes():
            node_id = each["NodeID"]
            names = (each.get("NodeManagerAddress", ""), each.get("NodeName", ""), each.get("NodeManagerHostname", ""))
            found[node_id] = Node(
                node_id=node_id,
                names=tuple(name for name in names if name),
                alive=bool(each["Alive"]),
                drains=node_id in self._draining,
                labels=dict(each.get("Labels") or {}),
                resources=dict(each.get("Resources") or {}),
            )
        return found

    def adopt(self) -> int:
        """Take up the actors that a process before this one left; how many."""
        for named in self.ray.util.list_named_actors(all_namespaces=False):
            with contextlib.suppress(ValueError):  # it ended meanwhile
                handle, group = self.ray.get_actor(named), self._group(named)
                if group is None:  # it has given back what it had, and is to be started by nobody
                    self.ray.kill(handle, no_restart=True)
                else:
                    self.actors[named] = Actor(handle, group, handle.watch.remote(0))
        return len(self.actors)

    def place(self, node: Node, bundle: Mapping[str, float]) -> None:
        """Reserve on a node what its agent takes, and have an actor there, once it is given."""
        group = self._group(node.node_id) or self.ray.util.placement_group(
            [dict(bundle)],
            strategy="STRICT_PACK",
            lifetime="detached",
            name=self._name(node.node_id),
            bundle_label_selector=[{NODE_LABEL: node.node_id}],
        )
        own = {name: amount for name, amount in bundle.items() if name not in {CPU, GPU, MEMORY}}
        strategies = self.ray.util.scheduling_strategies
        options = {
            "name": node.node_id,
            "lifetime": "detached",
            "get_if_exists": True,
            "max_restarts": self.restarts,
            "max_concurrency": THREADS,
            "num_cpus": bundle.get(CPU, 0),
            "num_gpus": bundle.get(GPU, 0),
            "memory": bundle.get(MEMORY, 0),
            "resources": own,
            "scheduling_strategy": strategies.PlacementGroupSchedulingStrategy(group, 0),
        }
        made = self.ray.remote(AgentActor).options(**options)
        handle = made.remote(host_name(node.node_id), self.leash_s)
        self.actors[node.node_id] = Actor(handle, group, handle.watch.remote(0))

    def begin(self, node_id: str, orders: Orders) -> int:
        """Have the actor of a node start its agent, after the report of the number that is returned."""
        actor = self.actors[node_id]
        actor.handle.begin.remote(tuple(orders))
        return 0 if actor.report is None else actor.report.number

    def release(self, node_id: str) -> None:
        """Begin to end an agent and its actor, and to give back what they reserve; see `give_back`."""
        actor = self.actors.pop(node_id, None)
        if actor is not None:
            actor.watch, actor.silent_since = actor.handle.end.remote(), time.monotonic()
            self.ending[node_id] = actor

    def give_back(self, dead: Container[str]) -> None:
        """Give back what is reserved by agents that have ended, whose nodes are dead, or that take too long to end."""
        for node_id, actor in [*self.ending.items()]:
            late = time.monotonic() - (actor.silent_since or 0.0) > ANSWER_S
            if not late and node_id not in dead and not self.ray.wait([actor.watch], timeout=0)[0]:
                continue
            del self.ending[node_id]
            with contextlib.suppress(Exception):  # it may be gone, with its node
                self.ray.kill(actor.handle, no_restart=True)
            if actor.group is not None:
                with contextlib.suppress(Exception):
                    self.ray.util.remove_placement_group(actor.group)

    def wait(self, limit_s: float) -> None:
        """Wait until an actor reports, or for so long, and read what they report."""
        waited = {actor.watch: node_id for node_id, actor in self.actors.items() if not actor.gone}
        if not waited:
            time.sleep(limit_s)
            return
        ready, _ = self.ray.wait(list(waited), num_returns=1, timeout=limit_s)
        if ready:  # and all others that are
            ready, _ = self.ray.wait(list(waited), num_returns=len(waited), timeout=0)
        for watch in ready:
            self._read(self.actors[waited[watch]])

    def beat(self) -> None:
        """Tell all actors that this process lives."""
        self.others = False
        for actor in self.actors.values():
            if actor.beat is not None:
                ready, _ = self.ray.wait([actor.beat], timeout=0)
                if not ready:
                    continue
                with contextlib.suppress(Exception):  # `wait` tells of an actor that does not answer
                    self.others = self.others or not self.ray.get(actor.beat)
            actor.beat = None if actor.gone else actor.handle.beat.remote(self._driver)

    def ask(self, bundles: Sequence[Mapping[str, float]]) -> None:
        """Ask Ray's autoscaler for nodes that all these fit on, in place of what was asked before."""
        self._elsewhere(_request([dict(bundle) for bundle in bundles]), None)

    def close(self) -> None:
        """Leave the cluster; agents stay, for as long as their leash is."""
        with contextlib.suppress(Exception):
            self.ray.shutdown()

    def _read(self, actor: Actor) -> None:
        errors = self.ray.exceptions
        try:
            actor.report = Report(*self.ray.get(actor.watch))
        except errors.ActorUnavailableError:
            actor.silent_since = time.monotonic() if actor.silent_since is None else actor.silent_since
        except errors.RayError as error:
            actor.gone = why_of(error)
            return
        else:
            actor.silent_since = None
        actor.watch = actor.handle.watch.remote(actor.report.number if actor.report else 0)

    def _group(self, node_id: str) -> Any:
        try:
            return self.ray.util.get_placement_group(self._name(node_id))
        except ValueError:
            return None

    def _name(self, node_id: str) -> str:
        return f"{self.fleet}-{node_id}"

    def _elsewhere(self, function: Callable[[], Any], otherwise: Any) -> Any:
        """What a function of Ray's gives that a client of its client server cannot call: a task calls it there."""
        if not self.is_client:
            return function()
        try:
            return self.ray.get(self.ray.remote(num_cpus=0)(function).remote(), timeout=ANSWER_S)
        except self.ray.exceptions.RayError:
            return otherwise


def _draining_nodes() -> Callable[[], list[str]]:
    def draining() -> list[str]:  # a function of its own: on a node without inferd Ray takes it along
        from ray._private.state import state  # noqa: PLC0415 - where Ray is

        return list(state.get_draining_nodes()) if hasattr(state, "get_draining_nodes") else []

    return draining


def _request(bundles: list[dict[str, float]]) -> Callable[[], None]:
    def request() -> None:
        from ray.autoscaler.sdk import request_resources  # noqa: PLC0415 - where Ray is

        request_resources(bundles=bundles)

    return request


def why_of(error: BaseException) -> str:
    """Why an actor is no more, in one line; with the fix where it is known."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    missing = next((line for line in lines if "No module named" in line), "")
    if missing:
        return f"{missing}: install inferd on the node, into the Python that runs Ray there (pip install 'inferd[ray]')"
    return " ".join(lines)[:500] or type(error).__name__


def connect(where: str, fleet: str, *, leash_s: float, restarts: int) -> Cluster:
    """Connect to a cluster.

    Args:
        where: `ray:auto` (the one of this machine), `ray:HOST:PORT`, or `ray://HOST:PORT` (by its client server).
        fleet: Names what is of one kernel.
        leash_s: When the actors take this process for ended.
        restarts: Times that Ray starts an actor anew.

    Raises:
        ClusterError: It cannot be used.
    """
    address = cluster_address(where)
    ray = _ray()
    if address != AUTO:
        _reach(where, address)
    try:
        ray.init(
            address=address,
            namespace=fleet,
            log_to_driver=False,
            logging_level="ERROR",
            **({} if address.startswith(CLIENT) else {"configure_logging": True}),
        )
    except (RuntimeError, ConnectionError, ValueError, TimeoutError) as error:
        raise ClusterError(explain(where, words_of(error))) from None
    return Cluster(ray, fleet, leash_s, restarts, address.startswith(CLIENT))


def cluster_address(where: str) -> str:
    """The address of a cluster as Ray takes it.

    Raises:
        ClusterError: It is none.
    """
    if where.startswith(CLIENT):
        address, usual = where.removeprefix(CLIENT), CLIENT_PORT
    elif where.startswith(PREFIX):
        address, usual = where.removeprefix(PREFIX), PORT
    else:
        address, usual = "", PORT
    if address == AUTO and not where.startswith(CLIENT):
        return AUTO
    host, colon, port = address.rpartition(":")
    if not colon:
        host, port = address, str(usual)
    if not host:
        raise ClusterError(
            f"{where!r} is no cluster; write ray:auto (that of this machine), ray:HOST:{PORT}, or ray://HOST:{CLIENT_PORT}"
        )
    if not (port.isdigit() and 0 < int(port) < 1 << 16):
        raise ClusterError(f"{where!r} has {port!r} for a port; write one from 1 to 65535, as in ray:HOST:{PORT}")
    return f"{CLIENT if where.startswith(CLIENT) else ''}{host}:{port}"


def explain(where: str, said: str) -> str:
    """Why a cluster cannot be used, with what helps."""
    text = " ".join(said.split())
    here = f"Ray {_version()}, Python {platform.python_version()}"
    if "ersion" in text and ("mismatch" in text or "differ" in text):
        return (
            f"the cluster at {where} is not of the versions of this process ({here}), which must be the same: {text}; "
            "install the cluster's here, or have its nodes run these"
        )
    if "running Ray instance" in text or "node_ip_address" in text:
        other = f"{CLIENT}HOST:{CLIENT_PORT}"
        return f"no Ray runs on this machine ({where}): start it (ray start), or name a cluster: {other}; {text}"
    return f"Ray does not let this process use {where}: {text[:500]}"


def _reach(where: str, address: str) -> None:
    host, _, port = address.removeprefix(CLIENT).rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACH_S).close()
    except OSError as error:
        what = "client server" if address.startswith(CLIENT) else "control store (GCS)"
        raise ClusterError(
            f"no Ray answers at {where}: {host} port {port}: {words_of(error)}; name where its {what} listens"
        ) from None


def _version() -> str:
    from importlib import metadata  # noqa: PLC0415 - for an error alone

    return metadata.version("ray")


def _ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray  # noqa: PLC0415 - it takes seconds, and is an extra
        import ray.exceptions  # noqa: PLC0415
        import ray.util.scheduling_strategies  # noqa: PLC0415
    except ImportError as error:
        raise ClusterError(
            f"Ray cannot be used by {sys.executable} ({error}); install it there: "
            f"{sys.executable} -m pip install 'inferd[ray]'"
        ) from None
    return ray
