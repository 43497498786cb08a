"""A task on its way into the engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from inferd.core.task import Embedding, Sampling, TaskInput


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """A task on its way in; see `Loop.submit`."""

    handle: int
    task_input: TaskInput
    sampling: Sampling
    salt: bytes
    prefix_cache: bool
    priority: int
    virtual_start: float
    embedding: Embedding | None
    adapter: str
    lease_id: str
    fencing_token: int
