"""Evaluations, between the wire and values."""

from typing import Any

from inferd.core.evaluation import Evaluation, EvaluationKind, EvaluationSpec
from inferd.core.ids import ModelName
from inferd.core.priority import Priority
from inferd.errors import InvalidFieldError
from inferd.runtime.front.evaluation_compare import Comparison, Wanted
from inferd.runtime.front.evaluations import Line
from inferd.services.dataset_values import write_source
from inferd.services.status import status_of
from inferd.services.task_values import read_priority
from inferd_api.v1 import evaluation_pb2 as ep
from inferd_api.v1 import evaluation_service_pb2 as es
from inferd_api.v1.priority_pb2 import Priority as WirePriority

DEFAULT_TOKENS, MOST_TOKENS = 256, 8192
LEAST_LABELS, MOST_LABELS = 2, 256
MOST_LABEL = 256  # characters
MOST_RUBRIC, MOST_TITLE, MOST_SEPARATOR, MOST_STOP = 16384, 128, 64, 256  # characters
MOST_ENDS = 16
MOST_SEED = (1 << 32) - 1
MOST_COMPARED, MOST_PAGE_LINES = 8, 100
RESAMPLES, CONFIDENCES = (100, 10_000), (0.5, 0.999)
NANOS = 1_000_000_000


def read_spec(spec: ep.EvaluationSpec) -> EvaluationSpec:
    """What is to be evaluated.

    Raises:
        InvalidFieldError: A field has a value outside what it allows.
    """
    if not spec.model:
        raise InvalidFieldError("spec.model is empty; name the model", field="spec.model")
    kinds = ", ".join(f"{each.value} ({each.name})" for each in EvaluationKind)
    if spec.kind not in {each.value for each in EvaluationKind}:
        raise InvalidFieldError(f"spec.kind is {spec.kind}; it must be one of {kinds}", field="spec.kind")
    kind = EvaluationKind(spec.kind)
    _check_of_kind(spec, kind)
    for name, value, most in (
        ("rubric", spec.rubric, MOST_RUBRIC),
        ("title", spec.title, MOST_TITLE),
        ("separator", spec.separator, MOST_SEPARATOR),
        *((f"stop[{n}]", each, MOST_STOP) for n, each in enumerate(spec.stop)),
        *((f"labels[{n}]", each, MOST_LABEL) for n, each in enumerate(spec.labels)),
    ):
        if len(value) > most:
            raise InvalidFieldError(f"spec.{name} has {len(value)} characters; at most {most}", field=f"spec.{name}")
    if len(spec.stop) > MOST_ENDS or not all(spec.stop):
        message = f"spec.stop has {len(spec.stop)} strings; at most {MOST_ENDS}, none of them empty"
        raise InvalidFieldError(message, field="spec.stop")
    if spec.most_tokens > MOST_TOKENS:
        message = f"spec.most_tokens is {spec.most_tokens}; it must be from 1 to {MOST_TOKENS}"
        raise InvalidFieldError(message, field="spec.most_tokens")
    return EvaluationSpec(
        model=ModelName(spec.model),
        kind=kind,
        labels=tuple(spec.labels),
        judge=spec.judge,
        rubric=spec.rubric,
        chat=spec.chat,
        most_tokens=spec.most_tokens or DEFAULT_TOKENS,
        ends=tuple(spec.stop),
        separator=spec.separator if spec.HasField("separator") else " ",
        priority=read_priority(spec.priority) if spec.priority else Priority.LOW,
        title=spec.title,
        seed=_read_seed(spec.seed, "spec.seed"),
    )


def _check_of_kind(spec: ep.EvaluationSpec, kind: EvaluationKind) -> None:
    """Refuse what a kind has not, and what it lacks."""
    of_kind = {
        "labels": (EvaluationKind.CLASSIFICATION, bool(spec.labels)),
        "judge": (EvaluationKind.JUDGE, bool(spec.judge)),
        "rubric": (EvaluationKind.JUDGE, bool(spec.rubric)),
        "separator": (EvaluationKind.CHOICE, spec.HasField("separator")),
    }
    for name, (owner, is_given) in of_kind.items():
        if is_given and kind is not owner:
            raise InvalidFieldError(
                f"spec.{name} is given, and spec.kind is {kind.name}; it is of {owner.name}: leave it out",
                field=f"spec.{name}",
            )
    if kind is EvaluationKind.JUDGE and not spec.judge:
        raise InvalidFieldError("spec.judge is empty; name the model that rates", field="spec.judge")
    if kind is EvaluationKind.CLASSIFICATION:
        labels = [label.strip() for label in spec.labels]
        if not LEAST_LABELS <= len(labels) <= MOST_LABELS or not all(labels) or len({*labels}) < len(labels):
            raise InvalidFieldError(
                f"spec.labels has {len(labels)} labels, {len({*labels})} of them different; a CLASSIFICATION needs"
                f" {LEAST_LABELS} to {MOST_LABELS}, all different and none empty",
                field="spec.labels",
            )


def _read_seed(seed: int, field: str) -> int:
    if seed > MOST_SEED:
        raise InvalidFieldError(f"{field} is {seed}; it must be from 0 to {MOST_SEED}", field=field)
    return seed


def read_wanted(request: es.CompareEvaluationsRequest) -> Wanted:
    """What is asked of a comparison.

    Raises:
        InvalidFieldError: A field has a value outside what it allows.
    """
    count = len(request.evaluation_ids)
    if not 1 <= count <= MOST_COMPARED:
        message = f"evaluation_ids has {count} ids; it must have 1 to {MOST_COMPARED}"
        raise InvalidFieldError(message, field="evaluation_ids")
    given: dict[str, Any] = {
        "resamples": request.resamples or 1000,
        "confidence": request.confidence or 0.95,
        "page_lines": request.page_lines if request.HasField("page_lines") else 10,
    }
    ranges: dict[str, tuple[float, float]] = {
        "resamples": RESAMPLES,
        "confidence": CONFIDENCES,
        "page_lines": (0, MOST_PAGE_LINES),
    }
    for name, (least, most) in ranges.items():
        if not least <= given[name] <= most:  # nor what is no number
            raise InvalidFieldError(f"{name} is {given[name]:g}; it must be from {least:g} to {most:g}", field=name)
    seed = _read_seed(request.seed, "seed") if request.HasField("seed") else None
    return Wanted(seed=seed, page=request.page, **given)


def write_evaluation(evaluation: Evaluation) -> ep.Evaluation:
    """An evaluation for the wire."""
    written = ep.Evaluation(
        evaluation_id=evaluation.evaluation_id,
        tenant=evaluation.tenant,
        spec=_write_spec(evaluation.spec),
        state=ep.EvaluationState.ValueType(evaluation.state.value),
        data_digest=f"sha256:{evaluation.digest}",
        lines=evaluation.lines,
        done_lines=evaluation.done,
        failed_lines=evaluation.failed,
        versions=evaluation.versions,
        figures=[
            ep.EvaluationFigure(name=each.name, value=each.value, low=each.low, high=each.high)
            for each in evaluation.figures
        ],
        labels=[
            ep.LabelFigures(
                label=each.label, precision=each.precision, recall=each.recall, f1=each.f1, support=each.support
            )
            for each in evaluation.labels
        ],
        prompt_tokens=evaluation.prompt_tokens,
        output_tokens=evaluation.output_tokens,
        error=None if evaluation.error is None else status_of(evaluation.error, evaluation.spec.model),
        notes=evaluation.notes,
        dataset=None if evaluation.dataset is None else write_source(evaluation.dataset),
    )
    moments = {"create_time": evaluation.created, "start_time": evaluation.started, "finish_time": evaluation.finished}
    for name, at in moments.items():
        if at is not None:
            getattr(written, name).FromNanoseconds(int(at * NANOS))
    return written


def _write_spec(spec: EvaluationSpec) -> ep.EvaluationSpec:
    return ep.EvaluationSpec(
        model=spec.model,
        kind=ep.EvaluationKind.ValueType(spec.kind.value),
        labels=spec.labels,
        judge=spec.judge,
        rubric=spec.rubric,
        chat=spec.chat,
        most_tokens=spec.most_tokens,
        stop=spec.ends,
        separator=spec.separator if spec.kind is EvaluationKind.CHOICE else None,
        priority=WirePriority.ValueType(spec.priority.value),
        title=spec.title,
        seed=spec.seed,
    )


def write_line(line: Line) -> ep.EvaluationLine:
    """A line for the wire."""
    answer = line.answer
    return ep.EvaluationLine(
        number=answer.number,
        data=line.data,
        text=answer.text,
        logprobs=answer.logprobs,
        scores=line.scores,
        error=None if answer.error is None else status_of(answer.error),
        why=answer.why,
    )


def write_comparison(comparison: Comparison) -> es.CompareEvaluationsResponse:
    """A comparison for the wire."""
    return es.CompareEvaluationsResponse(
        evaluations=map(write_evaluation, comparison.evaluations),
        differences=[
            ep.EvaluationDifference(
                evaluation_id=each.evaluation_id,
                name=each.name,
                value=each.value,
                low=each.low,
                high=each.high,
                p_value=each.p_value,
                lines=each.lines,
            )
            for each in comparison.differences
        ],
        page=comparison.page,
        notes=comparison.notes,
    )
