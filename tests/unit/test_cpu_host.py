"""Memory and cores, read from made-up `/proc` and `/sys` trees."""

from pathlib import Path

import pytest

from inferd_cpu.host import Memory, count_cores, read_memory, read_processor

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
    "sys/fs/cgroup/pod/memory.stat": f"anon 5\ninactive_file {MIB}\n",
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
    """The limit of a parent control group narrows both figures; file pages that can be reclaimed count as free."""
    assert read_memory(write(tmp_path, **files)) == Memory(total_bytes=3 * MIB, free_bytes=2 * MIB)


def test_this_host() -> None:
    """On a real host there is a processor with a name, at least one core, and not more free memory than there is."""
    memory = read_memory()
    assert 0 < memory.free_bytes <= memory.total_bytes
    assert count_cores() >= 1
    assert read_processor()


def test_a_processor_without_a_name(tmp_path: Path) -> None:
    """A processor that gives no model name is called by its machine type."""
    assert read_processor(write(tmp_path, **{"proc/cpuinfo": "processor : 0\n"}))


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"sys/fs/cgroup/a/b/cpu.max": "max 100000\n", "sys/fs/cgroup/a/cpu.max": "100000 100000\n"}, 1),
        ({"sys/fs/cgroup/a/b/cpu.max": "50000 100000\n"}, 1),
        ({"sys/fs/cgroup/a/b/cpu.max": "max 100000\n"}, None),
        ({}, None),
    ],
)
def test_cores_respect_the_quota(tmp_path: Path, files: dict[str, str], cores: int | None) -> None:
    """A control group's quota of processor time bounds the cores, at least one; without one all may be used."""
    for name, text in {"proc/self/cgroup": "0::/a/b\n", **files}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert count_cores(tmp_path) == (cores or count_cores())
