"""The control group of a worker: on a made-up tree, and on the real one where this process may make groups."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from inferd.runtime.memory_group import COUNTERS, MemoryGroup, sweep

V1, V2 = "4:memory:/pod\n0::/\n", "0::/pod\n"
NAME = f"{os.getpid()}-m-1"


def tree(root: Path, cgroup: str, *names: str) -> Path:
    """A process in a group, which has these files; the folder of the group."""
    for name in (path := root / "proc/self/cgroup", *(root / "sys/fs/cgroup" / name for name in names)):
        name.parent.mkdir(parents=True, exist_ok=True)
        name.touch()
    path.write_text(cgroup)
    return (root / "sys/fs/cgroup" / names[0]).parent


@pytest.mark.parametrize(("version", "cgroup", "folder"), [(1, V1, "memory/pod"), (2, V2, "pod")])
@pytest.mark.parametrize("count", [0, 1, 12])
def test_what_the_system_counted(tmp_path: Path, version: int, cgroup: str, folder: str, count: int) -> None:
    """The count of either version of control groups is read, and nothing that only looks like it."""
    parent = tree(tmp_path, cgroup, f"{folder}/cgroup.procs")
    group = MemoryGroup(parent / "inferd-x", version)
    (parent / "inferd-x").mkdir()
    (parent / "inferd-x" / COUNTERS[version]).write_text(f"oom 99\noom_kill_disable 7\noom_kill {count}\nunder_oom 3\n")
    assert group.ended_for_memory() == count


def test_a_group_that_does_not_count_is_none(tmp_path: Path) -> None:
    """Where the controller is not handed down no group is left behind; nor where none can be made at all."""
    parent = tree(tmp_path, V2, "pod/cgroup.procs")
    assert MemoryGroup.make(NAME, root=tmp_path) is None
    assert list(parent.iterdir()) == [parent / "cgroup.procs"]
    assert MemoryGroup.make(NAME, root=tmp_path / "nothing") is None


def test_limits_are_not_escaped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a group whose limits do not hold for those in it there is none; where they do, there is."""
    parent = tree(tmp_path, V1, "memory/pod/cgroup.procs")
    monkeypatch.setitem(COUNTERS, 1, ".")  # the folder itself: nothing else comes into being by itself here
    (parent / "memory.use_hierarchy").write_text("0\n")
    assert MemoryGroup.make(NAME, root=tmp_path) is None
    (parent / "memory.use_hierarchy").write_text("1\n")
    assert MemoryGroup.make(NAME, root=tmp_path) is not None


def test_what_dead_kernels_left_is_swept(tmp_path: Path) -> None:
    """Groups of kernels that are gone go; those of living ones and of others stay."""
    parent = tree(tmp_path, V1, "memory/pod/cgroup.procs")
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    for name in (f"inferd-{gone.pid}-m-1", f"inferd-{os.getpid()}-m-1", "inferd-other", "someone-1-else"):
        (parent / name).mkdir()
    sweep(tmp_path)
    assert not (parent / f"inferd-{gone.pid}-m-1").exists()
    assert len([path for path in parent.iterdir() if path.is_dir()]) == 3


def test_memory_that_runs_out_is_counted() -> None:
    """A process that takes more than its group may have is ended by the system, and the group says so."""
    group = MemoryGroup.make(NAME)
    if group is None:
        pytest.skip("no control groups of memory can be made here")
    try:
        for name in LIMITS:
            if (group.folder / name).exists():
                (group.folder / name).write_text("0" if "swap" in name else str(32 << 20))
        with subprocess.Popen([sys.executable, "-c", GREEDY], stdin=subprocess.PIPE) as greedy:
            group.add(greedy.pid)
            assert group.ended_for_memory() == 0
            greedy.communicate(b"go")
        assert greedy.returncode == -9
        assert group.ended_for_memory() == 1
    finally:
        group.remove()
    assert not group.folder.exists()


LIMITS = ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "memory.max", "memory.swap.max")
GREEDY = "import sys; sys.stdin.read(); held = b'x' * (256 << 20)"
