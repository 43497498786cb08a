"""A task on its way into the engine."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Final

from inferd.core.ids import Tenant
from inferd.core.task import FinishReason

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from inferd.engine.token.intake import Intake
    from inferd.engine.token.script import Script
    from inferd.engine.work import Attributed, Embedding, TaskInput
    from inferd.plugin.session import Float32Array
    from inferd.sampling import Sampling


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


@dataclass(frozen=True, slots=True)
class Submission:
    """A task on its way in.

    Attributes:
        handle: Names it; rises with each task.
        task_input: Its prompt.
        sampling: How tokens are chosen.
        salt: Only tasks with the same salt find each other's KV: the tenant, and whatever else changes the KV.
        prefix_cache: Find and leave KV in the prefix cache.
        priority: Its class: of those that wait the highest comes first, and of those that run the lowest gives way.
        share: Of a class prompts are begun in the order of `VirtualTime`, by tenant and weight, and who is last in it
            gives way first; of equals the older one comes first.
        embedding: What its prompt becomes, instead of being gone on with.
        attributed: What it is asked of the tokens of its prompt, instead of it being gone on with.
        lease_id: The lease that it runs under; "" for none. It draws on what `Loop.hold` holds for that.
        fencing_token: Of the lease's grant; another one than that of the hold ends the task with LeaseEndedError.
        continuation: What it has told before, in an engine that lost it: it goes on behind that. None for nothing.
        alone: Run it alone in its batch until each of its samples has told something new.
        source: What it is written of, for a `SourcedSession`; None for a task that is its prompt's alone.
        script: What it must write and must not; None for anything.
        check: Called where it is prepared, before its prompt is; raises where it is refused. None for nothing.
        allowed_output: Most output tokens that the kernel allowed which accepted it; 0 for what the engine allows.
        adapter: The adapter that it is computed with, by the digest of what that holds; "" for none.
        adapter_name: Its name, for people.
    """

    handle: int
    task_input: TaskInput
    sampling: Sampling
    _: KW_ONLY
    salt: bytes = b""
    prefix_cache: bool = True
    priority: int = 0
    share: Share = NO_SHARE
    embedding: Embedding | None = None
    attributed: Attributed | None = None
    lease_id: str = ""
    fencing_token: int = 0
    continuation: Continuation | None = None
    alone: bool = False
    source: Float32Array | None = None
    script: Script | None = None
    allowed_output: int = 0
    adapter: str = ""
    adapter_name: str = ""
    check: Callable[[Intake], None] | None = None

    @property
    def writes(self) -> bool:
        """Whether text comes of it, and no vector."""
        return self.embedding is None and self.attributed is None
