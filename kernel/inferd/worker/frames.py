"""Values of the engine and frames of the link: the worker's side of the translation."""

from __future__ import annotations

import logging
from array import array
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from inferd.core.ids import Tenant
from inferd.core.resources import HOST_DEVICE, MemoryNeed
from inferd.core.task import FinishReason
from inferd.engine.cause import last_line
from inferd.engine.moderation.output import ScreenedOutput
from inferd.engine.pictures.limits import PictureLimits
from inferd.engine.token.limits import CELL_MEMORY_BYTES, TEXT_TIMEOUT_S, EngineLimits, GrammarLimits
from inferd.engine.token.submission import Continuation, SampleSoFar, Share, Submission
from inferd.engine.work import Attributed, ChatInput, Embedding, Message, TaskInput, TextInput, TokenInput
from inferd.errors import InferdError, InternalError, LimitExceededError, UnsupportedInputError, is_failure
from inferd.plugin import Attribution, LoadRequest, Pooling
from inferd.sampling import (
    ENGINE_DEFAULTS,
    ONE_TOKEN,
    PARAMETERS,
    Form,
    Grammar,
    GrammarKind,
    Sampling,
    defaults_of,
    fill,
)
from inferd_api.worker.v1 import failure_pb2, load_pb2, sandbox_pb2, step_pb2, task_pb2
from inferd_api.worker.v1 import worker_pb2 as wire

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from inferd.core.sampling_defaults import SamplingDefaults
    from inferd.core.task_events import Logprobs
    from inferd.core.vigil import Pulse
    from inferd.engine.text.writing import Writing
    from inferd.engine.token.intake import Intake
    from inferd.engine.token.output import Ended, StepOutput
    from inferd.plugin.backend import SettingValue
    from inferd.sandbox.state import State
    from inferd_api.v1.sampling_pb2 import Grammar as WireGrammar
    from inferd_api.v1.sampling_pb2 import SamplingParams

_LONGEST_TEXT: Final = 4000  # of an error
_MOST_BYTES: Final = 1 << 60  # of a need: more than any device has, and less than a frame can tell
PROCESS_BYTES: Final = 128 << 20
"""Resident memory of a worker without a model: interpreter, engine, a vocabulary; 77 MiB with one of 49152 tokens."""

ANSWER_BYTES: Final = 3 << 20  # clients refuse messages of 4 MiB
_log = logging.getLogger(__name__)


def read_load(load: load_pb2.Load) -> tuple[LoadRequest, EngineLimits]:
    """What to load, and the bounds of the engine."""
    request = LoadRequest(
        path=Path(load.path),
        device=load.device,
        settings={name: _read_setting(value) for name, value in load.settings.items()},
        capacity_bytes=load.capacity_bytes,
        cores=load.cores,
        ranks=tuple(load.ranks),
    )
    limits = EngineLimits(
        step_tokens=load.limits.step_tokens,
        template_timeout_s=load.limits.template_timeout_s,
        text_timeout_s=load.limits.text_timeout_s or TEXT_TIMEOUT_S,
        max_output_tokens=load.limits.max_output_tokens,
        gap_s=load.limits.gap_s,
        draft_tokens=load.limits.draft_tokens,
        cell_memory_bytes=load.limits.cell_memory_bytes or CELL_MEMORY_BYTES,
        grammar=_read_grammar_limits(load.limits),
        picture=_read_picture_limits(load.limits),
    )
    return request, limits


def _read_grammar_limits(limits: load_pb2.EngineLimits) -> GrammarLimits:
    if not limits.HasField("grammar"):
        return GrammarLimits()
    told = limits.grammar
    return GrammarLimits(compile_s=told.compile_s, step_s=told.step_s, wait_s=told.wait_s, most=told.most)


def _read_picture_limits(limits: load_pb2.EngineLimits) -> PictureLimits:
    own = PictureLimits()
    if not limits.HasField("picture"):
        return own
    told = limits.picture
    return PictureLimits(
        pixels=told.pixels,
        kept_bytes=told.kept_bytes,
        count=told.count or own.count,
        audio_s=told.audio_s or own.audio_s,
    )


def _read_setting(value: load_pb2.SettingValue) -> SettingValue | None:
    kind = value.WhichOneof("kind")
    setting: SettingValue | None = None if kind is None else getattr(value, kind)
    return setting


def needs_frame(need: MemoryNeed, device: str, *, processes: int = 1) -> wire.WorkerFrame:
    """What a model needs; on the host with what its processes take without one."""
    process_bytes = processes * PROCESS_BYTES if device == HOST_DEVICE else 0
    needs = load_pb2.Needs(
        weights_bytes=min(need.weights_bytes, _MOST_BYTES),
        kv_bytes=min(need.kv_bytes, _MOST_BYTES),
        workspace_bytes=min(need.workspace_bytes + process_bytes, _MOST_BYTES),
        kv_saved_bytes=min(need.kv_saved_bytes, _MOST_BYTES),
        paged_bytes=min(need.paged_bytes, _MOST_BYTES),
        offloaded_bytes=min(need.offloaded_bytes and need.offloaded_bytes + process_bytes, _MOST_BYTES),
    )
    return wire.WorkerFrame(needs=needs)


def sealed_frame(state: State) -> wire.WorkerFrame:
    """What has become of the sandbox."""
    told = sandbox_pb2.SandboxState(level=state.level.value, reasons=state.reasons)
    return wire.WorkerFrame(sealed=told)


def pong_frame(nonce: int, memory_bytes: int, pulse: Pulse) -> wire.WorkerFrame:
    """The answer to a ping."""
    pong = wire.Pong(
        nonce=nonce,
        memory_bytes=memory_bytes,
        steps=pulse.steps,
        doing=pulse.doing.value,
        turn=pulse.turn,
        turn_seconds=pulse.seconds,
        usual_seconds=pulse.usual_s,
    )
    return wire.WorkerFrame(pong=pong)


def read_submission(submit: task_pb2.Submit, defaults: SamplingDefaults) -> Submission:
    """A task for the engine; what it leaves open of sampling is the model's `defaults`.

    Raises:
        UnsupportedInputError: It is one for a model of tensors, or names an adapter and not what it holds.
    """
    work, tenant, adapter = submit.work, Tenant(submit.tenant), submit.work.adapter.digest
    kind = work.WhichOneof("kind")
    if kind == "infer":
        message = "the model reads text and takes no tensors; give it a prompt, a chat or tokens instead of spec.infer"
        raise UnsupportedInputError(message, field="spec.infer")
    if kind == "call":
        raise UnsupportedInputError("the model reads text and is no function", field="spec.call")
    if kind is None:
        raise ValueError(f"the kernel sent task {submit.task_id} with work of no kind that is known here")
    if work.adapter.name and not adapter:
        raise UnsupportedInputError(
            f"adapter {work.adapter.name!r} came without the digest of what it holds; it is not computed without it",
            field="spec.adapter",
        )
    return Submission(
        handle=submit.handle,
        task_input=read_input(work.input),
        sampling=_read_sampling(work.generate.sampling, defaults, submit.task_id) if kind == "generate" else ONE_TOKEN,
        embedding=_read_embedding(work.embed) if kind == "embed" else None,
        attributed=_read_attributed(work.attribute) if kind == "attribute" else None,
        salt=f"{len(tenant)} {tenant}{adapter}{work.prefix_scope and ' '}{work.prefix_scope}".encode(),
        adapter=adapter,
        adapter_name=work.adapter.name,
        prefix_cache=work.prefix_cache,
        allowed_output=work.allowed_output,
        priority=submit.priority,
        share=Share(tenant=tenant, expected_tokens=submit.expected_tokens, weight=submit.weight or 1.0),
        lease_id=submit.lease_id,
        fencing_token=submit.fencing_token,
        continuation=read_continuation(submit),
        alone=submit.alone,
    )


def read_input(given: task_pb2.Input) -> TaskInput:
    """What a task is given, or what is asked about."""
    match given.WhichOneof("kind"):
        case "chat":
            return _read_chat(given.chat)
        case "tokens":
            return TokenInput(array("I", given.tokens.ids))
        case _:
            return TextInput(given.prompt)


def _read_chat(chat: task_pb2.Chat) -> ChatInput:
    return ChatInput(
        tuple(_read_message(message) for message in chat.messages),
        chat.tools_json,
        variables_json=chat.variables_json,
        add_generation_prompt=not chat.no_generation_prompt,
        continue_final_message=chat.continue_final_message,
        parse_control_tokens=chat.parse_control_tokens,
        files=tuple(picture.data for picture in chat.pictures),
    )


def _read_message(message: task_pb2.Message) -> Message:
    return Message(
        message.role,
        message.content,
        name=message.name,
        tool_calls_json=message.tool_calls_json,
        tool_call_id=message.tool_call_id,
        parts=tuple(message.parts),
        reasoning_content=message.reasoning_content if message.HasField("reasoning_content") else None,
        images=tuple(message.images),
        sounds=tuple(message.sounds),
    )


def _read_sampling(s: SamplingParams, defaults: SamplingDefaults, task_id: str) -> Sampling:
    given = {field.name: value for field, value in s.ListFields()}
    for name in _COMPOUND & given.keys():
        given[name] = _READERS[PARAMETERS[name].form](given[name])
    return fill(given, defaults, task_id=task_id)


def read_defaults(load: load_pb2.Load, of_file: SamplingDefaults) -> SamplingDefaults:
    """What tasks take for what they leave unset; nothing is None."""
    own = defaults_of(load.sampling_defaults)
    fallback = defaults_of(load.fallback_sampling_defaults)
    return own.over(of_file).over(fallback).over(ENGINE_DEFAULTS)


def _read_biases(biases: Mapping[int, float]) -> tuple[tuple[int, float], ...]:
    return tuple(sorted(biases.items()))


def _read_grammar(grammar: WireGrammar) -> Grammar:
    name = grammar.WhichOneof("kind") or ""
    kind = GrammarKind[name.upper()]
    texts = grammar.choice.texts
    return Grammar(kind, texts=tuple(texts)) if kind is GrammarKind.CHOICE else Grammar(kind, getattr(grammar, name))


_READERS: Final[Mapping[Form, Callable[[Any], Any]]] = {
    Form.TEXTS: tuple,
    Form.TOKENS: tuple,
    Form.BIASES: _read_biases,
    Form.GRAMMAR: _read_grammar,
}
"""How values are read that are no plain ones."""

_COMPOUND: Final = frozenset(each.name for each in PARAMETERS.values() if each.form in _READERS)


def _read_embedding(embed: task_pb2.Embed) -> Embedding:
    return Embedding(
        pooling=Pooling(embed.pooling) if embed.pooling else None, normalize=embed.normalize, query=embed.query
    )


def _read_attributed(asked: task_pb2.Attribute) -> Attributed:
    return Attributed(
        method=Attribution(asked.method),
        told=asked.told,
        places=tuple(asked.places),
        baseline_id=asked.baseline_id,
        at=asked.at,
    )


def read_continuation(submit: task_pb2.Submit) -> Continuation | None:
    """What a task has told before; None for nothing."""
    if not submit.HasField("continuation"):
        return None
    told = submit.continuation
    return Continuation(
        samples={s.sample: SampleSoFar(s.token_ids, FinishReason(s.finish_reason)) for s in told.samples},
        prompt_told=told.prompt_told,
        cached_tokens=told.cached_tokens if told.HasField("cached_tokens") else None,
    )


def failure(error: InferdError) -> failure_pb2.Failure:
    """An error on its way to a client; the path of the wrong field is in the metadata under "field"."""
    metadata = error.metadata | ({"field": error.field} if error.field else {})
    return failure_pb2.Failure(
        reason=error.reason,
        message=_told(error.message),
        metadata={_told(name): _told(value) for name, value in metadata.items()},
    )


def _told(text: str) -> str:
    """A text of an error as it can be sent: what foreign code says may be of any length, and no Unicode."""
    return text[:_LONGEST_TEXT].encode("utf-8", "replace").decode()


def _bounded(text: str) -> str:
    """The text of an answer.

    Raises:
        LimitExceededError: It would not fit into a message to a client.
    """
    size = len(text.encode())
    if size > ANSWER_BYTES:
        facts = {"bound": "answer", "value": str(size), "limit": str(ANSWER_BYTES)}
        raise LimitExceededError(f"the text has {size} bytes and at most {ANSWER_BYTES} are told", metadata=facts)
    return text


def _write(told: task_pb2.Writing, writing: Writing) -> None:
    told.chat_template = _bounded(writing.chat_template)
    told.tool_use_template = _bounded(writing.tool_use_template)
    for token_id, text in writing.control_tokens.items():
        told.control_tokens[token_id] = text


def answer_frame(intake: Intake, query: task_pb2.Query) -> wire.WorkerFrame:
    """The answer to a query."""
    answer = task_pb2.Answer(query_id=query.query_id)
    try:
        match read_input(query.input):
            case TokenInput(token_ids):
                answer.text = _bounded(intake.detokenize(token_ids))
                if query.input.tokens.with_pieces:
                    answer.pieces.extend(intake.pieces_of(token_ids))
                if query.input.tokens.with_writing:
                    _write(answer.writing, intake.writing)
                if query.input.tokens.with_attributions:
                    answer.attributions.extend(sorted(each.value for each in intake.attributions))
            case TextInput(text) if query.input.bare:
                answer.token_ids.extend(intake.words(text))
            case given:
                answer.token_ids.extend(intake.tokenize(given))
    except InferdError as error:
        answer.failure.CopyFrom(failure(error))
    except BaseException as error:
        if not is_failure(error):
            raise
        _log.exception("a query could not be answered")
        answer.failure.CopyFrom(failure(InternalError(f"the input cannot be prepared: {last_line(error)}")))
    return wire.WorkerFrame(answer=answer)


def step_frame(output: StepOutput) -> wire.WorkerFrame:
    """What one step produced."""
    frame = wire.WorkerFrame()
    step = frame.step
    step.handles.extend(output.handles)
    step.counts.extend(output.counts)
    step.token_ids.extend(output.token_ids)
    step.texts.extend(output.texts)
    for ended in output.ended:
        step.ended.append(ended_message(ended))
    for prefill in output.prefills:
        step.prefills.add(handle=prefill.handle, fraction=prefill.fraction)
    step.samples.extend(output.samples)
    for end in output.sample_ends:
        step.sample_ends.add(handle=end.handle, sample=end.sample, finish_reason=end.reason.value)
    for place, logprobs in output.logprobs.items():
        step.logprobs[place].CopyFrom(_logprobs(logprobs))
    for handle, values in output.embeddings.items():
        step.embeddings.add(handle=handle, values=values)
    for handle, cached_tokens in output.begun_prompts.items():
        step.begun_prompts.add(handle=handle, cached_tokens=cached_tokens)
    step.alone = output.alone or 0
    step.seconds, step.sequences, step.preempted = output.seconds, output.batch_size, output.preempted
    step.pictures_computed, step.pictures_kept = output.pictured
    if output.kv_tokens is not None:
        step.kv_tokens = output.kv_tokens
    for handle, prompt in output.prompts.items():
        told = None if prompt.logprobs is None else _logprobs(prompt.logprobs)
        step.prompts.add(
            handle=handle, text=prompt.text, token_ids=prompt.token_ids, logprobs=told, entropies=prompt.entropies
        )
    if isinstance(output, ScreenedOutput):
        _write_screened(output, step)
    return frame


def _write_screened(output: ScreenedOutput, step: step_pb2.StepOutput) -> None:
    for place, token_ids in output.computed.items():
        step.computed[place].token_ids.extend(token_ids)
    for cut in output.moderated:
        step.moderated.add(handle=cut.handle, sample=cut.sample, rule=cut.rule, action=cut.action, spans=cut.spans)
    for flag in output.flags:
        step.flagged.add(handle=flag.handle, rule=flag.rule, excerpt=flag.excerpt, input=flag.is_input)
    for asked in output.questions:
        step.asked.add(handle=asked.handle, sample=asked.sample, number=asked.number, rule=asked.rule, text=asked.text)


def _logprobs(logprobs: Logprobs) -> step_pb2.Logprobs:
    return step_pb2.Logprobs(
        token_ids=logprobs.token_ids,
        logprobs=logprobs.logprobs,
        top_ids=logprobs.top_ids,
        top_logprobs=logprobs.top_logprobs,
    )


def ended_message(ended: Ended) -> step_pb2.Ended:
    """How a task ended."""
    return step_pb2.Ended(
        handle=ended.handle,
        finish_reason=ended.reason.value,
        failure=None if ended.error is None else failure(ended.error),
        prompt_tokens=ended.usage.prompt_tokens,
        cached_tokens=ended.usage.cached_tokens,
        output_tokens=ended.usage.output_tokens,
        drafted_tokens=ended.usage.drafted_tokens,
        accepted_tokens=ended.usage.accepted_tokens,
    )
