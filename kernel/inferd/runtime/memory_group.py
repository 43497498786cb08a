"""A worker's own control groups.

Of memory, as only the system knows whether a process ended because memory ran out; of tasks, which bounds threads and
processes.
"""

import logging
import re
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from inferd.plugin.host import ROOT, control_groups, memory_groups

COUNTERS: Final = {1: "memory.oom_control", 2: "memory.events"}
"""By version of control groups, the file that counts what the system ended in one because memory ran out."""

LIMITS: Final = {1: "memory.limit_in_bytes", 2: "memory.max"}
"""By version, the file that bounds it."""

_PREFIX: Final = "inferd-"
_REMOVAL_S: Final = 1.0  # that processes which have been killed may take to be gone
_RETRY_S: Final = 0.01

_log = logging.getLogger(__name__)


class MemoryGroup:
    """A control group below the one that this process is in. Blocking, each time for moments.

    Attributes:
        folder: Its folder.
    """

    def __init__(self, folder: Path, version: int) -> None:
        self.folder = folder
        self._counter = folder / COUNTERS[version]

    @classmethod
    def make(cls, name: str, *, most_bytes: int = 0, root: Path = ROOT) -> "MemoryGroup | None":
        """A new one; None where this process may make none, or none that counts.

        Args:
            most_bytes: Most memory of those in it, if the system lets it be bounded; 0 for no bound.
            name: Begins with the id of this process and a hyphen, by which `sweep` knows whose it was.
            root: Holds `proc` and `sys`.
        """
        for parent, version in memory_groups(root):
            if not _passes_limits_on(parent):
                return None
            folder = parent / f"{_PREFIX}{name}"
            with suppress(OSError):
                folder.mkdir()
                group = cls(folder, version)
                if group._counter.exists():
                    group._bound(LIMITS[version], most_bytes)
                    return group
                folder.rmdir()  # of version 2, where the controller is not handed down
            return None  # in that of a parent the worker would be free of limits of ours
        return None

    def _bound(self, file: str, most_bytes: int) -> None:
        with suppress(OSError):  # what is in it says that it is not bounded
            if most_bytes:
                (self.folder / file).write_text(str(most_bytes))

    def add(self, pid: int) -> None:
        """Have a process in it, and all that it will start."""
        _add(self.folder, pid)

    def ended_for_memory(self) -> int:
        """How many of its processes the system has ended because memory ran out."""
        with suppress(OSError):
            if found := re.search(r"^oom_kill (\d+)$", self._counter.read_text(), re.MULTILINE):
                return int(found[1])
        return 0

    def remove(self) -> None:
        """Have it gone; its processes have been killed."""
        _remove(self.folder)


class TaskGroup:
    """A control group that bounds threads and processes. Blocking, each time for moments.

    Attributes:
        folder: Its folder; that of the memory group where all controllers have the same one.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def make(cls, name: str, *, most: int, root: Path = ROOT) -> "TaskGroup | None":
        """A new one, or that of the same name; None where this process may make none, or none that bounds.

        Args:
            name: As of `MemoryGroup.make`.
            most: Threads and processes.
            root: Holds `proc` and `sys`.
        """
        for parent, _ in control_groups("pids", root):
            folder = parent / f"{_PREFIX}{name}"
            with suppress(OSError):
                folder.mkdir(exist_ok=True)
                (folder / "pids.max").write_text(str(most))
                return cls(folder)
            with suppress(OSError):
                folder.rmdir()  # without the controller; one that has a process in it stays
            return None
        return None

    def add(self, pid: int) -> None:
        """Have a process in it, and all that it will start."""
        _add(self.folder, pid)

    def remove(self) -> None:
        """Have it gone; its processes have been killed."""
        _remove(self.folder)


def _add(folder: Path, pid: int) -> None:
    with suppress(OSError):  # it is gone already, or may not be moved
        (folder / "cgroup.procs").write_text(str(pid))


def _remove(folder: Path) -> None:
    deadline = time.monotonic() + _REMOVAL_S
    while folder.exists():
        try:
            folder.rmdir()
        except OSError as error:
            if time.monotonic() > deadline:
                _log.warning("control group %s stays: %s", folder, error)
                return
            time.sleep(_RETRY_S)


def _passes_limits_on(parent: Path) -> bool:
    """Whether the limits of a group hold for those in it: of version 1, a setting that old systems leave off."""
    with suppress(OSError):
        return (parent / "memory.use_hierarchy").read_text().strip() != "0"
    return True


def sweep(root: Path = ROOT) -> None:
    """Remove what kernels left that could not remove it themselves."""
    for parent, _ in (*memory_groups(root)[:1], *control_groups("pids", root)[:1]):
        for folder in parent.glob(f"{_PREFIX}[0-9]*-*"):
            pid = folder.name.removeprefix(_PREFIX).partition("-")[0]
            if pid.isdigit() and not Path(f"/proc/{pid}").exists():
                with suppress(OSError):  # a worker in it is not gone yet
                    folder.rmdir()
