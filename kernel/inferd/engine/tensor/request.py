"""A request on its way through the tensor engine, and what comes of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from inferd.core.ids import Tenant
    from inferd.engine.token.output import Ended
    from inferd.plugin import Signature, Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorLimits:
    """Bounds from the kernel's configuration.

    Attributes:
        batch_rows: Most rows that are computed as one.
        batch_delay_s: Most seconds that a request waits for others to be computed with.
        sequences: Most sequences whose state is kept.
        sequences_per_tenant: Most of those of one tenant; 0 for half of them.
        sequence_bytes: Most bytes of a sequence's state.
        all_sequences_bytes: Most bytes of all states; of one tenant's the same part as of the sequences.
        sequence_idle_s: A sequence without a request for so long is given up.
        output_bytes: Most bytes of a set of outputs.
        text_bytes: Most bytes of the texts of a set of outputs.
    """

    batch_rows: int = 64
    batch_delay_s: float = 0.0
    sequences: int = 1024
    sequences_per_tenant: int = 0
    sequence_bytes: int = 64 << 20
    all_sequences_bytes: int = 512 << 20
    sequence_idle_s: float = 60.0
    output_bytes: int = 4 << 20
    text_bytes: int = 4 << 20

    @property
    def tenant_sequences(self) -> int:
        """Most sequences of one tenant."""
        return min(self.sequences, self.sequences_per_tenant or max(1, self.sequences // 2))

    def delay_s(self, signature: Signature) -> float:
        """Most seconds that a request of a model waits for others."""
        own = signature.batching.delay_s
        return self.batch_delay_s if own is None else own


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceStep:
    """Which sequence a request belongs to, and whether it is its first and its last one."""

    tenant: Tenant
    name: str
    start: bool = False
    end: bool = False

    @property
    def key(self) -> tuple[Tenant, str]:
        """A tenant's names are its own."""
        return self.tenant, self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A task on its way in.

    Attributes:
        handle: Names it; rises with each task.
        task_id: Of its task, the same when it is submitted again; "" where that never happens.
        inputs: By name.
        outputs: Those that are wanted; empty for all.
        sequence: Which it belongs to; None for none.
        priority: Its class: of those that wait the highest comes first, and in it the oldest.
        lease_id: The lease that it runs under; "" for none.
        fencing_token: Of the lease's grant; another one than that of the hold ends the task with LeaseEndedError.
        told: Sets of outputs that it has told before, in an engine that lost it: so many are left out.
        alone: Compute it alone, with nothing else beside it: workers have died while it ran.
        moved: The last request of its sequence went elsewhere: what is kept of that is old.
        prepare: Makes what the model is given, when it is computed; None where `inputs` are that.
        finish: Makes what is told, of what the model was given and of its outputs; None for those as they are.
    """

    handle: int
    inputs: Mapping[str, Tensor]
    outputs: Sequence[str] = ()
    sequence: SequenceStep | None = None
    priority: int = 0
    lease_id: str = ""
    fencing_token: int = 0
    told: int = 0
    alone: bool = False
    task_id: str = ""
    moved: bool = False
    prepare: Callable[[], Mapping[str, Tensor]] | None = None
    finish: Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], Mapping[str, Tensor]] | None = None


@dataclass(slots=True, kw_only=True)
class TensorResult:
    """What was computed at once.

    Attributes:
        outputs: Sets of outputs, each with the handle of its task.
        ended: Tasks that ended with it; their last outputs are above.
        alone: The task that is computed alone from now on; None for none.
        seconds: How long it computed; 0 where nothing was computed.
    """

    outputs: list[tuple[int, Mapping[str, Tensor]]] = field(default_factory=list)
    ended: list[Ended] = field(default_factory=list)
    alone: int | None = None
    seconds: float = 0.0
