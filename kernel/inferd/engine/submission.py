"""A task on its way into the engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from inferd.core.ids import Tenant
from inferd.core.task import FinishReason

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

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


@dataclass(frozen=True, slots=True)
class SampleSoFar:
    """The tokens that a sample has told, and why it ended; UNSPECIFIED while it has not."""

    token_ids: Sequence[int]
    reason: FinishReason = FinishReason.UNSPECIFIED


@dataclass(frozen=True, slots=True, kw_only=True)
class Continuation:
    """What a task has told before, in an engine that lost it.

    Attributes:
        samples: By number; only those that have told something.
        prompt_told: Whether what was asked of the prompt has been told.
        cached_tokens: Tokens of the prompt that the prefix cache had when it was begun; None where it never was.
    """

    samples: Mapping[int, SampleSoFar]
    prompt_told: bool = False
    cached_tokens: int | None = None


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
    continuation: Continuation | None = None
    alone: bool = False
