"""What the dashboard shows of each thing: a row of JSON, made of a message. Times are milliseconds since 1970."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from inferd_api.v1.evaluation_pb2 import EvaluationKind, EvaluationState
from inferd_api.v1.host_pb2 import HostState
from inferd_api.v1.lease_pb2 import LeaseState
from inferd_api.v1.model_pb2 import InstanceState, ModelState, VersionState
from inferd_api.v1.moderation_pb2 import FlagState
from inferd_api.v1.pipeline_pb2 import PipelineState, StepState
from inferd_api.v1.priority_pb2 import Priority
from inferd_api.v1.task_pb2 import FinishReason, TaskState
from inferd_api.v1.training_pb2 import TrainingState

if TYPE_CHECKING:
    from google.protobuf.timestamp_pb2 import Timestamp
    from google.rpc.status_pb2 import Status

    from inferd_api.v1.evaluation_pb2 import Evaluation
    from inferd_api.v1.host_pb2 import Device, Host
    from inferd_api.v1.lease_pb2 import Claim, Lease
    from inferd_api.v1.model_pb2 import Instance, Model, ModelVersion
    from inferd_api.v1.moderation_pb2 import Flag
    from inferd_api.v1.pipeline_pb2 import PipelineRun
    from inferd_api.v1.quota_pb2 import QuotaUse
    from inferd_api.v1.task_pb2 import Task
    from inferd_api.v1.training_pb2 import Training

MOST_FIGURES: Final = 4
MOST_STEPS: Final = 20
MOST_CHARS: Final = 300
"""Of a text that may be long, as an error."""
MEASURES: Final = (
    *("requests_per_minute", "tokens_per_minute", "tasks", "input_bytes", "lease_bytes", "lease_sequences"),
    "device_seconds_per_day",
)


def host_row(host: Host) -> dict[str, Any]:
    """The kernel's own host: what it alone tells."""
    return {
        "name": host.name,
        "version": host.version,
        "os": host.os,
        "pid": host.pid,
        "memory_bytes": host.memory_bytes,
        "started": _ms(host.start_time),
        "queued": host.queued_tasks,
        "running": host.running_tasks,
        "tokens_per_second": round(host.tokens_per_second, 1),
        "leases": host.leases,
        "warnings": [_cut(each) for each in host.warnings],
        "epoch": host.epoch,
        "standbys": [{"host": each.host, "silent_s": round(each.silent_s)} for each in host.standbys],
    }


def hosts_row(host: Host) -> dict[str, Any]:
    """Any host: its devices, and where it stands."""
    return {
        "name": host.name,
        "version": host.version,
        "state": _name(HostState, host.state),
        "labels": dict(host.labels),
        "devices": [device_row(each) for each in host.devices],
        "models": list(host.models),
        "instances": host.instances,
        "places": host.places,
        "placed": host.placed_tasks,
        "silence_s": round(host.silence.ToSeconds()) if host.HasField("silence") else None,
        "why": _cut(host.reason or host.order_reason),
        "drained": host.drained,
        "ordered": _name(HostState, host.ordered) if host.ordered else "",
    }


def device_row(device: Device) -> dict[str, Any]:
    """A device, and who holds its memory."""
    return {
        "id": device.device_id,
        "description": device.description,
        "capacity": device.capacity_bytes,
        "instances": device.instance_bytes,
        "leases": device.lease_bytes,
        "foreign": device.foreign_bytes,
        "free": device.free_bytes,
        "cores": device.cores,
        "leased_cores": device.leased_cores,
        "unmeasured": _cut(device.unmeasured),
    }


def load_rows(host: Host) -> dict[str, dict[str, Any]]:
    """Waiting and running tasks by tenant and class."""
    return {
        f"{each.tenant} {each.priority}": {
            "tenant": each.tenant,
            "class": _name(Priority, each.priority),
            "queued": each.queued_tasks,
            "running": each.running_tasks,
        }
        for each in host.loads
    }


def instance_row(instance: Instance) -> dict[str, Any]:
    """An instance of a model."""
    return {
        "model": instance.model,
        "state": _name(InstanceState, instance.state),
        "fraction": round(instance.load_fraction, 3),
        "devices": [instance.device, *instance.devices_beside],
        "reserved": instance.reserved_bytes,
        "memory": instance.memory_bytes,
        "running": instance.running_tasks,
        "places": instance.max_tasks,
        "lease": instance.lease_id,
        "version": instance.version,
        "error": _error(instance.error),
    }


def model_row(model: Model) -> dict[str, Any]:
    """A model; its instances have rows of their own."""
    return {
        "state": _name(ModelState, model.state),
        "backend": model.backend,
        "size": model.size_bytes,
        "version": model.version,
        "aliases": list(model.aliases),
        "adapters": sorted(model.adapters),
        "labels": dict(model.labels),
        "error": _error(model.error),
        "queue_reason": _cut(model.queue_reason),
        "fetch": [model.fetch.done_bytes, model.fetch.total_bytes] if model.HasField("fetch") else None,
        "rolling": _version(model.rolling) if model.HasField("rolling") else None,
    }


def _version(version: ModelVersion) -> dict[str, Any]:
    canary = version.canary
    return {
        "number": version.number,
        "state": _name(VersionState, version.state),
        "by": version.requested_by,
        "created": _ms(version.create_time),
        "error": _error(version.error),
        "canary": {
            "step": canary.step,
            "steps": canary.steps,
            "share": canary.share,
            "tasks": canary.tasks,
            "failed": canary.failed_tasks,
        }
        if version.HasField("canary")
        else None,
    }


def task_row(task: Task) -> dict[str, Any]:
    """A task that has not ended."""
    return {
        "model": task.model,
        "state": _name(TaskState, task.state),
        "class": _name(Priority, task.priority),
        "created": _ms(task.create_time),
        "started": _ms(task.start_time),
        "attempt": task.attempt,
        "instance": task.instance_id,
        "lease": task.lease_id,
    }


def ended_row(task: Task) -> dict[str, Any]:
    """A task that has ended."""
    end = task.finished
    return {
        **task_row(task),
        "finished": _ms(task.finish_time),
        "reason": _name(FinishReason, end.reason) if end.reason else "",
        "error": _error(end.error),
        "prompt_tokens": end.usage.prompt_tokens,
        "output_tokens": end.usage.output_tokens,
        "first_token_s": first_token_s(task),
        "whole_s": whole_s(task),
    }


def first_token_s(task: Task) -> float | None:
    """From acceptance to the first token, in seconds; None where there was none."""
    receipt = task.finished.receipt
    return receipt.first_token_duration.ToNanoseconds() / 1e9 if receipt.HasField("first_token_duration") else None


def whole_s(task: Task) -> float | None:
    """From acceptance to the end, in seconds; None where it has not ended."""
    if not task.HasField("finish_time"):
        return None
    return max(0.0, (task.finish_time.ToNanoseconds() - task.create_time.ToNanoseconds()) / 1e9)


def lease_row(lease: Lease) -> dict[str, Any]:
    """A lease that is held or waits."""
    return {
        "state": _name(LeaseState, lease.state),
        "claims": [_claim(each) for each in lease.spec.claims],
        "class": _name(Priority, lease.spec.priority),
        "expires": _ms(lease.expire_time),
        "tasks": lease.tasks,
        "position": lease.position,
        "waits_for": _cut(lease.waits_for),
    }


def _claim(claim: Claim) -> dict[str, Any]:
    match claim.WhichOneof("kind"):
        case "memory":
            return {"device": claim.memory.device_id, "bytes": claim.memory.bytes}
        case "cores":
            return {"device": claim.cores.device_id, "cores": claim.cores.cores}
        case _:
            return {"model": claim.model.model, "places": claim.model.sequences, "tokens": claim.model.kv_tokens}


def quota_row(use: QuotaUse) -> dict[str, Any]:
    """What a tenant has used of a quota: for each measure that it limits, its name, the use and the limit."""
    return {
        "tenant": use.tenant,
        "models": use.quota.models,
        "measures": [
            [name, getattr(use, name), getattr(use.quota, name)] for name in MEASURES if use.quota.HasField(name)
        ],
    }


def evaluation_row(evaluation: Evaluation) -> dict[str, Any]:
    """An evaluation."""
    return {
        "title": _cut(evaluation.spec.title),
        "model": evaluation.spec.model,
        "kind": _name(EvaluationKind, evaluation.spec.kind),
        "state": _name(EvaluationState, evaluation.state),
        "lines": evaluation.lines,
        "done": evaluation.done_lines,
        "failed": evaluation.failed_lines,
        "figures": [[each.name, round(each.value, 4)] for each in evaluation.figures[:MOST_FIGURES]],
        "created": _ms(evaluation.create_time),
        "error": _error(evaluation.error),
    }


def training_row(training: Training) -> dict[str, Any]:
    """A training."""
    return {
        "name": training.spec.name,
        "model": training.spec.model,
        "state": _name(TrainingState, training.state),
        "step": training.step,
        "steps": training.steps,
        "loss": round(training.loss, 4),
        "rate": round(training.tokens_per_s),
        "left": round(training.left_s),
        "waits": _cut(training.waits_for),
        "created": _ms(training.create_time),
        "error": _error(training.error),
    }


def flag_row(flag: Flag) -> dict[str, Any]:
    """What a person is to look at: which rule found it, where, and how it reads."""
    return {
        "state": _name(FlagState, flag.state),
        "rule": flag.rule,
        "tenant": flag.tenant,
        "model": flag.model,
        "input": flag.input,
        "excerpt": _cut(flag.excerpt),
        "created": _ms(flag.create_time),
    }


def pipeline_row(run: PipelineRun) -> dict[str, Any]:
    """A run of a pipeline."""
    return {
        "name": run.pipeline.name,
        "state": _name(PipelineState, run.state),
        "class": _name(Priority, run.priority),
        "steps": [
            {"name": each.name, "state": _name(StepState, each.state), "items": each.items, "done": each.done_items}
            for each in run.steps[:MOST_STEPS]
        ],
        "created": _ms(run.create_time),
        "error": _error(run.error),
    }


ENUMS: Final[tuple[Any, ...]] = (
    *(EvaluationKind, EvaluationState, HostState, LeaseState, InstanceState, ModelState, VersionState),
    *(FlagState, PipelineState, StepState, Priority, FinishReason, TaskState, TrainingState),
)
PREFIXES: Final = {enum.DESCRIPTOR.name: enum.Name(0).removesuffix("UNSPECIFIED") for enum in ENUMS}


def _name(enum: Any, value: int) -> str:
    """A value's name in small letters; its number where a newer kernel has one that is not known here."""
    try:
        return str(enum.Name(value)).removeprefix(PREFIXES[enum.DESCRIPTOR.name]).lower()
    except ValueError:
        return str(value)


def _ms(time: Timestamp) -> int:
    return time.seconds * 1000 + time.nanos // 1_000_000


def _error(status: Status) -> str:
    return _cut(status.message)


def _cut(text: str) -> str:
    return text if len(text) <= MOST_CHARS else f"{text[: MOST_CHARS - 1]}…"
