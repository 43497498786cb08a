"""What a task tells its watchers. `Finished` is always the last."""

from dataclasses import dataclass
from enum import Enum

from inferd.core.ids import InstanceId
from inferd.core.task import Outcome


class Phase(Enum):
    """What takes its time before the first token; the values are those of `inferd.v1.Phase`."""

    LOAD = 1
    PREFILL = 2


@dataclass(frozen=True, slots=True)
class Queued:
    """It waits behind `position` others of its model."""

    position: int


@dataclass(frozen=True, slots=True)
class Started:
    """It was handed to an instance."""

    instance_id: InstanceId
    attempt: int


@dataclass(frozen=True, slots=True)
class Progress:
    """`fraction`, 0 to 1, of a phase is done."""

    phase: Phase
    fraction: float


@dataclass(frozen=True, slots=True)
class Output:
    """New tokens and the text that they complete."""

    text: str
    token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What the task cost; times in seconds, None when there was none."""

    queue_s: float
    first_token_s: float | None
    run_s: float
    backend: str
    device: str
    worker_memory_bytes: int


@dataclass(frozen=True, slots=True)
class Finished:
    """It ended."""

    outcome: Outcome
    receipt: Receipt


TaskEvent = Queued | Started | Progress | Output | Finished
