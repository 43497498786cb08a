"""Memory and cores, read from made-up `/proc` and `/sys` trees."""

import os
from pathlib import Path

import pytest

from inferd.plugin.host import Memory, count_cores, read_memory

MIB = 1 << 20


def write(root: Path, **files: str) -> Path:
    for name, content in {"proc/meminfo": "MemTotal: 8192 kB\nMemAvailable: 4096 kB\n", **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


def test_memory_of_a_machine_without_control_groups(tmp_path: Path) -> None:
    """Without control groups the machine's own figures count."""
    assert read_memory(write(tmp_path)) == Memory(total_bytes=8 * MIB, free_bytes=4 * MIB)


V2 = {
    "proc/self/cgroup": "0::/pod/box\n",
    "sys/fs/cgroup/pod/memory.max": str(3 * MIB),
    "sys/fs/cgroup/pod/memory.current": str(2 * MIB),
    "sys/fs/cgroup/pod/memory.stat": f"anon 5\ninactive_file {MIB // 2}\nactive_file {MIB // 2}\n",
    "sys/fs/cgroup/pod/box/memory.max": "max",
}
V1 = {
    "proc/self/cgroup": "4:cpu:/x\n3:memory:/pod/box\n",
    "sys/fs/cgroup/memory/pod/memory.limit_in_bytes": str(3 * MIB),
    "sys/fs/cgroup/memory/pod/memory.usage_in_bytes": str(2 * MIB),
    "sys/fs/cgroup/memory/pod/memory.stat": f"total_rss 5\ntotal_inactive_file {MIB}\n",
    "sys/fs/cgroup/memory/pod/box/memory.limit_in_bytes": str(1 << 62),
}


@pytest.mark.parametrize("files", [V2, V1], ids=["v2", "v1"])
def test_memory_within_a_control_group(tmp_path: Path, files: dict[str, str]) -> None:
    """The limit of a parent control group narrows both figures; pages of files count as free."""
    assert read_memory(write(tmp_path, **files)) == Memory(total_bytes=3 * MIB, free_bytes=2 * MIB)


def test_a_control_group_that_is_full(tmp_path: Path) -> None:
    """A group that holds more than its limit, which was lowered, has nothing free, and no less than that."""
    files = V2 | {"sys/fs/cgroup/pod/memory.current": str(9 * MIB)}
    assert read_memory(write(tmp_path, **files)).free_bytes == 0


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"proc/self/cgroup": "0::/pod/box\n", "sys/fs/cgroup/pod/cpu.max": "250000 100000\n"}, 2),
        ({"proc/self/cgroup": "0::/pod/box\n", "sys/fs/cgroup/pod/cpu.max": "50000 100000\n"}, 1),
        ({"proc/self/cgroup": "0::/pod/box\n", "sys/fs/cgroup/pod/cpu.max": "max 100000\n"}, 8),
        (
            {
                "proc/self/cgroup": "4:cpu,cpuacct:/x\n",
                "sys/fs/cgroup/cpu/x/cpu.cfs_quota_us": "300000\n",
                "sys/fs/cgroup/cpu/x/cpu.cfs_period_us": "100000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            3,
        ),
        ({}, 8),
    ],
    ids=["v2", "less than one", "no quota", "v1", "no group"],
)
def test_cores_within_a_control_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], cores: int
) -> None:
    """A quota of the processor bounds the cores to whole ones, at least one."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    assert count_cores(write(tmp_path, **files)) == cores


def test_this_host() -> None:
    """On a real host there is at least one core, and not more free memory than there is."""
    memory = read_memory()
    assert 0 < memory.free_bytes <= memory.total_bytes
    assert count_cores() >= 1
