"""What is told of sandboxes, for people; and what of one this host allows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Final

from inferd.plugin.host import read_memory
from inferd.runtime.memory_group import MemoryGroup, TaskGroup
from inferd.sandbox.state import SandboxLevel, State, group_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_PREFIX: Final = "SANDBOX_LEVEL_"
_TRIAL_S: Final = 20.0


def sandboxes(instances: Sequence[Mapping[str, Any]]) -> str:
    """Of instances as JSON has them: `full`, or `partial(why)`; of which, where they differ."""
    told = {str(each["instance_id"]): _words(each["sandbox"]) for each in instances if each.get("sandbox")}
    if len(set(told.values())) <= 1:
        return next(iter(told.values()), "")
    return "; ".join(f"{instance}: {words}" for instance, words in told.items())


def _words(sandbox: Mapping[str, Any]) -> str:
    level = str(sandbox["level"]).removeprefix(_PREFIX)  # of a newer kernel it may be one that is not known here
    reasons = tuple(sandbox["reasons"])
    return str(State(SandboxLevel[level], reasons)) if level in SandboxLevel.__members__ else level.lower()


def allowed(*, threads: int, memory_bytes: int) -> State:
    """What this host allows: a process enters a sandbox as a worker does, in control groups of its own, and tells."""
    name, most_bytes = f"{os.getpid()}-doctor", group_bytes(memory_bytes, read_memory().total_bytes)
    groups = (MemoryGroup.make(name, most_bytes=most_bytes), TaskGroup.make(name, most=threads))
    try:
        with subprocess.Popen(
            [sys.executable, "-P", "-m", "inferd.sandbox", str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as child:
            for group in groups:
                if group is not None:
                    group.add(child.pid)
            told, _ = child.communicate("\n", timeout=_TRIAL_S)
        found = json.loads(told)
        return State(SandboxLevel[found["level"]], tuple(found["reasons"]))
    except (OSError, subprocess.TimeoutExpired, ValueError, KeyError) as error:
        return State(SandboxLevel.OFF, (f"it cannot be tried: {type(error).__name__}",))
    finally:
        for group in groups:
            if group is not None:
                group.remove()
