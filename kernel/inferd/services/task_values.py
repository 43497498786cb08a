"""Tasks between the wire and the core."""

import hashlib
from collections.abc import Iterator, Mapping
from typing import TypeVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message as WireMessage

from inferd.core import task_events as te
from inferd.core.ids import LeaseId, ModelName, TaskId, Tenant
from inferd.core.priority import Priority
from inferd.core.task import FinishReason, SuspendReason, Task, TaskSpec
from inferd.errors import InvalidFieldError
from inferd.runtime.clock import Clock
from inferd.runtime.event_log import Numbered, cost_bytes
from inferd.runtime.front.shown import shown_state
from inferd.runtime.shared_work import SharedWork
from inferd.runtime.stream import MOST_END_BYTES, TaskStream
from inferd.services.named import Named
from inferd.services.quota_values import write_use
from inferd.services.status import status_of
from inferd.services.tensor_parts import is_call, is_large, write_parts, write_set
from inferd.services.times import read_seconds, timestamp, write_duration
from inferd.services.work_values import NO_NAMED, read_work
from inferd_api.v1 import moderation_pb2 as mp
from inferd_api.v1 import priority_pb2 as pp
from inferd_api.v1 import task_pb2 as tp
from inferd_api.v1 import task_service_pb2 as ts

_Response = TypeVar("_Response", ts.RunTaskResponse, ts.WatchTaskResponse)

MOST_INTERVAL_S = 10.0  # between events with output
RESPONSE_BYTES = 1 << 20  # of events that share a response, about
END_BYTES = 1 << 14  # of a response that goes with the status of its call: nobody waits until its client reads it
MOST_LABEL_KEY = 63
MOST_LABEL_VALUE = 256
OWN_LABELS = "inferd."  # how labels begin that the kernel gives: lists leave tasks out that have some of them


def read_spec(
    spec: tp.TaskSpec,
    *,
    task_id: str,
    tenant: Tenant,
    deadline: float | None,
    request_id: str,
    lease_id: LeaseId,
    prompt_limit_bytes: int,
    detached: bool = False,
    named: Mapping[int, Named] = NO_NAMED,
) -> TaskSpec:
    """A task from the wire; `named` is what its inputs name in uploads.

    Raises:
        InvalidFieldError: A field has a value outside what it allows.
        LimitExceededError: The prompt is longer than `limits.prompt_bytes`.
    """
    if not (model := spec.model):
        raise InvalidFieldError("spec.model is empty; name the model", field="spec.model")
    check_task_labels(spec.labels)
    work, demand = read_work(spec, prompt_limit_bytes, named, lasting=bool(request_id))
    return TaskSpec(
        task_id=TaskId(task_id),
        tenant=tenant,
        model=ModelName(model),
        demand=demand,
        work=work,
        labels=dict(spec.labels),
        deadline=deadline,
        detached=detached,
        priority=read_priority(spec.priority),
        lease_id=lease_id,
        request_id=request_id,
        fingerprint=_fingerprint(spec, demand.contents, lease_id) if request_id else b"",
        operation=operation_of(spec),
    )


def operation_of(spec: tp.TaskSpec) -> str:
    """What OpenTelemetry calls the like of a task; of tensors it knows nothing."""
    if spec.HasField("embedding"):
        return "embeddings"
    return {"chat": "chat", "infer": "infer", "call": "call"}.get(spec.WhichOneof("input") or "", "text_completion")


def request_bytes(spec: tp.TaskSpec, read: TaskSpec) -> int:
    """About how many bytes a request with this spec takes as long as its call is open: as it came, and as it was read.

    Texts are held once more, ids with 4 bytes each in buffers that grew by doubling. Tensors were counted already.
    """
    if spec.HasField("infer"):
        elsewhere = read.work.uploaded_bytes if isinstance(read.work, SharedWork) else 0
        return 2 * (
            read.demand.memory_bytes - elsewhere + sum(len(key) + len(text) for key, text in spec.labels.items())
        )
    size_bytes = spec.ByteSize()
    return size_bytes + max(size_bytes, 8 * len(spec.tokens.token_ids))


def fingerprint(spec: WireMessage, lease_id: str = "") -> bytes:
    """Equal for the same contents under the same lease."""
    return hashlib.sha256(spec.SerializeToString(deterministic=True) + lease_id.encode()).digest()


def _fingerprint(spec: tp.TaskSpec, contents: bytes, lease_id: str) -> bytes:
    """As `fingerprint`; what `contents` says of the input already, which may be large, is not gone through again."""
    if spec.HasField("chat"):  # of which it says what was read
        return fingerprint(spec, lease_id)
    rest = tp.TaskSpec()
    for known, value in spec.ListFields():
        if known.name == "infer":
            rest.infer.outputs.MergeFrom(value.outputs)  # in their order
            if value.HasField("sequence"):
                rest.infer.sequence.CopyFrom(value.sequence)
        elif known.name == "tokens":
            rest.tokens.SetInParent()
        elif hasattr(value, "MergeFrom"):
            getattr(rest, known.name).MergeFrom(value)
        elif known.name != "prompt":
            setattr(rest, known.name, value)
    return hashlib.sha256(contents + rest.SerializeToString(deterministic=True) + lease_id.encode()).digest()


def read_priority(number: int) -> Priority:
    """A class from the wire; normal when it is not given.

    Raises:
        InvalidFieldError: There is no such class.
    """
    try:
        return Priority(number or Priority.NORMAL)
    except ValueError:
        known = ", ".join(f"{each.value} ({each.name})" for each in Priority)
        raise InvalidFieldError(f"priority is {number}; it must be {known} or 0", field="spec.priority") from None


def read_interval(span: Duration) -> float:
    """The least time between events with output, in seconds.

    Raises:
        InvalidFieldError: It is outside its bounds.
    """
    interval_s = read_seconds(span, "output_interval")
    if not 0 <= interval_s <= MOST_INTERVAL_S:
        message = f"output_interval is {interval_s} s; it must be from 0 to {MOST_INTERVAL_S:g} s"
        raise InvalidFieldError(message, field="output_interval")
    return interval_s


def check_task_labels(labels: Mapping[str, str], field: str = "spec.labels") -> None:
    """As `check_labels`, for what tasks are made of: of these some labels say who in the kernel has made them.

    Raises:
        InvalidFieldError: They are too long, or one is the kernel's.
    """
    check_labels(labels, field)
    if own := sorted(key for key in labels if key.startswith(OWN_LABELS)):
        raise InvalidFieldError(
            f"label {own[0]!r} begins with {OWN_LABELS!r}, as labels do that the kernel gives; give it another name",
            field=field,
        )


def check_labels(labels: Mapping[str, str], field: str = "spec.labels") -> None:
    """Refuse labels that are too long.

    Raises:
        InvalidFieldError: They are.
    """
    for key, value in labels.items():
        if not 1 <= len(key) <= MOST_LABEL_KEY or len(value) > MOST_LABEL_VALUE:
            raise InvalidFieldError(
                f"label {key[:80]!r} has {len(key)} and {len(value)} characters; its key may have 1 to "
                f"{MOST_LABEL_KEY}, its value at most {MOST_LABEL_VALUE}",
                field=field,
            )


def write_event(task_id: str, numbered: Numbered, into: tp.TaskEvent | None = None) -> tp.TaskEvent:
    """An event of a task for the wire, in place `into` where that is given: a part of a message is not copied there."""
    written = tp.TaskEvent() if into is None else into
    if task_id:
        written.task_id = task_id
    written.sequence = numbered.sequence
    event = numbered.event
    if isinstance(event, te.Output):
        _write_output(event, written.output)
    else:
        _write_other(event, written)
    return written


def ends_well(batch: list[Numbered]) -> bool:
    """Whether the last of these events is the end of a task that has not failed."""
    event = batch[-1].event
    return isinstance(event, te.Finished) and event.outcome.error is None


def write_responses(
    task_id: str, batch: list[Numbered], most_bytes: int, kind: type[_Response], *, several: bool, ends: bool = False
) -> Iterator[_Response]:
    """Messages of a kind for events, each in its own or `several` in one, a large one in as many as it needs.

    Where the task `ends` with them, the last one has at most `END_BYTES`, or the end alone.
    """
    for response in _responses(task_id, batch, most_bytes, kind, several=several):
        more = response.more_events
        if ends and more and more[-1].HasField("finished") and response.ByteSize() > END_BYTES:
            end = kind()
            end.event.CopyFrom(more[-1])
            del more[-1]
            yield response
            yield end
        else:
            yield response


def _responses(
    task_id: str, batch: list[Numbered], most_bytes: int, kind: type[_Response], *, several: bool
) -> Iterator[_Response]:

    def make() -> tuple[_Response, tp.TaskEvent]:
        response = kind()
        return response, response.event

    room_bytes = min(RESPONSE_BYTES, most_bytes // 2) if several else 0
    response, left_bytes = None, 0
    for numbered in batch:
        size_bytes = cost_bytes(numbered.event)
        if response is not None:
            if size_bytes <= left_bytes:
                left_bytes -= size_bytes
                write_event(task_id, numbered, response.more_events.add())
                continue
            yield response
        if is_large(numbered.event, most_bytes):
            for response in write_parts(task_id, numbered, most_bytes, make):
                if response.event.output.infer.more:
                    yield response
            left_bytes = most_bytes // 16 - MOST_END_BYTES if several else 0  # which `write_parts` leaves free
        else:
            response, left_bytes = kind(), room_bytes - size_bytes
            write_event(task_id, numbered, response.event)
    if response is not None:
        yield response


def _write_other(event: te.TaskEvent, written: tp.TaskEvent) -> None:  # noqa: C901 - a table: one row for each kind
    """Field by field, as `_write_output`: for each task, whatever it asks for."""
    match event:
        case te.TensorOutput() if is_call(event):
            written.output.call.MergeFromString(event.written)
        case te.TensorOutput():
            write_set(event, written.output.infer)
        case te.Finished():
            _write_finished(event, written.finished)
        case te.Started(instance_id, attempt, version):
            written.started.instance_id, written.started.attempt = instance_id, attempt
            written.started.version = version
        case te.Queued(position, eta_s, why):
            written.queued.position, written.queued.reason = position, why
            write_duration(eta_s, written.queued, "eta")
        case te.PromptOutput(text, token_ids, logprobs, entropies):
            prompt = tp.Output(text=text, token_ids=token_ids, prompt_logprobs=_write_logprobs(logprobs))
            for one, entropy in zip(prompt.prompt_logprobs, entropies, strict=False):
                one.entropy = entropy
            written.output.CopyFrom(prompt)
        case te.EmbeddingOutput(values):
            written.output.CopyFrom(tp.Output(embedding=tp.Embedding(values=values)))
        case te.Suspended(reason):
            by_client = reason is SuspendReason.CLIENT
            number = tp.SuspendReason.ValueType(reason.value)
            written.suspended.CopyFrom(tp.Suspended(by_client=by_client, reason=number))
        case te.Resumed(instance_id, attempt, version):
            written.resumed.CopyFrom(tp.Resumed(instance_id=instance_id, attempt=attempt, version=version))
        case te.Moderated(rule, action, spans, sample):
            written.moderated.rule, written.moderated.spans, written.moderated.sample = rule, spans, sample
            written.moderated.action = mp.ModerationAction.Value(f"MODERATION_ACTION_{action.upper()}")
        case te.Progress(phase, fraction):
            written.progress.CopyFrom(tp.Progress(phase=tp.Phase.ValueType(phase.value), fraction=fraction))


def _write_logprobs(logprobs: te.Logprobs | None) -> list[tp.TokenLogprobs]:
    if logprobs is None:
        return []
    width = len(logprobs.top_ids) // max(1, len(logprobs.token_ids))
    written = []
    for place, (token_id, logprob) in enumerate(zip(logprobs.token_ids, logprobs.logprobs, strict=True)):
        best = slice(place * width, (place + 1) * width)
        top = zip(logprobs.top_ids[best], logprobs.top_logprobs[best], strict=True)
        likeliest = [tp.TokenLogprob(token_id=i, logprob=x) for i, x in top]
        written.append(tp.TokenLogprobs(token_id=token_id, logprob=logprob, top=likeliest))
    return written


def _write_output(output: te.Output, written: tp.Output) -> None:
    """Field by field, for each task of each step: a constructor with names costs three times as much."""
    written.text = output.text
    written.token_ids.extend(output.token_ids)
    if output.sample:
        written.sample = output.sample
    if output.logprobs is not None:
        written.logprobs.extend(_write_logprobs(output.logprobs))
    if output.reason is not FinishReason.UNSPECIFIED:
        written.finish_reason = tp.FinishReason.ValueType(output.reason.value)


def write_finished(finished: te.Finished) -> tp.Finished:
    """The end of a task for the wire."""
    written = tp.Finished()
    _write_finished(finished, written)
    return written


def _write_finished(finished: te.Finished, written: tp.Finished) -> None:
    outcome, receipt = finished.outcome, finished.receipt
    written.state = tp.TaskState.ValueType(outcome.state.value)
    written.reason = tp.FinishReason.ValueType(outcome.reason.value)
    if outcome.error is not None:
        written.error.CopyFrom(status_of(outcome.error))
    usage, used = outcome.usage, written.usage
    used.SetInParent()
    used.prompt_tokens, used.output_tokens = usage.prompt_tokens, usage.output_tokens
    if usage.cached_tokens:
        used.cached_tokens = usage.cached_tokens
    if usage.drafted_tokens:
        used.drafted_tokens, used.accepted_tokens = usage.drafted_tokens, usage.accepted_tokens
    told = written.receipt
    told.backend, told.device, told.worker_memory_bytes = receipt.backend, receipt.device, receipt.worker_memory_bytes
    told.version = receipt.version
    write_duration(receipt.queue_s, told, "queue_duration")
    write_duration(receipt.first_token_s, told, "first_token_duration")
    write_duration(receipt.run_s, told, "run_duration")
    write_duration(receipt.device_s, told, "device_duration")
    told.quotas.extend(map(write_use, receipt.quotas))
    if (asked := receipt.asked).tasks:
        told.asked.tasks = asked.tasks
        told.asked.prompt_tokens, told.asked.output_tokens = asked.prompt_tokens, asked.output_tokens


def write_task(task: Task, stream: TaskStream, clock: Clock) -> tp.Task:
    """A task for the wire."""
    return tp.Task(
        task_id=task.spec.task_id,
        tenant=task.spec.tenant,
        model=task.spec.model,
        state=tp.TaskState.ValueType(shown_state(task, stream).value),
        attempt=task.attempt,
        instance_id=task.instance_id or "",
        last_sequence=stream.last_sequence,
        create_time=timestamp(clock, task.created),
        start_time=timestamp(clock, task.started),
        finish_time=timestamp(clock, task.finished if stream.finished is not None else None),
        finished=write_finished(stream.finished) if stream.finished is not None else None,
        labels=task.spec.labels,
        priority=pp.Priority.ValueType(task.spec.priority.value),
        lease_id=task.spec.lease_id,
        expire_time=timestamp(clock, task.expires),
        output_deleted=stream.deleted,
    )
