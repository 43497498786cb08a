"""What a training has its worker do: work that only that opens."""

from __future__ import annotations

from dataclasses import dataclass
from secrets import token_hex
from typing import TYPE_CHECKING, Final

from inferd.core.demand import Demand
from inferd.core.ids import TaskId
from inferd.core.task import TRAINING_LABEL, TaskSpec
from inferd.runtime.evaluation_work import MESSAGE_BYTES, TASK_ID_BYTES
from inferd_api.worker.v1 import task_pb2 as wp

if TYPE_CHECKING:
    from inferd.core.ids import LeaseId
    from inferd.core.training import Training
    from inferd.training_settings import Train


def is_training(spec: TaskSpec) -> bool:
    """Whether a task does the steps of a training; no client can make one."""
    return isinstance(spec.work, wp.Work) and spec.work.HasField("train")


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """Of a worker among those that do the steps of a training together.

    Attributes:
        place: In the names of its models; see `Training.model_of`.
        rank: Which it is; 0 leads. Places that found no room have no rank.
        ranks: How many there are.
        meeting: Where the one that leads awaits it; "" for that itself.
    """

    place: int = 0
    rank: int = 0
    ranks: int = 1
    meeting: str = ""


ALONE: Final = Seat()


def training_task(training: Training, lease_id: LeaseId, settings: Train, seat: Seat = ALONE) -> TaskSpec:
    """Bring a training to its end, from the last checkpoint in its folder on; or take part in that."""
    train = wp.Train(
        checkpoint_s=settings.checkpoint_s,
        report_s=settings.report_s,
        curve_steps=settings.curve_steps,
        disk_bytes=settings.disk_bytes,
        ranks=seat.ranks,
        rank=seat.rank,
        address=settings.address if seat.ranks > 1 else "",
        meeting=seat.meeting,
        join_s=settings.join_s if seat.ranks > 1 else 0.0,
    )
    return TaskSpec(
        task_id=TaskId(token_hex(TASK_ID_BYTES)),
        tenant=training.tenant,
        model=training.model_of(seat.place),
        demand=Demand(most_output=1, memory_bytes=MESSAGE_BYTES),
        work=wp.Work(train=train),
        priority=training.spec.priority,
        lease_id=lease_id,
        labels={TRAINING_LABEL: training.training_id},
        operation="train",
    )
