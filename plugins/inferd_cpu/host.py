"""What this host offers: processor, cores and memory, limits of the control group respected (Linux)."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/")


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Memory that this process may use, in bytes: all of it, and what is free now."""

    total_bytes: int
    free_bytes: int


def read_memory(root: Path = ROOT) -> Memory:
    """The machine's memory, narrowed by each control group that this process is in. `root` holds `proc` and `sys`."""
    machine = _read_table(root / "proc/meminfo")
    total, free = machine["MemTotal:"] << 10, machine["MemAvailable:"] << 10
    for limit_bytes, used_bytes in _group_limits(root):
        total = min(total, limit_bytes)
        free = min(free, max(limit_bytes - used_bytes, 0))
    return Memory(total_bytes=total, free_bytes=free)


def read_processor(root: Path = ROOT) -> str:
    """The processor's name."""
    for line in (root / "proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return os.uname().machine


def count_cores(root: Path = ROOT) -> int:
    """Cores that this process may use at once: those that it may run on, and no more than a control group's quota."""
    cores = float(len(os.sched_getaffinity(0)))
    for path in _group_folders(root, "cpu"):
        quota, _, period = _read(path / "cpu.max").partition(" ")
        quota, period = quota or _read(path / "cpu.cfs_quota_us"), period or _read(path / "cpu.cfs_period_us")
        if quota.strip().isdigit() and period.strip().isdigit():  # else "max" or -1: no limit here
            cores = min(cores, int(quota) / int(period))
    return max(1, int(cores))


def _group_limits(root: Path) -> Iterator[tuple[int, int]]:
    """(limit, use without reclaimable file pages) in bytes, of each control group from ours to the root, v1 and v2."""
    for path in _group_folders(root, "memory"):
        if (path / "memory.max").exists():
            limit, use, cache = "memory.max", "memory.current", "inactive_file"
        else:
            limit, use, cache = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
        limit_bytes = _read(path / limit).strip()
        if limit_bytes.isdigit():  # absent, or "max": no limit here
            used_bytes = int(_read(path / use) or 0) - _read_table(path / "memory.stat").get(cache, 0)
            yield int(limit_bytes), used_bytes


def _group_folders(root: Path, controller: str) -> Iterator[Path]:
    """Folders of the control groups that this process is in, from ours to the root, v1 and v2."""
    mount = root / "sys/fs/cgroup"
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, group = line.split(":", 2)
        if controllers == "":
            base = mount
        elif controller in controllers.split(","):
            base = mount / controller
        else:
            continue
        path = Path(group)
        for folder in (path, *path.parents):
            yield base / str(folder).lstrip("/")


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
