"""Values of the core and frames of the worker link: the kernel's side of the translation."""

from array import array
from collections.abc import Mapping, Sequence

from inferd.content import split_pins
from inferd.core.commands import SendTask
from inferd.core.host import name_of
from inferd.core.ids import DeviceId, LeaseId
from inferd.core.model import InstanceFacts, ModelSpec, SettingValue
from inferd.core.resources import HOST_DEVICE, MemoryNeed
from inferd.core.task import FinishReason, Outcome, TaskState, Usage
from inferd.core.task_events import Logprobs, PromptOutput, TensorOutput
from inferd.core.vigil import Doing, Pulse
from inferd.errors import InferdError
from inferd.plugin.backend import INT64
from inferd.plugin.drafting import DRAFT, DRAFTED
from inferd.reasons import from_reason
from inferd.runtime.link import Arrived
from inferd.runtime.sandboxing import sandbox_order
from inferd.runtime.shared_work import SharedWork
from inferd.sampling import defaults_of
from inferd.sandbox.state import SandboxLevel, State
from inferd.shared import LEAST_BYTES, Memory, MemoryRefusedError, Part, aligned
from inferd_api.worker.v1 import failure_pb2, load_pb2, step_pb2, task_pb2
from inferd_api.worker.v1 import worker_pb2 as wire


def load_frame(
    instance_id: str,
    spec: ModelSpec,
    limits: load_pb2.EngineLimits,
    *,
    device_id: DeviceId,
    capacity_bytes: int,
    cores: int = 0,
    checks: bool = True,
    beside: Sequence[DeviceId] = (),
) -> wire.KernelFrame:
    """The order to tell what a model needs of a device, of which `capacity_bytes` may be given, and then to load it.

    It computes on so many `cores`; 0 for all that its process may use. Whether its files have their digest is seen to
    only where it `checks`: that reads them whole. It computes on those `beside`, too.

    Raises:
        ValueError: A setting is a number that no frame has room for, as a kernel before this one may have kept it.
    """
    values, pins = split_pins(spec.values)
    load = load_pb2.Load(
        instance_id=instance_id,
        loader=spec.loader,
        path=spec.path,
        device=name_of(device_id),
        settings={name: _setting(name, value) for name, value in values.items()},
        limits=limits,
        capacity_bytes=capacity_bytes,
        cores=cores,
        content_digest=spec.digest if checks else "",
        setting_digests={name: str(value) for name, value in pins.items()} if checks else {},
        links=spec.links,
        sampling_defaults=spec.sampling.numbers,
        fallback_sampling_defaults=spec.catalogue_sampling.numbers,
        file_version=spec.file_version,
    )
    load.ranks.extend(_ranks(spec, (device_id, *beside)))
    load.sandbox.CopyFrom(sandbox_order(spec, host=name_of(device_id) == HOST_DEVICE, looks=not checks))
    if spec.draft_tokens is not None:
        load.limits.draft_tokens = spec.draft_tokens
    elif spec.values.get(DRAFT):
        load.limits.draft_tokens = load.limits.draft_tokens or DRAFTED
    return wire.KernelFrame(load=load)


def _ranks(spec: ModelSpec, device_ids: Sequence[DeviceId]) -> list[str]:
    """The devices of the processes that compute it together; none where one does."""
    if len(device_ids) > 1:
        return [name_of(device_id) for device_id in device_ids]
    count = spec.values.get("ranks")
    return [name_of(device_ids[0])] * count if isinstance(count, int) and count > 1 else []


def proceed_frame() -> wire.KernelFrame:
    """What the model needs is reserved: the order to load it."""
    return wire.KernelFrame(proceed=load_pb2.Proceed())


def _setting(name: str, value: SettingValue | None) -> load_pb2.SettingValue:
    match value:
        case None:
            return load_pb2.SettingValue()
        case bool():  # before int, which it is too
            return load_pb2.SettingValue(bool_value=value)
        case int() if -INT64 <= value < INT64:
            return load_pb2.SettingValue(int_value=value)
        case int():
            bound = INT64 - 1 if value > 0 else -INT64
            raise ValueError(f"setting {name!r} is {value}; it must be at {'most' if value > 0 else 'least'} {bound}")
        case float():
            return load_pb2.SettingValue(float_value=value)
        case str():
            return load_pb2.SettingValue(str_value=value)


def submit_frame(
    handle: int, order: SendTask, *, continuation: task_pb2.Continuation | None = None
) -> wire.KernelFrame:
    """The order to run a task, behind what it has told already; its memories go with it."""
    spec, given, frame = order.spec, order.spec.work, wire.KernelFrame()
    submit = frame.submit  # field by field, for each task: a constructor with names costs three times as much
    submit.handle, submit.task_id, submit.tenant, submit.priority = handle, spec.task_id, spec.tenant, spec.priority
    submit.work.CopyFrom(given.work if isinstance(given, SharedWork) else given)  # type: ignore[arg-type] # only the worker knows it
    submit.expected_tokens, submit.weight = order.expected_tokens, order.weight
    submit.lease_id, submit.fencing_token = spec.lease_id, order.fencing_token
    submit.alone, submit.moved = order.alone, order.moved
    if continuation is not None:
        submit.continuation.CopyFrom(continuation)
    return frame


def memories_of(order: SendTask) -> tuple[Memory, ...]:
    """What goes with the order to run a task."""
    return order.spec.work.memories if isinstance(order.spec.work, SharedWork) else ()


def read_tensors(given: step_pb2.TensorOutput, memories: Arrived, most_bytes: int) -> TensorOutput:
    """A set of tensors, as far as what a worker says of it is true.

    Raises:
        MemoryRefusedError: A memory is none that may be read, or has not what it is said to have, or much more.
    """
    elements, total = [], 0
    held: dict[int, tuple[Memory, int]] = {}  # by their places: what is said to be in each
    for each in given.shared:
        total += each.size_bytes
        if each.memory >= len(memories) or total > most_bytes:
            raise MemoryRefusedError(
                f"a tensor is said to be in memory {each.memory} of {len(memories)}, and its set to have {total} bytes "
                f"there; limits.output_bytes is {most_bytes}"
            )
        memory = memories[each.memory]
        if not isinstance(memory, Memory):
            raise memory
        memory.check(each.start, each.size_bytes)
        elements.append((each.tensor, Part(memory, each.start, each.size_bytes)))
        held[each.memory] = memory, held.get(each.memory, (memory, 0))[1] + aligned(each.size_bytes)
    for place, (memory, need) in held.items():  # all of a memory stays as long as a part of it
        if need < LEAST_BYTES or memory.size_bytes > need:
            raise MemoryRefusedError(
                f"a set of tensors has {need} bytes in memory {place}, which has {memory.size_bytes}; a memory has "
                f"what its set needs and no more, and {LEAST_BYTES} bytes or more, else they go into the frame"
            )
    return TensorOutput(given.outputs, tuple(elements))


def hold_frame(lease_id: LeaseId, *, fencing_token: int, sequences: int, kv_tokens: int) -> wire.KernelFrame:
    """The order to keep places and tokens of the KV pool for the tasks of a lease; zeros give them back."""
    hold = task_pb2.Hold(lease_id=lease_id, fencing_token=fencing_token, sequences=sequences, kv_tokens=kv_tokens)
    return wire.KernelFrame(hold=hold)


def query_frame(query_id: int, given: object) -> wire.KernelFrame:
    """The question for the tokens of a text or a conversation, or for the text of tokens."""
    return wire.KernelFrame(query=task_pb2.Query(query_id=query_id, input=given))  # type: ignore[arg-type] # as above


def read_logprobs(logprobs: step_pb2.Logprobs) -> Logprobs:
    """How likely tokens were, in arrays of 32-bit numbers: there may be very many."""
    return Logprobs(
        array("I", logprobs.token_ids),
        array("f", logprobs.logprobs),
        array("I", logprobs.top_ids),
        array("f", logprobs.top_logprobs),
    )


def read_prompt(prompt: step_pb2.PromptOutput) -> PromptOutput:
    """What a task asked to be told of its prompt."""
    logprobs = read_logprobs(prompt.logprobs) if prompt.HasField("logprobs") else None
    return PromptOutput(prompt.text, array("I", prompt.token_ids), logprobs, array("f", prompt.entropies))


def read_needs(needs: load_pb2.Needs) -> MemoryNeed:
    """What a model needs of its device, by its backend's reckoning."""
    return MemoryNeed(
        weights_bytes=needs.weights_bytes,
        kv_bytes=needs.kv_bytes,
        workspace_bytes=needs.workspace_bytes,
        kv_saved_bytes=needs.kv_saved_bytes,
        paged_bytes=needs.paged_bytes,
        offloaded_bytes=needs.offloaded_bytes,
    )


def read_pulse(pong: wire.Pong) -> Pulse:
    """What a worker says that it is doing."""
    return Pulse(
        doing=Doing(pong.doing),
        turn=pong.turn,
        seconds=pong.turn_seconds,
        usual_s=pong.usual_seconds if pong.HasField("usual_seconds") else None,
        steps=pong.steps,
    )


def read_facts(loaded: load_pb2.Loaded) -> InstanceFacts:
    """What a worker reports of its model."""
    return InstanceFacts(
        max_tasks=loaded.max_tasks,
        context_tokens=loaded.context_tokens,
        description=loaded.description,
        memory_bytes=loaded.memory_bytes,
        peak_bytes=max(loaded.peak_bytes, loaded.memory_bytes),
        kv_tokens=loaded.kv_tokens,
        block_tokens=loaded.block_tokens,
        sampling=defaults_of(loaded.sampling_defaults),
        sandbox=read_sandbox(loaded),
        parameters=loaded.parameters,
    )


def read_sandbox(loaded: load_pb2.Loaded) -> State | None:
    """What has become of a worker's sandbox; None where it does not say."""
    if loaded.sandbox.level not in {level.value for level in SandboxLevel}:
        return None
    return State(SandboxLevel(loaded.sandbox.level), tuple(loaded.sandbox.reasons))


def read_failure(failure: failure_pb2.Failure, more: Mapping[str, str]) -> InferdError:
    """The error that a worker reports, with what the kernel knows besides."""
    return from_reason(failure.reason, failure.message, {**failure.metadata, **more})


def read_outcome(ended: step_pb2.Ended, more: Mapping[str, str]) -> Outcome:
    """How a task ended."""
    usage = Usage(
        prompt_tokens=ended.prompt_tokens,
        cached_tokens=ended.cached_tokens,
        output_tokens=ended.output_tokens,
        drafted_tokens=ended.drafted_tokens,
        accepted_tokens=ended.accepted_tokens,
    )
    if ended.HasField("failure"):
        return Outcome(state=TaskState.FAILED, error=read_failure(ended.failure, more), usage=usage)
    return Outcome(state=TaskState.SUCCEEDED, reason=FinishReason(ended.finish_reason), usage=usage)
