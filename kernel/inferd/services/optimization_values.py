"""What `OptimizeModel` asks for and tells, for the wire."""

import math
from typing import Any

from inferd.core.optimization import Measurement, OptimizationTarget, QualityBound
from inferd.errors import InvalidFieldError
from inferd.runtime.front.optimization import Planned, Report, Told, Tried, Wanted
from inferd.services.status import status_of
from inferd.services.times import duration, write_duration
from inferd.services.work_values import check_size
from inferd_api.v1 import optimize_pb2 as pb

MOST_IN_FLIGHT = 64
MOST_TOKENS = 4096
MOST_LOSS = 10.0
DEFAULTS = {"most_loss": 0.01, "least_agreement": 0.0, "in_flight": 8, "prompt_tokens": 128, "output_tokens": 64}
RANGES = {
    "most_loss": (0, MOST_LOSS),
    "least_agreement": (0, 1),
    "in_flight": (1, MOST_IN_FLIGHT),
    "prompt_tokens": (1, MOST_TOKENS),
    "output_tokens": (2, MOST_TOKENS),
}
NOT_MIXED = ("target", "vary", "trials", "seed")
_MEMORY, _THROUGHPUT = OptimizationTarget.MEMORY.value, OptimizationTarget.THROUGHPUT.value


def read_wanted(request: pb.OptimizeModelRequest, *, prompt_limit_bytes: int) -> Wanted:
    """What is asked for.

    Raises:
        InvalidFieldError: A field has a value outside what it allows.
        LimitExceededError: The text has more than `prompt_limit_bytes`.
    """
    if request.target not in pb.OptimizationTarget.values():
        most = max(pb.OptimizationTarget.values())
        raise InvalidFieldError(f"target is {request.target}; it must be from 0 to {most}", field="target")
    check_size(len(request.text.encode()), prompt_limit_bytes)
    mixed = request.HasField("most_weights_bytes")
    if mixed and (other := next((name for name in NOT_MIXED if _is_set(request, name)), None)):
        raise InvalidFieldError(
            f"most_weights_bytes is {request.most_weights_bytes}, which says what is tried; leave {other} away",
            field=other,
        )
    given: dict[str, Any] = {
        name: getattr(request, name) if _has(request, name) else value for name, value in DEFAULTS.items()
    }
    for name, (least, greatest) in RANGES.items():
        if not least <= given[name] <= greatest:  # nor what is no number
            raise InvalidFieldError(f"{name} is {given[name]:g}; it must be from {least} to {greatest:g}", field=name)
    return Wanted(
        model=request.model,
        target=OptimizationTarget(request.target or (_MEMORY if mixed else _THROUGHPUT)),
        text=request.text,
        bound=QualityBound(loss=given["most_loss"], agreement=given["least_agreement"]),
        only=tuple(request.vary),
        trials=request.trials if request.HasField("trials") else None,
        in_flight=given["in_flight"],
        prompt_tokens=given["prompt_tokens"],
        output_tokens=given["output_tokens"],
        seed=request.seed,
        text_tokens=request.text_tokens if request.HasField("text_tokens") else None,
        most_weights_bytes=request.most_weights_bytes if mixed else None,
    )


def _is_set(request: pb.OptimizeModelRequest, name: str) -> bool:
    """Whether a field has a value, of which 0, "" and none of several are none."""
    return bool(getattr(request, name))


def _has(request: Any, name: str) -> bool:
    found: bool = request.HasField(name)
    return found


def write_told(told: Told) -> pb.OptimizeModelResponse:
    """What there is to tell."""
    match told:
        case Planned():
            knobs = [pb.Knob(setting=knob.name, values=knob.values) for knob in told.knobs]
            plan = pb.OptimizationPlan(
                knobs=knobs, trials=told.trials, most_duration=duration(told.most_s), trial_model=told.name
            )
            return pb.OptimizeModelResponse(plan=plan)
        case Tried():
            return pb.OptimizeModelResponse(trial=_write_trial(told))
        case Report():
            return pb.OptimizeModelResponse(report=_write_report(told))


def _write_report(report: Report) -> pb.OptimizationReport:
    return pb.OptimizationReport(
        best=_write_trial(report.best),
        original=_write_trial(report.original),
        settings=dict(report.best.trial.settings),
        gain=report.gain,
        trials=map(_write_trial, report.tried),
        text_tokens=report.text_tokens,
        ended_early=report.ended_early,
        target=pb.OptimizationTarget.ValueType(report.target.value),
    )


def _write_trial(tried: Tried) -> pb.Trial:
    return pb.Trial(
        number=tried.trial.number,
        state=pb.TrialState.ValueType(tried.state.value),
        settings=dict(tried.trial.settings),
        final=tried.trial.final,
        measurement=None if tried.measured is None else _write_measurement(tried.measured),
        reason=tried.reason,
        error=None if tried.error is None else status_of(tried.error),
    )


def _write_measurement(measured: Measurement) -> pb.Measurement:
    written = pb.Measurement(
        tokens_per_second=measured.tokens_per_s,
        memory_bytes=measured.memory_bytes,
        perplexity=measured.perplexity,
        loss=measured.loss,
        loss_error=measured.loss_error,
        agreement=measured.agreement,
        rounds=measured.rounds,
        disturbed=measured.disturbed,
    )
    spans = {"first_token": measured.first_token_s, "token": measured.token_s, "answer": measured.answer_s}
    for name, seconds in spans.items():
        write_duration(seconds if math.isfinite(seconds) else None, written, f"{name}_duration")
    return written
