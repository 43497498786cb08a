"""Memory and cores of this host, limits of the control groups respected (Linux). For backends and for the kernel."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/")


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Memory that this process may use, in bytes: all of it, and what is free now or becomes free when asked for."""

    total_bytes: int
    free_bytes: int


def read_memory(root: Path = ROOT) -> Memory:
    """The machine's memory, narrowed by each control group that this process is in. `root` holds `proc` and `sys`.

    Pages of files count as free, as they do in the kernel's own `MemAvailable`; see proc(5).
    """
    machine = _read_table(root / "proc/meminfo")
    total, free = machine["MemTotal:"] << 10, machine["MemAvailable:"] << 10
    for limit_bytes, used_bytes in _memory_limits(root):
        total = min(total, limit_bytes)
        free = min(free, max(limit_bytes - used_bytes, 0))
    return Memory(total_bytes=total, free_bytes=free)


def count_cores(root: Path = ROOT) -> int:
    """Cores that this process may run on, at least 1; of a core that its control group gives in part, nothing."""
    cores = len(os.sched_getaffinity(0))
    return max(1, min(cores, *(int(share) for share in _core_limits(root)), cores))


def memory_groups(root: Path = ROOT) -> list[tuple[Path, int]]:
    """The folder and the version, 1 or 2, of each control group of memory of this process, its own one first."""
    return control_groups("memory", root)


def control_groups(controller: str, root: Path = ROOT) -> list[tuple[Path, int]]:
    """As `memory_groups`, of another controller, for example "pids"."""
    return [(folder, version) for folder, version in _groups(root, controller) if (folder / "cgroup.procs").exists()]


def _memory_limits(root: Path) -> Iterator[tuple[int, int]]:
    """(limit, use without pages of files) in bytes, of each control group that has a limit."""
    for folder, version in _groups(root, "memory"):
        if version == 2:  # noqa: PLR2004 - of the control groups
            names, caches = ("memory.max", "memory.current"), ("inactive_file", "active_file")
        else:
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
            caches = ("total_inactive_file", "total_active_file")
        limit, use = (_read(folder / name).strip() for name in names)
        if limit.isdigit():  # absent, or "max": no limit here
            table = _read_table(folder / "memory.stat")
            yield int(limit), int(use or 0) - sum(table.get(cache, 0) for cache in caches)


def _core_limits(root: Path) -> Iterator[float]:
    """The share of the processor that each control group with a quota gives, in cores."""
    for folder, version in _groups(root, "cpu"):
        if version == 2:  # noqa: PLR2004 - of the control groups
            quota, _, period = _read(folder / "cpu.max").partition(" ")
        else:
            quota, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
        if quota.strip().isdigit() and period.strip().isdigit():  # else "max", -1, or absent
            yield int(quota) / int(period)


def _groups(root: Path, controller: str) -> Iterator[tuple[Path, int]]:
    """The folder and the version, 1 or 2, of each control group of a controller from ours to the root."""
    mount = root / "sys/fs/cgroup"
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, group = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        base, version = (mount / controller, 1) if controllers else (mount, 2)
        path = Path(group)
        for folder in (path, *path.parents):
            yield base / str(folder).lstrip("/"), version


def _read_table(path: Path) -> dict[str, int]:
    """The lines "name number …" of a file."""
    rows = (line.split() for line in _read(path).splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) > 1}


def _read(path: Path) -> str:
    """The file's text, or "" when there is none."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
