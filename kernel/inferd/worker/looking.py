"""A look at a model's file: whatever it holds, finding out what the model needs takes no more than it may.

The bounds are those of the process, soft ones, which go back to what they were afterwards. Memory is bounded as
`RLIMIT_DATA`: what is private to the process and written, which no file that is mapped for reading counts for, and no
address that a driver reserves; `RLIMIT_AS` would count both.
"""

from __future__ import annotations

import math
import resource
from contextlib import contextmanager
from errno import EMFILE
from pathlib import Path
from typing import TYPE_CHECKING

from inferd.core.resources import HOST_DEVICE
from inferd.plugin import LoadError
from inferd.plugin.cores import NONE_AT_ALL

if TYPE_CHECKING:
    from collections.abc import Iterator

    from inferd_api.worker.v1 import load_pb2


@contextmanager
def bounded_look(load: load_pb2.Load) -> Iterator[None]:
    """Bound what the block takes of memory, processor time and descriptors, beyond what its process has.

    More processor time ends the process, by SIGXCPU; nothing else would end code that is no Python's.

    Raises:
        LoadError: It wants more memory or descriptors; names the setting.
    """
    look = load.limits.look
    if not look.memory_bytes:
        yield
        return
    memory_bytes = look.memory_bytes
    if load.device == HOST_DEVICE and load.capacity_bytes:
        memory_bytes = min(memory_bytes, load.capacity_bytes)
    used = resource.getrusage(resource.RUSAGE_SELF)
    bounds = {
        resource.RLIMIT_DATA: _data_bytes() + memory_bytes,
        resource.RLIMIT_CPU: math.ceil(used.ru_utime + used.ru_stime + look.cpu_s),
        resource.RLIMIT_NOFILE: look.descriptors,
        resource.RLIMIT_CORE: NONE_AT_ALL,
    }
    before = {kind: resource.getrlimit(kind) for kind in bounds}
    for kind, most in bounds.items():
        soft, hard = before[kind]
        resource.setrlimit(
            kind, (min([most, *(each for each in (soft, hard) if each != resource.RLIM_INFINITY)]), hard)
        )
    try:
        yield
    except MemoryError as error:
        raise LoadError(
            f"looking at {load.path} takes more memory than it may, {memory_bytes} bytes (workers.look_memory_bytes,"
            f" at most what inferd may give of {load.device}): the file is damaged, or made to do harm, or that is low"
            " for it"
        ) from error
    except OSError as error:
        if error.errno != EMFILE:
            raise
        raise LoadError(
            f"looking at {load.path} opens more files than it may, {look.descriptors} (workers.look_descriptors)"
        ) from error
    finally:
        for kind, limits in before.items():
            resource.setrlimit(kind, limits)


def _data_bytes() -> int:
    """What counts for `RLIMIT_DATA` now; see proc(5)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmData:"):
            return int(line.split()[1]) << 10
    return 0
