"""Tasks between the wire and the core."""

import hashlib
import math

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from inferd.core import task_events as te
from inferd.core.ids import ModelName, TaskId, Tenant
from inferd.core.task import ChatInput, Message, Sampling, Task, TaskInput, TaskSpec, TextInput, TokenInput
from inferd.errors import InvalidFieldError, LimitExceededError
from inferd.runtime.clock import Clock
from inferd.runtime.streams import Numbered, TaskStream
from inferd.services.status import status_of
from inferd_api.v1 import resources_pb2 as pb

MOST_LABELS = 16
MOST_LABEL_KEY = 63
MOST_LABEL_VALUE = 256
MOST_STOPS = 16
MOST_STOP = 256
MOST_TEMPERATURE = 100.0


def read_spec(
    spec: pb.TaskSpec,
    *,
    task_id: str,
    tenant: Tenant,
    deadline: float | None,
    request_id: str,
    prompt_limit_bytes: int,
) -> TaskSpec:
    """A task from the wire.

    Raises:
        InvalidFieldError: A field has a value outside what it allows.
        LimitExceededError: The prompt is longer than `limits.prompt_bytes`.
    """
    if not spec.model:
        raise InvalidFieldError("spec.model is empty; name the model", field="spec.model")
    _check_labels(spec)
    return TaskSpec(
        task_id=TaskId(task_id),
        tenant=tenant,
        model=ModelName(spec.model),
        input=_read_input(spec, prompt_limit_bytes),
        # A seed that is not given is drawn from the task's id, which is random: no second source of randomness.
        sampling=_read_sampling(spec.sampling, drawn_seed=int(task_id[-16:], 16)),
        labels=dict(spec.labels),
        deadline=deadline,
        request_id=request_id,
        fingerprint=hashlib.sha256(spec.SerializeToString(deterministic=True)).digest() if request_id else b"",
    )


def _read_input(spec: pb.TaskSpec, limit_bytes: int) -> TaskInput:
    match spec.WhichOneof("input"):
        case "prompt":
            _check_size(len(spec.prompt.encode()), limit_bytes)
            return TextInput(spec.prompt)
        case "chat":
            messages = spec.chat.messages
            _check_size(sum(len(m.content.encode()) for m in messages), limit_bytes)
            if not messages:
                raise InvalidFieldError("spec.chat.messages is empty; give one at least", field="spec.chat.messages")
            for n, message in enumerate(messages):
                if not message.role:
                    field = f"spec.chat.messages[{n}].role"
                    raise InvalidFieldError(f'{field} is empty; for example "user"', field=field)
            return ChatInput(tuple(Message(m.role, m.content) for m in messages))
        case "tokens":
            if not spec.tokens.token_ids:
                raise InvalidFieldError("spec.tokens.token_ids is empty; give one at least", field="spec.tokens")
            _check_size(4 * len(spec.tokens.token_ids), limit_bytes)
            return TokenInput(tuple(spec.tokens.token_ids))
        case _:
            raise InvalidFieldError("spec has no input; set one of prompt, chat and tokens", field="spec.input")


def _check_size(size_bytes: int, limit_bytes: int) -> None:
    if size_bytes > limit_bytes:
        facts = {"bound": "limits.prompt_bytes", "value": str(size_bytes), "limit": str(limit_bytes)}
        raise LimitExceededError(
            f"the prompt has {size_bytes} bytes and limits.prompt_bytes is {limit_bytes}", metadata=facts
        )


def _check_labels(spec: pb.TaskSpec) -> None:
    if len(spec.labels) > MOST_LABELS:
        raise InvalidFieldError(f"{len(spec.labels)} labels; at most {MOST_LABELS}", field="spec.labels")
    for key, value in spec.labels.items():
        if not 1 <= len(key) <= MOST_LABEL_KEY or len(value) > MOST_LABEL_VALUE:
            raise InvalidFieldError(
                f"label {key[:80]!r} has {len(key)} and {len(value)} characters; its key may have 1 to "
                f"{MOST_LABEL_KEY}, its value at most {MOST_LABEL_VALUE}",
                field="spec.labels",
            )


def _read_sampling(s: pb.SamplingParams, *, drawn_seed: int) -> Sampling:
    if s.HasField("max_tokens") and s.max_tokens < 1:
        raise InvalidFieldError("max_tokens is 0; it must be at least 1", field="spec.sampling.max_tokens")
    temperature = s.temperature if s.HasField("temperature") else 1.0
    if not (math.isfinite(temperature) and 0 <= temperature <= MOST_TEMPERATURE):
        message = f"temperature is {temperature}; it must be from 0 to {MOST_TEMPERATURE:g}"
        raise InvalidFieldError(message, field="spec.sampling.temperature")
    top_p = s.top_p if s.HasField("top_p") else 1.0
    if not 0 < top_p <= 1:
        raise InvalidFieldError(f"top_p is {top_p}; it must be above 0 and at most 1", field="spec.sampling.top_p")
    if len(s.stop) > MOST_STOPS:
        raise InvalidFieldError(f"{len(s.stop)} stop strings; at most {MOST_STOPS}", field="spec.sampling.stop")
    for n, stop in enumerate(s.stop):
        if not 1 <= len(stop) <= MOST_STOP:
            message = f"stop string {n} has {len(stop)} characters; it must have 1 to {MOST_STOP}"
            raise InvalidFieldError(message, field=f"spec.sampling.stop[{n}]")
    return Sampling(
        max_tokens=s.max_tokens if s.HasField("max_tokens") else None,
        temperature=temperature,
        top_k=s.top_k,
        top_p=top_p,
        seed=s.seed if s.HasField("seed") else drawn_seed,
        stop=tuple(s.stop),
        ignore_eos=s.ignore_eos,
    )


def write_event(task_id: str, numbered: Numbered) -> pb.TaskEvent:
    """An event of a task for the wire."""
    sequence = numbered.sequence
    match numbered.event:
        case te.Output(text, token_ids):
            return pb.TaskEvent(task_id=task_id, sequence=sequence, output=pb.Output(text=text, token_ids=token_ids))
        case te.Queued(position):
            return pb.TaskEvent(task_id=task_id, sequence=sequence, queued=pb.Queued(position=position))
        case te.Started(instance_id, attempt):
            started = pb.Started(instance_id=instance_id, attempt=attempt)
            return pb.TaskEvent(task_id=task_id, sequence=sequence, started=started)
        case te.Progress(phase, fraction):
            progress = pb.Progress(phase=pb.Phase.ValueType(phase.value), fraction=fraction)
            return pb.TaskEvent(task_id=task_id, sequence=sequence, progress=progress)
        case te.Finished() as finished:
            return pb.TaskEvent(task_id=task_id, sequence=sequence, finished=write_finished(finished))


def write_finished(finished: te.Finished) -> pb.Finished:
    """The end of a task for the wire."""
    outcome, receipt = finished.outcome, finished.receipt
    usage = outcome.usage
    return pb.Finished(
        state=pb.TaskState.ValueType(outcome.state.value),
        reason=pb.FinishReason.ValueType(outcome.reason.value),
        error=status_of(outcome.error) if outcome.error is not None else None,
        usage=pb.Usage(
            prompt_tokens=usage.prompt_tokens, cached_tokens=usage.cached_tokens, output_tokens=usage.output_tokens
        ),
        receipt=pb.Receipt(
            queue_duration=duration(receipt.queue_s),
            first_token_duration=duration(receipt.first_token_s),
            run_duration=duration(receipt.run_s),
            backend=receipt.backend,
            device=receipt.device,
            worker_memory_bytes=receipt.worker_memory_bytes,
        ),
    )


def write_task(task: Task, stream: TaskStream, clock: Clock) -> pb.Task:
    """A task for the wire."""
    return pb.Task(
        task_id=task.spec.task_id,
        tenant=task.spec.tenant,
        model=task.spec.model,
        state=pb.TaskState.ValueType(task.state.value),
        attempt=task.attempt,
        instance_id=task.instance_id or "",
        last_sequence=stream.last_sequence,
        create_time=timestamp(clock, task.created),
        start_time=timestamp(clock, task.started),
        finish_time=timestamp(clock, task.finished),
        finished=write_finished(stream.finished) if stream.finished is not None else None,
        labels=task.spec.labels,
    )


def duration(seconds: float | None) -> Duration | None:
    """Seconds for the wire."""
    if seconds is None:
        return None
    value = Duration()
    value.FromNanoseconds(int(seconds * 1e9))
    return value


def timestamp(clock: Clock, instant: float | None) -> Timestamp | None:
    """An instant of the kernel's clock for the wire."""
    if instant is None:
        return None
    value = Timestamp()
    value.FromNanoseconds(int(clock.wall(instant) * 1e9))
    return value
