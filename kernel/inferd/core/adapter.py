"""Adapters of models: what is added to their weights for tasks that name one."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class AdapterState(Enum):
    """Where an adapter stands; the values are those of `inferd.v1.AdapterState`."""

    KNOWN = 1
    LOADED = 2
    FAILED = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """An adapter of a model, as it is kept with that.

    Attributes:
        name: By which tasks ask for it.
        path: Of its file, or its folder.
        digest: What its files hold, "sha256:…".
        size_bytes: How many bytes these have.
    """

    name: str
    path: str
    digest: str
    size_bytes: int
