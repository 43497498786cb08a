"""Sandboxes of processes beside a worker, inside of its own: they read no model and write nothing."""

import os
from contextlib import suppress
from pathlib import Path

from inferd.sandbox import landlock, seccomp, walls
from inferd.sandbox.paths import DEVICES, libraries, told
from inferd.sandbox.system import column

confined = False
"""Whether this process is in a sandbox. One writer: `inferd.sandbox.entry`; children inherit it."""

networked = False
"""Whether what is forked may use the network. One writer: `inferd.engine.cells.starter`; children inherit it."""

readable: tuple[str, ...] = ()
"""What is forked may read besides libraries. One writer, as of `networked`."""


def narrow() -> None:
    """Keep a process that others are forked from, and those, to libraries, with no programs and no signals."""
    if not confined:
        return
    with suppress(OSError):
        walls.hide()
    if abi := landlock.version():
        with suppress(OSError):
            rules = landlock.Ruleset(abi, network=networked)
            rules.allow(libraries(), landlock.READ)
            rules.allow(told(network=networked), landlock.READ)
            rules.allow(map(Path, readable), landlock.READ)
            rules.allow(map(Path, DEVICES), landlock.USE | landlock.READ)
            rules.enforce()
    _filter(forks=True)


def close() -> None:
    """Have a process make no others from now on."""
    if confined:
        _filter(forks=False)


def _filter(*, forks: bool) -> None:
    if (known := column()) is not None:
        with suppress(OSError):  # a system without filters: the worker's state says so
            seccomp.install(seccomp.inner(known, os.getpid(), forks=forks, sockets=networked), known)
