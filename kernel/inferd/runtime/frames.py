"""Values of the core and frames of the worker link: the kernel's side of the translation."""

from collections.abc import Mapping

from inferd.core.model import InstanceFacts, ModelSpec, SettingValue
from inferd.core.task import ChatInput, FinishReason, Outcome, TaskSpec, TaskState, TextInput, Usage
from inferd.errors import InferdError, from_reason
from inferd_api.worker.v1 import worker_pb2 as wire


def load_frame(instance_id: str, spec: ModelSpec, limits: wire.EngineLimits) -> wire.KernelFrame:
    """The order to load a model."""
    load = wire.Load(
        instance_id=instance_id,
        loader=spec.loader,
        path=spec.path,
        device=spec.device,
        settings={name: _setting(value) for name, value in spec.values.items()},
        limits=limits,
    )
    return wire.KernelFrame(load=load)


def _setting(value: SettingValue | None) -> wire.SettingValue:
    match value:
        case None:
            return wire.SettingValue()
        case bool():  # before int, which it is too
            return wire.SettingValue(bool_value=value)
        case int():
            return wire.SettingValue(int_value=value)
        case float():
            return wire.SettingValue(float_value=value)
        case str():
            return wire.SettingValue(str_value=value)


def submit_frame(handle: int, spec: TaskSpec) -> wire.KernelFrame:
    """The order to run a task."""
    s = spec.sampling
    submit = wire.Submit(
        handle=handle,
        task_id=spec.task_id,
        tenant=spec.tenant,
        sampling=wire.Sampling(
            max_tokens=s.max_tokens,
            temperature=s.temperature,
            top_k=s.top_k,
            top_p=s.top_p,
            seed=s.seed,
            stop=s.stop,
            ignore_eos=s.ignore_eos,
        ),
    )
    match spec.input:
        case TextInput(prompt):
            submit.prompt = prompt
        case ChatInput(messages):
            submit.chat.messages.extend(wire.Message(role=m.role, content=m.content) for m in messages)
        case other:
            submit.tokens.ids.extend(other.token_ids)
    return wire.KernelFrame(submit=submit)


def read_facts(loaded: wire.Loaded) -> InstanceFacts:
    """What a worker reports of its model."""
    return InstanceFacts(
        max_tasks=loaded.max_tasks,
        context_tokens=loaded.context_tokens,
        description=loaded.description,
        memory_bytes=loaded.memory_bytes,
    )


def read_failure(failure: wire.Failure, more: Mapping[str, str]) -> InferdError:
    """The error that a worker reports, with what the kernel knows besides."""
    return from_reason(failure.reason, failure.message, {**failure.metadata, **more})


def read_outcome(ended: wire.Ended, more: Mapping[str, str]) -> Outcome:
    """How a task ended."""
    usage = Usage(
        prompt_tokens=ended.prompt_tokens, cached_tokens=ended.cached_tokens, output_tokens=ended.output_tokens
    )
    if ended.HasField("failure"):
        return Outcome(state=TaskState.FAILED, error=read_failure(ended.failure, more), usage=usage)
    return Outcome(state=TaskState.SUCCEEDED, reason=FinishReason(ended.finish_reason), usage=usage)
