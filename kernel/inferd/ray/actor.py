"""The actor that keeps an agent on a node. Ray runs it there, in a process of its own; it needs no Ray itself."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import threading
import time
from typing import TYPE_CHECKING, NamedTuple

from inferd import __version__
from inferd.config import Settings
from inferd.errors import words_of
from inferd.ray.agent_process import AgentProcess, Orders

if TYPE_CHECKING:
    from collections.abc import Mapping

WATCH_S = 20.0  # a watch is answered after so long, also when nothing is new
TICK_S = 0.25
OTHER_S = 10.0  # a process beside the kernel that has said nothing for so long may be another one now
END_S = 10.0  # an agent that is ended in order has so long
KEPT_S = 7 * 86_400.0  # logs of agents before this one


class Report(NamedTuple):
    """How the agent of an actor stands.

    Attributes:
        number: Rises with each change.
        state: "idle", "starting", "attached" or "ended".
        why: For people.
        version: Of inferd on the node.
        python: Of its interpreter.
        pid: Of the agent; 0 where there is none.
    """

    number: int
    state: str
    why: str = ""
    version: str = __version__
    python: str = platform.python_version()
    pid: int = 0


class AgentActor:
    """Starts an agent when it is told to, watches it, and ends it when nobody asks for it any more.

    Nothing secret is an argument of it: Ray keeps and shows those. Its methods are called by several threads.

    Args:
        name: Of the host.
        leash_s: When nothing is heard of the process beside the kernel for so long, all ends.
    """

    def __init__(self, name: str, leash_s: float) -> None:
        self._name = name
        self._leash_s = leash_s
        self._changed = threading.Condition()
        self._report = Report(1, "idle")
        self._orders: Orders | None = None
        self._ends = False
        self._driver, self._heard_at = "", time.monotonic()
        self._folder = Settings().state_dir / "ray" / name
        self._guard = threading.Thread(target=self._keep, name="agent", daemon=True)
        self._guard.start()

    def beat(self, driver: str) -> bool:
        """The process beside the kernel lives; false where another one has this agent."""
        with self._changed:
            now = time.monotonic()
            if self._driver not in {"", driver} and now - self._heard_at < OTHER_S:
                return False
            self._driver, self._heard_at = driver, now
            return True

    def begin(self, orders: tuple[str, str, str, Mapping[str, str], str, int]) -> None:
        """Start the agent, unless it runs."""
        with self._changed:
            if self._report.state in {"idle", "ended"} and not self._ends:
                self._orders = Orders(*orders)
                self._tell("starting")

    def watch(self, seen: int) -> tuple[object, ...]:
        """How the agent stands, once that is another report than the one `seen`, or after a while."""
        with self._changed:
            self._changed.wait_for(lambda: self._report.number != seen, timeout=WATCH_S)
            return tuple(self._report)

    def end(self) -> None:
        """End the agent for good; when this returns nothing is left of it."""
        with self._changed:
            self._ends = True
            self._changed.notify_all()
        self._guard.join(timeout=2 * END_S + 5)

    def _tell(self, state: str, why: str = "", pid: int = 0) -> None:
        self._report = Report(self._report.number + 1, state, why[:2000], pid=pid)
        self._changed.notify_all()

    def _keep(self) -> None:
        """Run agents, one after the other, in this thread: they end with it."""
        self._prepare()
        while not self._over():
            with self._changed:
                orders, self._orders = self._orders, None
                if orders is None:
                    self._changed.wait(timeout=TICK_S)
            if orders is not None:
                self._run(orders)
        shutil.rmtree(self._folder, ignore_errors=True)
        with self._changed:
            ordered = self._ends
            self._tell("ended", "it was ended" if ordered else f"nothing was heard for {self._leash_s:g} s")
        if not ordered:
            give_back()

    def _prepare(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for other in self._folder.parent.iterdir():  # of nodes that ended without a word
            with contextlib.suppress(OSError):
                if other != self._folder and time.time() - other.stat().st_mtime > KEPT_S:
                    shutil.rmtree(other, ignore_errors=True)

    def _over(self) -> bool:
        return self._ends or time.monotonic() - self._heard_at > self._leash_s

    def _run(self, orders: Orders) -> None:
        try:
            process = AgentProcess(orders, self._folder, attached=self._attached, detached=self._detached)
        except OSError as error:
            with self._changed:
                self._tell("ended", f"it could not be started: {words_of(error)}")
            return
        while (how := process.ended()) is None and not self._over():
            with self._changed:
                self._changed.wait(timeout=TICK_S)
        if how is None:
            process.end(END_S)
            return
        with self._changed:
            self._tell("ended", how)

    def _attached(self) -> None:
        with self._changed:
            self._tell("attached")

    def _detached(self, why: str) -> None:
        with self._changed:
            self._tell("starting", why)


def give_back() -> None:
    """Give back what this actor reserves, and end it for good: Ray is not to start it anew."""
    import ray.util  # noqa: PLC0415 - on a node there is one

    group = ray.util.get_current_placement_group()
    if group is not None:
        ray.util.remove_placement_group(group)
    ray.kill(ray.get_runtime_context().current_actor, no_restart=True)
    os._exit(0)  # had that not been heard
