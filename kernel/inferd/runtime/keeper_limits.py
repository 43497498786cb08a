"""The bounds of the keeper."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class KeeperLimits:
    """How often is written, and what waits for that; see `inferd.config` for what each means.

    Attributes:
        output_interval_s: Least time between two writes of output.
        retry_s: Time from a write that failed to the next one.
        task_bytes: Most that is held of what one task has told and is not kept yet, while nothing can be written.
        all_bytes: Most of all tasks together.
    """

    output_interval_s: float = 0.1
    retry_s: float = 0.5
    task_bytes: int = 4 << 20
    all_bytes: int = 512 << 20
