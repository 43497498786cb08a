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


def count_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0))


def _group_limits(root: Path) -> Iterator[tuple[int, int]]:
    """(limit, use without reclaimable file pages) in bytes, of each control group from ours to the root, v1 and v2."""
    mount = root / "sys/fs/cgroup"
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, group = line.split(":", 2)
        if controllers == "":
            base, limit, use, cache = mount, "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            base, limit, use = mount / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            cache = "total_inactive_file"
        else:
            continue
        path = Path(group)
        for folder in (path, *path.parents):
            at = base / str(folder).lstrip("/")
            limit_bytes = _read(at / limit).strip()
            if limit_bytes.isdigit():  # absent, or "max": no limit here
                used_bytes = int(_read(at / use) or 0) - _read_table(at / "memory.stat").get(cache, 0)
                yield int(limit_bytes), used_bytes


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
