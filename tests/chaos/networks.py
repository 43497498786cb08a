"""Networks of hosts on this machine: each has one link to it, which is cut, silent or slow. By root's `ip` and `tc`."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

SLOW = ("tbf", "rate", "256kbit", "burst", "16kb", "latency", "400ms")
SILENT = ("blackhole",)  # takes what is sent, and nobody is told


class UnavailableError(Exception):
    """This system gives no networks; says why."""


@dataclass(frozen=True, slots=True)
class Link:
    """A network with its link.

    Attributes:
        name: Of the network.
        near: The end of the link here.
        far: The one there.
        address: Of this machine, as it is reached from there.
    """

    name: str
    near: str
    far: str
    address: str

    @property
    def enter(self) -> list[str]:
        """What begins a command that runs there."""
        return [_tool("ip"), "netns", "exec", self.name]

    def break_(self, manner: str) -> None:
        """Have it down, silent or slow, in both directions."""
        if manner == "down":
            _run("ip", "link", "set", self.near, "down")
            return
        for name in (None, self.name):
            _run("tc", *self._end(name, "replace"), *(SILENT if manner == "silent" else SLOW))

    def mend(self) -> None:
        """Have it as it was, whatever was done to it."""
        _run("ip", "link", "set", self.near, "up")
        for name in (None, self.name):
            with suppress(UnavailableError):  # nothing was done to it
                _run("tc", *self._end(name, "del"))

    def _end(self, name: str | None, verb: str) -> list[str]:
        there = ["-n", name] if name else []
        return [*there, "qdisc", verb, "dev", self.far if name else self.near, "root"]


@contextmanager
def links(count: int) -> Iterator[list[Link]]:
    """So many networks.

    Raises:
        UnavailableError: There are none.
    """
    made: list[Link] = []
    pid = os.getpid()
    try:
        for number in range(count):
            subnet = f"10.{100 + pid % 100}.{(pid // 100 + number) % 250}"
            link = Link(f"ordeal-{pid}-{number}", f"or{pid}n{number}"[:15], f"or{pid}f{number}"[:15], f"{subnet}.1")
            _run("ip", "netns", "add", link.name)
            made.append(link)
            _run("ip", "link", "add", link.near, "type", "veth", "peer", "name", link.far, "netns", link.name)
            _run("ip", "addr", "add", f"{subnet}.1/24", "dev", link.near)
            _run("ip", "link", "set", link.near, "up")
            _run("ip", "-n", link.name, "addr", "add", f"{subnet}.2/24", "dev", link.far)
            for device in (link.far, "lo"):
                _run("ip", "-n", link.name, "link", "set", device, "up")
        yield made
    finally:
        for link in made:
            with suppress(UnavailableError):
                _run("ip", "netns", "delete", link.name)  # and its end of the link, which takes ours along


@contextmanager
def bridged(count: int) -> Iterator[list[Link]]:
    """So many networks whose hosts reach this machine and each other, by a bridge here.

    Raises:
        UnavailableError: There are none.
    """
    made: list[Link] = []
    pid = os.getpid()
    bridge, subnet = f"ob{pid}"[:15], f"10.{200 + pid % 50}.{pid // 50 % 250}"
    try:
        _run("ip", "link", "add", bridge, "type", "bridge")
        _run("ip", "addr", "add", f"{subnet}.1/24", "dev", bridge)
        _run("ip", "link", "set", bridge, "up")
        for number in range(count):
            link = Link(f"gang-{pid}-{number}", f"ob{pid}n{number}"[:15], f"ob{pid}f{number}"[:15], f"{subnet}.1")
            _run("ip", "netns", "add", link.name)
            made.append(link)
            _run("ip", "link", "add", link.near, "type", "veth", "peer", "name", link.far, "netns", link.name)
            _run("ip", "link", "set", link.near, "master", bridge, "up")
            _run("ip", "-n", link.name, "addr", "add", f"{subnet}.{number + 2}/24", "dev", link.far)
            for device in (link.far, "lo"):
                _run("ip", "-n", link.name, "link", "set", device, "up")
        yield made
    finally:
        for link in made:
            with suppress(UnavailableError):
                _run("ip", "netns", "delete", link.name)
        with suppress(UnavailableError):
            _run("ip", "link", "delete", bridge)


def _tool(name: str) -> str:
    found = shutil.which(name)
    if os.geteuid() or found is None:
        raise UnavailableError(f"networks are made by root, with `{name}`")
    return found


def _run(tool: str, *words: str) -> None:
    done = subprocess.run([_tool(tool), *words], check=False, capture_output=True, text=True)
    if done.returncode:
        raise UnavailableError(f"{tool} {' '.join(words)}: {done.stderr.strip()}")
