"""How many nodes are to have an agent, by what waits and what is idle: pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Between which bounds, and how fast; see `inferd.ray_settings`."""

    least_nodes: int
    most_nodes: int
    tasks_per_node: int
    ask_after_s: float
    idle_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """How many nodes are wanted.

    Attributes:
        nodes: So many.
        let_go: Hosts that go first, since they are idle.
    """

    nodes: int
    let_go: frozenset[str] = frozenset()


class Scaler:
    """Keeps in mind since when things wait and hosts are idle. One writer: whoever looks.

    More nodes are asked for once something has waited for `ask_after_s`, and then not again before those have come;
    hosts go once they were idle for `idle_s` while nothing waited: a load that changes faster than that moves nothing.

    Args:
        bounds: Between which bounds, and how fast.
        nodes: How many are wanted at first.
    """

    def __init__(self, bounds: Bounds, nodes: int = 0) -> None:
        self._bounds = bounds
        self._nodes = min(max(nodes, bounds.least_nodes), bounds.most_nodes)
        self._waits_since: float | None = None
        self._calm_since: float | None = None
        self._idle_since: dict[str, float] = {}

    def decide(self, *, waiting: int, hosts: Mapping[str, bool], now: float) -> Target:
        """How many nodes are wanted now.

        Args:
            waiting: Tasks and leases that wait.
            hosts: Those that serve, and whether each is busy.
            now: The time, in seconds.
        """
        self._note(waiting, hosts, now)
        if self._waits_since is not None:
            return self._grow(waiting, len(hosts), now)
        return self._shrink(len(hosts), now)

    def _note(self, waiting: int, hosts: Mapping[str, bool], now: float) -> None:
        if waiting:
            self._calm_since = None
            self._waits_since = now if self._waits_since is None else self._waits_since
        else:
            self._waits_since = None
            self._calm_since = now if self._calm_since is None else self._calm_since
        self._idle_since = {name: self._idle_since.get(name, now) for name, busy in hosts.items() if not busy}

    def _grow(self, waiting: int, there: int, now: float) -> Target:
        bounds = self._bounds
        waits = self._waits_since is not None and now - self._waits_since >= bounds.ask_after_s
        if waits and there >= self._nodes < bounds.most_nodes:
            more = max(1, -(-waiting // bounds.tasks_per_node))
            self._nodes = min(bounds.most_nodes, self._nodes + more)
            self._waits_since = now  # those that come are given the time to take what waits
        return Target(nodes=self._nodes)

    def _shrink(self, there: int, now: float) -> Target:
        bounds = self._bounds
        if self._calm_since is None or now - self._calm_since < bounds.idle_s:
            return Target(nodes=self._nodes)
        idle = [name for name, since in self._idle_since.items() if now - since >= bounds.idle_s]
        idle.sort(key=lambda name: (self._idle_since[name], name))
        go = idle[: max(0, there - bounds.least_nodes)]
        self._nodes = min(max(bounds.least_nodes, there - len(go)), self._nodes)  # what did not come is not waited for
        return Target(nodes=self._nodes, let_go=frozenset(go))
