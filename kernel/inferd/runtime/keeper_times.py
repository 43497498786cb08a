"""When the keeper writes."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class KeeperTimes:
    """How often is written; see `inferd.config` for what each means.

    Attributes:
        output_interval_s: Least time between two writes of output.
        retry_s: Time from a write that failed to the next one.
    """

    output_interval_s: float = 0.1
    retry_s: float = 0.5
