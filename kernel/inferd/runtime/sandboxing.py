"""What the worker of a model is to reach of its host."""

from pathlib import Path

from inferd.core.model import ModelSpec
from inferd.sandbox.state import NVIDIA
from inferd_api.worker.v1 import sandbox_pb2


def sandbox_order(spec: ModelSpec, *, looks: bool = False) -> sandbox_pb2.SandboxOrder:
    """The order for a worker: what its backend asks for, and what its settings name.

    One that only `looks` at the model writes nothing that these name.
    """
    access = spec.access
    if access is None:  # of a kernel that kept none: what of the settings is a path is read, and may be written
        named = [value for value in spec.values.values() if isinstance(value, str) and Path(value).is_absolute()]
        return sandbox_pb2.SandboxOrder(reads=named, writes=() if looks else named, devices=NVIDIA.devices, looks=looks)
    return sandbox_pb2.SandboxOrder(
        reads=access.reads,
        writes=() if looks else access.writes,
        devices=access.devices,
        network=access.network,
        programs=access.programs,
        looks=looks,
    )
