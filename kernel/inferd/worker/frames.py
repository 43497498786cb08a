"""Values of the engine and frames of the link: the worker's side of the translation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from inferd.core.task import ChatInput, Message, Sampling, TaskInput, TextInput, TokenInput
from inferd.engine.limits import EngineLimits
from inferd.plugin import LoadRequest
from inferd_api.worker.v1 import worker_pb2 as wire

if TYPE_CHECKING:
    from inferd.engine.output import Ended, StepOutput
    from inferd.errors import InferdError
    from inferd.plugin.backend import SettingValue

_LONGEST_TEXT: Final = 4000  # of an error: what a plugin says may be of any length


def read_load(load: wire.Load) -> tuple[LoadRequest, EngineLimits]:
    """What to load, and the bounds of the engine."""
    request = LoadRequest(
        path=Path(load.path),
        device=load.device,
        settings={name: _read_setting(value) for name, value in load.settings.items()},
    )
    limits = EngineLimits(
        step_tokens=load.limits.step_tokens,
        template_timeout_s=load.limits.template_timeout_s,
        max_output_tokens=load.limits.max_output_tokens,
    )
    return request, limits


def _read_setting(value: wire.SettingValue) -> SettingValue | None:
    kind = value.WhichOneof("kind")
    setting: SettingValue | None = None if kind is None else getattr(value, kind)
    return setting


def read_input(submit: wire.Submit) -> TaskInput:
    """What a task is given."""
    match submit.WhichOneof("input"):
        case "chat":
            return ChatInput(tuple(Message(message.role, message.content) for message in submit.chat.messages))
        case "tokens":
            return TokenInput(tuple(submit.tokens.ids))
        case _:
            return TextInput(submit.prompt)


def read_sampling(sampling: wire.Sampling) -> Sampling:
    """How a task's tokens are chosen."""
    return Sampling(
        max_tokens=sampling.max_tokens if sampling.HasField("max_tokens") else None,
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        seed=sampling.seed,
        stop=tuple(sampling.stop),
        ignore_eos=sampling.ignore_eos,
    )


def failure(error: InferdError) -> wire.Failure:
    """An error on its way to a client; the path of the wrong field is in the metadata under "field"."""
    metadata = error.metadata | ({"field": error.field} if error.field else {})
    return wire.Failure(
        reason=error.reason,
        message=error.message[:_LONGEST_TEXT],
        metadata={name: value[:_LONGEST_TEXT] for name, value in metadata.items()},
    )


def step_frame(output: StepOutput) -> wire.WorkerFrame:
    """What one step produced."""
    frame = wire.WorkerFrame()
    step = frame.step
    step.handles.extend(output.handles)
    step.counts.extend(output.counts)
    step.token_ids.extend(output.token_ids)
    step.texts.extend(output.texts)
    for ended in output.ended:
        step.ended.append(_ended(ended))
    for prefill in output.prefills:
        step.prefills.add(handle=prefill.handle, fraction=prefill.fraction)
    return frame


def _ended(ended: Ended) -> wire.Ended:
    return wire.Ended(
        handle=ended.handle,
        finish_reason=ended.reason.value,
        failure=None if ended.error is None else failure(ended.error),
        prompt_tokens=ended.usage.prompt_tokens,
        cached_tokens=ended.usage.cached_tokens,
        output_tokens=ended.usage.output_tokens,
    )
