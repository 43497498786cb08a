"""Tasks and models as they are kept: JSON, with instants as Unix time, and behind it what only a worker opens.

Instants come with the stamp of the clock on which they are. What was written before there were stamps is read by the
wall clock.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, replace
from sys import intern
from typing import TYPE_CHECKING, Any

from inferd.core.demand import NO_DEMAND, Demand
from inferd.core.ids import DeviceId, InstanceId, LeaseId, ModelName, TaskId, Tenant
from inferd.core.model import ModelSpec
from inferd.core.past_tasks import PastTask
from inferd.core.placement_rules import ANYWHERE, PlacementRules, PlacementStrategy
from inferd.core.priority import Priority
from inferd.core.restored import RestoredTask
from inferd.core.sampling_defaults import SamplingDefaults
from inferd.core.task import Task, TaskSpec, TaskState
from inferd.core.task_events import Finished
from inferd.runtime.event_log import Numbered
from inferd.runtime.kept_events import read_entry, read_json, write_entry
from inferd.runtime.kept_times import instant_of, is_estimated, read_shift, wall_of, write_stamp
from inferd.runtime.shared_work import SharedWork
from inferd.sandbox.state import read_access
from inferd.store.store import DamagedError
from inferd_api.worker.v1 import task_pb2

if TYPE_CHECKING:
    from inferd.runtime.clock import Clock
    from inferd.runtime.continuation import Continuation
    from inferd.store.store import Record

END = b"\0"  # of the JSON, which has none
STATES = {state.value: state for state in TaskState}  # which is quicker than to ask the class
UNREADABLE = (DamagedError, ValueError, TypeError, KeyError, AttributeError, IndexError)
"""What reading something may raise that is damaged, or that another version has written."""


@dataclass(frozen=True, slots=True)
class KeptTask:
    """What a task is to do; of an ended one too. Its spec's deadline is not kept: `Task.expires` is."""

    spec: TaskSpec
    number: int
    created: float


def write_task(task: Task | KeptTask, clock: Clock, *, names: bool = False) -> bytes:
    """What a task is to do, which never changes; `names` of what is in blobs only where it is."""
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
    work = spec.work.whole(names=names) if isinstance(spec.work, SharedWork) else spec.work
    return _json(written) + END + (work.SerializeToString() if isinstance(work, task_pb2.Work) else b"")


def read_task(value: bytes, clock: Clock, *, ended: bool = False) -> KeptTask:
    """What a task is to do; of one that has `ended` nobody needs the work and the demand."""
    head, _, work = value.partition(END)
    written = read_json(head)
    spec = TaskSpec(
        task_id=TaskId(written["id"]),
        tenant=Tenant(intern(written["tenant"])),  # there may be very many of them
        model=ModelName(intern(written["model"])),
        demand=NO_DEMAND if ended else _read_demand(written["demand"]),
        work=None if ended else SharedWork.of(task_pb2.Work.FromString(work)),
        priority=Priority(written["priority"]),
        lease_id=LeaseId(written["lease"]),
        labels=written["labels"],
        detached=True,
        request_id=written["request"],
        fingerprint=bytes.fromhex(written["fingerprint"]),
    )
    return KeptTask(spec, written["number"], clock.instant(written["created"]) + read_shift(written, clock))


def _read_demand(written: dict[str, Any]) -> Demand:
    names = {name: bytes.fromhex(written[name]) for name in ("affinity", "contents")}
    return Demand(**{**written, **names})


def write_progress(
    task: Task,
    continuation: Continuation,
    clock: Clock,
    *,
    last: int = 0,
    end: Numbered | None = None,
    first_output_at: float | None = None,
) -> bytes:
    """Where a task stands, the number of its newest event and that itself where it is its end, and its first output."""
    return _json(
        {
            "state": task.state.value,
            "attempt": task.attempt,
            "deaths": task.deaths,
            "started": wall_of(task.started, clock),
            "finished": wall_of(task.finished, clock),
            "retained": wall_of(task.retained, clock),
            "expires": wall_of(task.expires, clock),
            "first_output": wall_of(first_output_at, clock),
            "stamp": write_stamp(clock),
            "instance": task.instance_id,
            "device": task.device_id,
            "cached_tokens": continuation.cached_tokens,
            "expected_tokens": task.expected_tokens,
            "charged_tokens": task.charged_tokens,
            "device_s": task.device_s,
            "last": last,
            "end": None if end is None else write_entry(end),
        }
    )


def with_bytes(written: bytes, record_bytes: int, pieces_bytes: int) -> bytes:
    """The same, which also says what the record of the task takes of the store, and what it has told."""
    return b'%s,"bytes":[%d,%d]}' % (written[:-1], record_bytes, pieces_bytes)


def write_past(task: Task | PastTask, clock: Clock) -> bytes:
    """What is known of an ended task without what it is to do and where it stands; `with_bytes` goes with it."""
    return _json(
        {
            "number": task.number,
            "state": task.state.value,
            "model": task.spec.model,
            "retained": wall_of(task.retained, clock),
            "stamp": write_stamp(clock),
            "request": task.spec.request_id,
        }
    )


def read_past(record: Record, clock: Clock) -> tuple[PastTask, tuple[int, int], bool]:
    """That, with `KeptProgress.sizes`, and whether only the wall clock tells from when on it is retained."""
    written = read_json(record.value)
    retained = instant_of(written["retained"], clock, read_shift(written, clock, least=True))
    past = PastTask(
        task_id=TaskId(record.key),
        tenant=Tenant(intern(record.tenant)),
        model=ModelName(intern(written["model"])),
        number=written["number"],
        state=STATES[written["state"]],
        retained=0.0 if retained is None else retained,
        request_id=written["request"],
    )
    record_bytes, pieces_bytes = written["bytes"]
    return past, (record_bytes, pieces_bytes), is_estimated(written, clock)


@dataclass(frozen=True, slots=True)
class KeptProgress:
    """Where a task stood.

    Attributes:
        written: Its fields.
        state: Its state.
        cached_tokens: How many tokens it had found in the prefix cache.
        last: Number of its newest event; None where only the events say that.
        end: That event, where it is the end of the task; None where it has none, or only the events say that.
    """

    written: dict[str, Any]
    state: TaskState
    cached_tokens: int | None
    last: int | None
    end: Numbered | None

    def first_output_at(self, clock: Clock) -> float | None:
        """When its first output was told, on this clock; None where none was, or an older kernel wrote it."""
        if (wall := self.written.get("first_output")) is None:
            return None
        return instant_of(wall, clock, read_shift(self.written, clock))

    @property
    def sizes(self) -> tuple[int, int]:
        """What its record takes of the store, and what it has told; zeros where an older kernel wrote it."""
        record_bytes, pieces_bytes = self.written.get("bytes", (0, 0))
        return record_bytes, pieces_bytes

    @property
    def ended(self) -> bool:
        """Whether the task had ended."""
        return self.written["finished"] is not None

    def restored(self, kept: KeptTask, end: Numbered | None, clock: Clock) -> RestoredTask:
        """The task as it stood; `end` is its last event, where it had ended."""
        written, event = self.written, None if end is None else end.event
        shift_s = read_shift(written, clock)
        return RestoredTask(
            spec=kept.spec,
            number=kept.number,
            state=self.state,
            attempt=written["attempt"],
            deaths=written["deaths"],
            created=kept.created,
            started=instant_of(written["started"], clock, shift_s),
            finished=instant_of(written["finished"], clock, shift_s),
            retained=instant_of(
                written.get("retained", written["finished"]), clock, read_shift(written, clock, least=True)
            ),
            expires=instant_of(written["expires"], clock, shift_s),
            instance_id=None if written["instance"] is None else InstanceId(intern(written["instance"])),
            device_id=None if written["device"] is None else DeviceId(intern(written["device"])),
            outcome=event.outcome if isinstance(event, Finished) else None,
            estimated=is_estimated(written, clock),
            expected_tokens=written.get("expected_tokens", 0.0),
            charged_tokens=written.get("charged_tokens", 0.0),
            device_s=written.get("device_s", 0.0),
        )


def read_progress(value: bytes) -> KeptProgress:
    """Where a task stood."""
    written = read_json(value)
    event = read_entry(*end) if (end := written.get("end")) is not None else None
    return KeptProgress(
        written,
        STATES[written["state"]],
        written["cached_tokens"],
        written.get("last"),
        event if isinstance(event, Numbered) else None,
    )


def write_spec(spec: ModelSpec) -> dict[str, Any]:
    """What a model is, for JSON."""
    written: dict[str, Any] = {field.name: getattr(spec, field.name) for field in fields(ModelSpec)}
    for name in ("sampling", "catalogue_sampling"):
        written[name] = getattr(spec, name).numbers
    written["access"] = None if spec.access is None else asdict(spec.access)
    if not spec.digest:  # as kernels wrote it that knew none
        del written["digest"]
    if not spec.pinned:  # likewise
        del written["pinned"]
    if spec.span == 1:  # likewise
        del written["span"]
    written["placement"] = _write_rules(spec.placement)
    if spec.placement == ANYWHERE:  # likewise
        del written["placement"]
    written["links"] = dict(spec.links)
    if not spec.links:  # likewise
        del written["links"]
    return {**written, "settings": dict(spec.settings), "values": dict(spec.values)}


def read_spec(written: dict[str, Any]) -> ModelSpec:
    """What a model is, as a kernel before this one wrote it."""
    written = dict(written)
    for name in ("devices", "alternatives"):
        written[name] = tuple(written[name])
    written["listed"] = tuple(map(tuple, written.get("listed", ())))  # kernels before this one did not write it
    for name in ("sampling", "catalogue_sampling"):
        written[name] = SamplingDefaults(**written[name])
    if (rules := written.get("placement")) is not None:
        written["placement"] = PlacementRules(**{**rules, "strategy": PlacementStrategy(rules["strategy"])})
    if (access := written.get("access")) is not None:
        written["access"] = read_access(access)
    return replace(ModelSpec(**written), name=ModelName(written["name"]))


def _write_rules(rules: PlacementRules) -> dict[str, Any]:
    return {"selector": dict(rules.selector), "strategy": rules.strategy.value, "apart": rules.apart}


def _json(written: dict[str, Any]) -> bytes:
    return json.dumps(written, separators=(",", ":")).encode()
