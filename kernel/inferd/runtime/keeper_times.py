"""When the keeper writes, and how much it keeps."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class KeeperTimes:
    """How often is written, and how much may be there; see `inferd.config` for what each means.

    Attributes:
        output_interval_s: Least time between two writes of output.
        retry_s: Time from a write that failed to the next one.
        most_output_tokens: Of a task that is accepted.
        stored_bytes: What may be stored of tasks.
        held_tasks: How many records of ended tasks are held that were read from the store.
        tenant_share: Of what is free of that, how many times as much the living tasks of a tenant may take.
    """

    output_interval_s: float = 0.1
    retry_s: float = 0.5
    most_output_tokens: int = 0
    stored_bytes: int = 64 << 30
    held_tasks: int = 1000
    tenant_share: float = 1.0
