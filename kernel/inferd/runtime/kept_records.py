"""Tasks and models as they are kept: JSON, with instants as Unix time, and behind it what only a worker opens.

Instants come with the stamp of the clock on which they are. What was written before there were stamps is read by the
wall clock.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from inferd.core.demand import Demand
from inferd.core.ids import DeviceId, InstanceId, LeaseId, ModelName, TaskId, Tenant
from inferd.core.model import ModelSpec
from inferd.core.priority import Priority
from inferd.core.restored import RestoredTask
from inferd.core.sampling_defaults import SamplingDefaults
from inferd.core.task import Outcome, Task, TaskSpec, TaskState
from inferd.runtime.kept_times import instant_of, is_estimated, read_shift, wall_of, write_stamp
from inferd.runtime.shared_work import SharedWork
from inferd_api.worker.v1 import task_pb2

if TYPE_CHECKING:
    from inferd.runtime.clock import Clock
    from inferd.runtime.continuation import Continuation

END = b"\0"  # of the JSON, which has none


@dataclass(frozen=True, slots=True)
class KeptTask:
    """What a task is to do; of an ended one too. Its spec's deadline is not kept: `Task.expires` is."""

    spec: TaskSpec
    number: int
    created: float


def write_task(task: Task, clock: Clock) -> bytes:
    """What a task is to do, which never changes."""
    spec, demand = task.spec, task.spec.demand
    written = {
        "id": spec.task_id,
        "tenant": spec.tenant,
        "number": task.number,
        "created": clock.wall(task.created),
        "stamp": write_stamp(clock),
        "model": spec.model,
        "priority": spec.priority.value,
        "lease": spec.lease_id,
        "labels": dict(spec.labels),
        "request": spec.request_id,
        "fingerprint": spec.fingerprint.hex(),
        "demand": {
            **{field.name: getattr(demand, field.name) for field in fields(Demand)},
            "affinity": demand.affinity.hex(),
            "contents": demand.contents.hex(),
        },
    }
    work = spec.work.whole() if isinstance(spec.work, SharedWork) else spec.work
    return _json(written) + END + (work.SerializeToString() if isinstance(work, task_pb2.Work) else b"")


def read_task(value: bytes, clock: Clock) -> KeptTask:
    """What a task is to do."""
    head, _, work = value.partition(END)
    written = json.loads(head)
    demand = written["demand"]
    spec = TaskSpec(
        task_id=TaskId(written["id"]),
        tenant=Tenant(written["tenant"]),
        model=ModelName(written["model"]),
        demand=Demand(
            **{
                **demand,
                "affinity": bytes.fromhex(demand["affinity"]),
                "contents": bytes.fromhex(demand["contents"]),
            }
        ),
        work=SharedWork.of(task_pb2.Work.FromString(work)),
        priority=Priority(written["priority"]),
        lease_id=LeaseId(written["lease"]),
        labels=written["labels"],
        detached=True,
        request_id=written["request"],
        fingerprint=bytes.fromhex(written["fingerprint"]),
    )
    return KeptTask(spec, written["number"], clock.instant(written["created"]) + read_shift(written, clock))


def write_progress(task: Task, continuation: Continuation, clock: Clock) -> bytes:
    """Where a task stands."""
    return _json(
        {
            "state": task.state.value,
            "attempt": task.attempt,
            "deaths": task.deaths,
            "started": wall_of(task.started, clock),
            "finished": wall_of(task.finished, clock),
            "expires": wall_of(task.expires, clock),
            "stamp": write_stamp(clock),
            "instance": task.instance_id,
            "device": task.device_id,
            "cached_tokens": continuation.cached_tokens,
        }
    )


def read_progress(
    kept: KeptTask, value: bytes, outcome: Outcome | None, clock: Clock
) -> tuple[RestoredTask, int | None]:
    """A task as it stood, and how many tokens it had found in the prefix cache; `outcome` is its last event's."""
    written = json.loads(value)
    state, shift_s = TaskState(written["state"]), read_shift(written, clock)
    restored = RestoredTask(
        spec=kept.spec,
        number=kept.number,
        state=state,
        attempt=written["attempt"],
        deaths=written["deaths"],
        created=kept.created,
        started=instant_of(written["started"], clock, shift_s),
        finished=instant_of(written["finished"], clock, shift_s),
        expires=instant_of(written["expires"], clock, shift_s),
        instance_id=None if written["instance"] is None else InstanceId(written["instance"]),
        device_id=None if written["device"] is None else DeviceId(written["device"]),
        outcome=outcome,
        estimated=is_estimated(written, clock),
    )
    return restored, written["cached_tokens"]


def write_model(spec: ModelSpec) -> bytes:
    """A model that a client made known."""
    written: dict[str, Any] = {field.name: getattr(spec, field.name) for field in fields(ModelSpec)}
    for name in ("sampling", "catalogue_sampling"):
        written[name] = getattr(spec, name).numbers
    return _json({**written, "settings": dict(spec.settings), "values": dict(spec.values)})


def read_model(value: bytes) -> ModelSpec:
    """A model that a client made known to a kernel before this one."""
    written = json.loads(value)
    for name in ("devices", "alternatives"):
        written[name] = tuple(written[name])
    for name in ("sampling", "catalogue_sampling"):
        written[name] = SamplingDefaults(**written[name])
    return replace(ModelSpec(**written), name=ModelName(written["name"]))


def _json(written: dict[str, Any]) -> bytes:
    return json.dumps(written, separators=(",", ":")).encode()
