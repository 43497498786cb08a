"""What the worker of a model is to reach of its host."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from inferd.core.model import ModelSpec
from inferd.plugin.host import read_memory
from inferd.sandbox.state import NVIDIA, group_bytes
from inferd_api.worker.v1 import sandbox_pb2


@dataclass(frozen=True, slots=True)
class GroupBounds:
    """Of a worker: of its control groups, of what it writes, and of what it is told of the kernel's environment.

    Attributes:
        threads: Most threads and processes; 0 for no bound.
        memory_bytes: Most memory; 0 for no bound.
        scratch_bytes: Most that it writes to its scratch and its log; 0 for no bound.
        scratch_files: Most files and folders in its scratch.
        variables: Names of variables that it is given besides those of a known list.
    """

    threads: int = 0
    memory_bytes: int = 0
    scratch_bytes: int = 0
    scratch_files: int = 0
    variables: tuple[str, ...] = ()


UNBOUNDED: Final = GroupBounds()


def group_bounds(limits: sandbox_pb2.SandboxLimits) -> GroupBounds:
    """What bounds each worker from outside: its control groups, and the kernel's looks at what it has written."""
    written = GroupBounds(
        scratch_bytes=limits.scratch_bytes, scratch_files=limits.scratch_files, variables=tuple(limits.variables)
    )
    if limits.mode not in (sandbox_pb2.SANDBOX_MODE_AUTO, sandbox_pb2.SANDBOX_MODE_REQUIRE):
        return written
    memory_bytes = group_bytes(limits.memory_bytes, read_memory().total_bytes)
    return replace(written, threads=limits.threads, memory_bytes=memory_bytes)


def sandbox_order(spec: ModelSpec, *, host: bool = True, looks: bool = False) -> sandbox_pb2.SandboxOrder:
    """The order for a worker: what its backend asks for, and what its settings name.

    One that only `looks` at the model writes nothing that these name. Whether it computes on the `host`'s processor
    decides on compilers.
    """
    access = spec.access
    if access is None:  # of a kernel that kept none: what of the settings is a path is read, and may be written
        named = [value for value in spec.values.values() if isinstance(value, str) and Path(value).is_absolute()]
        return sandbox_pb2.SandboxOrder(
            reads=named, writes=() if looks else named, devices=NVIDIA.devices, looks=looks, programs=not host
        )
    return sandbox_pb2.SandboxOrder(
        reads=access.reads,
        writes=() if looks else access.writes,
        devices=access.devices,
        network=access.network,
        listens=access.listens,
        programs=access.programs or (access.compilers and not host),
        looks=looks,
    )
