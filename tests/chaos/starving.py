"""Memory that runs out in the control group of one worker, for real: the system ends the worker."""

import os
import re
import subprocess
import sys
from pathlib import Path

from inferd.runtime.memory_group import MemoryGroup

SPARE_BYTES = 4 << 20  # that the group may still take
BALLOON_BYTES = 64 << 20  # that something takes in it
LIMITS = {"memory": "memory.limit_in_bytes", "": "memory.max"}  # by the controller's name in the path
USES = {"memory": "memory.usage_in_bytes", "": "memory.current"}
SWAP = {"memory.memsw.limit_in_bytes": None, "memory.swap.max": "0"}  # None: as the limit; nothing goes there

BALLOON = """
import sys, time
from pathlib import Path
pid, group, size = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
(group / "cgroup.procs").write_text("0")
held, deadline = [], time.monotonic() + 20
while time.monotonic() < deadline:
    try:
        if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX":
            break
    except OSError:
        break
    if len(held) << 20 < size:
        held.append(b"x" * (1 << 20))
    else:
        time.sleep(0.01)
"""


def group_of(pid: int) -> tuple[Path, str]:
    """The folder of the control group of memory that the kernel made for a worker, and its controller's name.

    Raises:
        LookupError: It made none; the message says in which one the worker is.
    """
    text = Path(f"/proc/{pid}/cgroup").read_text()
    for controllers, path in re.findall(r"^\d+:(.*?):(.*)$", text, re.MULTILINE):
        if (controllers == "memory" or not controllers) and Path(path).name.startswith("inferd-"):
            return Path("/sys/fs/cgroup") / controllers / path.lstrip("/"), controllers
    raise LookupError(f"worker {pid} has no control group of memory of its own: {text!r}")


def why_not() -> str:
    """Why nobody can be starved here; "" where that works."""
    group = MemoryGroup.make(f"{os.getpid()}-probe")
    if group is None:
        return "no control groups of memory can be made here"
    group.remove()
    return ""


def starve(pid: int) -> None:
    """Have memory run out for a worker, to its end; something else in its group takes what is left.

    Raises:
        FileNotFoundError, ProcessLookupError: It is gone already.
    """
    if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX":
        raise ProcessLookupError(f"worker {pid} has ended")
    group, controller = group_of(pid)
    Path(f"/proc/{pid}/oom_score_adj").write_text("1000")  # the system must choose that one
    used = int((group / USES[controller]).read_text())
    (group / LIMITS[controller]).write_text(str(used + SPARE_BYTES))
    for name, most in SWAP.items():
        if (group / name).exists():
            (group / name).write_text(str(most or used + SPARE_BYTES))
    subprocess.run([sys.executable, "-c", BALLOON, str(pid), str(group), str(BALLOON_BYTES)], check=False, timeout=60)
