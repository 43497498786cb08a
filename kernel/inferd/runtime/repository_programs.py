"""A program of a repository as a model that the core knows: of the kernel's own host, and of nobody else's making."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from inferd.core.host import HOST_LABEL, LOCAL
from inferd.core.ids import DeviceId, ModelName
from inferd.core.model import ModelSpec
from inferd.core.placement_rules import PlacementRules
from inferd.core.program import BACKEND, LOADER
from inferd.core.resources import HOST_DEVICE
from inferd.runtime.placement import stat_files
from inferd.sandbox.state import Access

if TYPE_CHECKING:
    from inferd.repository.served import Wanted


def program_spec(wanted: Wanted) -> ModelSpec:
    """The model that a version is, which is a program. Blocking.

    Raises:
        InvalidFieldError: Its file cannot be read.
    """
    path = Path(wanted.source)
    size_bytes, version = stat_files(path)
    return ModelSpec(
        name=ModelName(wanted.name),
        source=wanted.source,
        path=wanted.source,
        format=BACKEND,
        size_bytes=size_bytes,
        backend=BACKEND,
        backend_reason="it is a model.py that repository.programs names",
        loader=LOADER,
        devices=(DeviceId(HOST_DEVICE),),
        placement=PlacementRules(selector={HOST_LABEL: LOCAL}),
        pinned=True,
        values=dict(wanted.program or {}),
        file_version=version,
        access=Access(reads=(str(path.parent.parent),)),
    )
