"""A part of one core for a process: by a control group where one may be made, else by stopping it in between."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

GROUPS = Path("/sys/fs/cgroup")
PERIOD_US = 100_000
BEAT_S = 0.02


@contextmanager
def held_to(pid: int, part: float) -> Iterator[str]:
    """Hold a process to a part of a core until the block ends; tells by what."""
    group = _group(pid, part)
    if group is not None:
        try:
            yield "cgroup"
        finally:
            _leave(group)
        return
    over = threading.Event()
    beat = threading.Thread(target=_beat, args=(pid, part, over), daemon=True)
    beat.start()
    try:
        yield "SIGSTOP"
    finally:
        over.set()
        beat.join()


def _group(pid: int, part: float) -> Path | None:
    quota = int(PERIOD_US * part)
    for parent, name, value in (
        (GROUPS / "cpu", "cpu.cfs_quota_us", f"{quota}"),
        (GROUPS, "cpu.max", f"{quota} {PERIOD_US}"),
    ):
        group = parent / f"inferd-attack-{pid}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            (group / name).write_text(value)
            (group / "cgroup.procs").write_text(str(pid))
        except OSError:
            _leave(group)
        else:
            return group
    return None


def _leave(group: Path) -> None:
    deadline = time.monotonic() + 5.0
    while time.monotonic() < deadline:
        with suppress(OSError):
            for pid in (group / "cgroup.procs").read_text().split():
                (group.parent / "cgroup.procs").write_text(pid)
            group.rmdir()
            return


def _beat(pid: int, part: float, over: threading.Event) -> None:
    with suppress(ProcessLookupError):
        while not over.wait(BEAT_S * part):
            os.kill(pid, signal.SIGSTOP)
            over.wait(BEAT_S * (1 - part))
            os.kill(pid, signal.SIGCONT)
        os.kill(pid, signal.SIGCONT)
