"""What a new version of a model has to show, from the wire, checked; and how far it has come, for the wire."""

from __future__ import annotations

from typing import TYPE_CHECKING

import re2
from google.protobuf.json_format import MessageToJson, Parse

from inferd.core.canary import Canary, CanaryStep, p95
from inferd.core.probe import Pattern, Probe, ProbePrompt
from inferd.core.task import FinishReason
from inferd.errors import InvalidFieldError, LimitExceededError
from inferd.sampling import greedy
from inferd.services.times import duration, read_seconds, timestamp
from inferd.services.work_values import read_work
from inferd_api.v1 import rollout_pb2 as pb
from inferd_api.v1 import task_pb2 as tp

if TYPE_CHECKING:
    from google.protobuf.duration_pb2 import Duration

    from inferd.core.rollouts import RolloutLimits
    from inferd.core.version import Version
    from inferd.runtime.clock import Clock

MOST_WAIT_S = 3600.0  # for a token, or for an answer
MOST_STEP_S = 604_800.0  # that a step takes at least
MOST_TASKS = 1_000_000  # of a step
USUAL_TASKS = 20  # of a step that says nothing of how long it is
USUAL_TOKENS = 64  # of an answer to a prompt that does not say how many
MOST_TEXTS = 64  # that one answer must contain
MOST_RATIO = 1000  # of times of two versions
PATTERN_BYTES = 1 << 20  # of memory that matching a pattern may take

PROPERTIES = (
    "contains", "pattern", "not_empty", "finish_reason", "most_first_token", "most_time", "agreement",
)  # fmt: skip


def read_probe(probe: pb.Probe, limits: RolloutLimits, name: str, where: str = "probe") -> Probe:
    """What a new version of the model of this name has to answer; `where` is its path in the request.

    Raises:
        InvalidFieldError: A prompt asks for nothing, or for what cannot be.
        LimitExceededError: It has more prompts, texts or tokens than a probe may have.
    """
    if not probe.prompts:
        raise InvalidFieldError(f"{where}.prompts is empty; give one at least", field=f"{where}.prompts")
    _check(len(probe.prompts), limits.probe_prompts, "prompts", "rollouts.probe_prompts")
    _check(probe.ByteSize(), limits.probe_bytes, "bytes", "rollouts.probe_bytes")
    prompts = (_read_prompt(each, limits, name, f"{where}.prompts[{n}]") for n, each in enumerate(probe.prompts))
    return Probe(tuple(prompts))


def write_probe(probe: pb.Probe) -> str:
    """A probe as a model keeps it; "" where it has no prompts."""
    return MessageToJson(probe, indent=None) if probe.prompts else ""


def kept_probe(written: str) -> pb.Probe:
    """A probe that a model kept."""
    return Parse(written, pb.Probe())


def _check(value: int, limit: int, what: str, bound: str) -> None:
    if value > limit:
        raise LimitExceededError(
            f"the probe has {value} {what} and {bound} is {limit}",
            metadata={"bound": bound, "value": str(value), "limit": str(limit)},
        )


def _read_prompt(given: pb.ProbePrompt, limits: RolloutLimits, name: str, at: str) -> ProbePrompt:
    if not 0 <= given.agreement <= 1:
        message = f"{at}.agreement is {given.agreement:g}; it must be from 0 to 1"
        raise InvalidFieldError(message, field=f"{at}.agreement")
    if len(given.contains) > MOST_TEXTS:
        message = f"{at}.contains has {len(given.contains)} texts; at most {MOST_TEXTS}"
        raise InvalidFieldError(message, field=f"{at}.contains")
    tokens = given.most_tokens or min(USUAL_TOKENS, limits.probe_tokens)
    if tokens > limits.probe_tokens:
        message = f"{at}.most_tokens is {tokens} and rollouts.probe_tokens is {limits.probe_tokens}"
        raise InvalidFieldError(message, field=f"{at}.most_tokens")
    task = tp.TaskSpec(model=name, prefix_cache=False)
    for parameter, value in greedy(tokens).items():
        setattr(task.sampling, parameter, value)
    match given.WhichOneof("input"):
        case "prompt":
            task.prompt = given.prompt
        case "chat":
            task.chat.CopyFrom(given.chat)
    try:
        work, demand = read_work(task, limits.probe_bytes)
    except InvalidFieldError as error:  # it is known as the input of a task
        field = error.field.replace("spec", at, 1)
        raise InvalidFieldError(f"{at}: {error.message}", metadata=error.metadata, field=field) from None
    if not {field.name for field, _ in given.ListFields()}.intersection(PROPERTIES):
        wanted = ", ".join(PROPERTIES)
        raise InvalidFieldError(f"{at} says nothing of its answer; set one of {wanted}", field=at)
    if given.finish_reason not in {each.value for each in FinishReason}:
        message = f"{at}.finish_reason is {given.finish_reason}, which is none"
        raise InvalidFieldError(message, field=f"{at}.finish_reason")
    return ProbePrompt(
        work=work,
        demand=demand,
        contains=tuple(given.contains),
        pattern=_read_pattern(given.pattern, f"{at}.pattern") if given.pattern else None,
        not_empty=given.not_empty,
        reason=FinishReason(given.finish_reason) if given.finish_reason else None,
        first_s=_read_time(given.most_first_token, f"{at}.most_first_token", MOST_WAIT_S)
        if given.HasField("most_first_token")
        else None,
        whole_s=_read_time(given.most_time, f"{at}.most_time", MOST_WAIT_S) if given.HasField("most_time") else None,
        agreement=given.agreement,
    )


def _read_pattern(pattern: str, at: str) -> Pattern:
    options = re2.Options()
    options.log_errors, options.max_mem = False, PATTERN_BYTES
    try:
        compiled: Pattern = re2.compile(pattern, options)
    except re2.error as error:
        why = error.args[0].decode(errors="replace") if isinstance(error.args[0], bytes) else str(error)
        raise InvalidFieldError(f"{at} is no pattern of RE2: {why}", field=at) from None
    return compiled


def read_canary(given: pb.Canary, limits: RolloutLimits) -> Canary:
    """By which steps a new version comes to serve.

    Raises:
        InvalidFieldError: There is no step, shares do not rise, or a bound is none.
        LimitExceededError: There are more than `rollouts.canary_steps`.
    """
    if not given.steps:
        raise InvalidFieldError("canary.steps is empty; give one at least", field="canary.steps")
    if (number := len(given.steps)) > limits.canary_steps:
        raise LimitExceededError(
            f"canary has {number} steps and rollouts.canary_steps is {limits.canary_steps}",
            metadata={"bound": "rollouts.canary_steps", "value": str(number), "limit": str(limits.canary_steps)},
        )
    if not 0 <= given.most_failed < 1:
        message = f"canary.most_failed is {given.most_failed:g}; it must be 0 or more, and below 1"
        raise InvalidFieldError(message, field="canary.most_failed")
    steps, before = list[CanaryStep](), 0.0
    for n, step in enumerate(given.steps):
        steps.append(_read_step(step, before, f"canary.steps[{n}]"))
        before = step.share
    return Canary(
        steps=tuple(steps),
        failed=given.most_failed,
        first_ratio=_read_ratio(given.first_token_ratio, "canary.first_token_ratio"),
        first_s=_read_time(given.most_first_token, "canary.most_first_token", MOST_WAIT_S)
        if given.HasField("most_first_token")
        else None,
        token_ratio=_read_ratio(given.token_ratio, "canary.token_ratio"),
        token_s=_read_time(given.most_token, "canary.most_token", MOST_WAIT_S)
        if given.HasField("most_token")
        else None,
    )


def _read_step(step: pb.CanaryStep, before: float, at: str) -> CanaryStep:
    if not before < step.share <= 1:
        raise InvalidFieldError(
            f"{at}.share is {step.share:g}; it must be above {before:g}, and at most 1", field=f"{at}.share"
        )
    if step.least_tasks > MOST_TASKS:
        message = f"{at}.least_tasks is {step.least_tasks}; at most {MOST_TASKS}"
        raise InvalidFieldError(message, field=f"{at}.least_tasks")
    timed = step.HasField("least_time")
    tasks = step.least_tasks if step.HasField("least_tasks") else (0 if timed else USUAL_TASKS)
    least_s = _read_time(step.least_time, f"{at}.least_time", MOST_STEP_S) if timed else 0.0
    if not tasks and not least_s:
        raise InvalidFieldError(f"{at} has neither tasks nor time; give one of least_tasks and least_time", field=at)
    return CanaryStep(step.share, tasks, least_s)


def _read_ratio(ratio: float, at: str) -> float | None:
    if not 0 <= ratio <= MOST_RATIO:
        raise InvalidFieldError(f"{at} is {ratio:g}; it must be above 0, to {MOST_RATIO}", field=at)
    return ratio or None


def write_progress(version: Version, serving: Version, clock: Clock) -> pb.CanaryProgress | None:
    """How far a version has come by steps, beside the one that serves; None where it was not by steps."""
    if (steps := version.steps) is None:
        return None
    told = pb.CanaryProgress(
        step=steps.number,
        steps=len(steps.terms.steps),
        share=steps.step.share,
        step_time=timestamp(clock, steps.began),
        tasks=steps.new.tasks,
        least_tasks=steps.step.tasks,
        failed_tasks=steps.new.failed,
        old_tasks=steps.old.tasks,
        old_failed_tasks=steps.old.failed,
    )
    for field, paces, first in (
        ("first_token", steps.paces, True),
        ("token", steps.paces, False),
        ("old_first_token", serving.paces, True),
        ("old_token", serving.paces, False),
    ):
        beside_itself = serving is version and field.startswith("old_")
        if not beside_itself and (seconds := p95(paces, first=first)) is not None:
            getattr(told, field).CopyFrom(duration(seconds))
    return told


def _read_time(time: Duration, at: str, most_s: float) -> float:
    seconds = read_seconds(time, at)
    if not 0 < seconds <= most_s:
        raise InvalidFieldError(f"{at} is {seconds:g} s; it must be more than 0, to {most_s:g}", field=at)
    return seconds
