"""A task on its way into the engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from inferd.core.ids import Tenant

if TYPE_CHECKING:
    from inferd.core.task import Embedding, Sampling, TaskInput


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """Whose a task is, and what it is expected to take of the model.

    Attributes:
        tenant: Whose it is.
        expected_tokens: What it is expected to cost, prompt and output.
        weight: Of the tenant, above 0.
    """

    tenant: Tenant
    expected_tokens: float = 0.0
    weight: float = 1.0


NO_SHARE: Final = Share(tenant=Tenant(""))
"""Of a task of nobody in particular, which costs nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """A task on its way in; see `Loop.submit`."""

    handle: int
    task_input: TaskInput
    sampling: Sampling
    salt: bytes
    prefix_cache: bool
    priority: int
    share: Share
    embedding: Embedding | None
    adapter: str
    lease_id: str
    fencing_token: int
