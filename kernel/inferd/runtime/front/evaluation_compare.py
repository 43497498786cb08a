"""Comparisons of evaluations, and pages of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from inferd.errors import InvalidFieldError
from inferd.runtime.front.evaluation_run import read_figures, scores_of
from inferd.runtime.kept_evaluations import lines_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from inferd.core.evaluation import Evaluation
    from inferd.runtime.evaluation_work import Whose
    from inferd.runtime.front.evaluation_tasks import EvaluationTasks
    from inferd.runtime.kept_evaluations import Answer, EvaluationParts

SHOWN_CHARACTERS = 600  # of a line, and of an answer, on a page


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is asked of a comparison.

    Attributes:
        resamples: How often lines are drawn.
        confidence: Which part of them an interval has.
        seed: Which lines are drawn; None for the seed of the first evaluation.
        page: Whether a page is made.
        page_lines: Lines of each evaluation that it shows.
    """

    resamples: int = 1000
    confidence: float = 0.95
    seed: int | None = None
    page: bool = False
    page_lines: int = 10


@dataclass(frozen=True, slots=True)
class Compared:
    """An evaluation, and what was measured of its lines, in columns."""

    evaluation: Evaluation
    columns: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Difference:
    """By how much a figure of an evaluation is above that of the first one."""

    evaluation_id: str
    name: str
    value: float
    low: float
    high: float
    p_value: float
    lines: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Evaluations with figures as was asked for, and how they differ from the first one."""

    evaluations: Sequence[Evaluation]
    differences: Sequence[Difference]
    page: str
    notes: Sequence[str]


async def compare(
    tasks: EvaluationTasks, parts: EvaluationParts, whose: Whose, compared: Sequence[Compared], wanted: Wanted
) -> Comparison:
    """Compare evaluations with the first one.

    Raises:
        InvalidFieldError: One is of another kind, or of other data or labels.
        InferdError: It cannot be done now.
    """
    first = compared[0].evaluation
    for number, each in enumerate(compared):
        _check_same(first, each.evaluation, f"evaluation_ids[{number}]")
    kind = first.spec.kind.name.lower()
    seed = first.spec.seed if wanted.seed is None else wanted.seed
    (report,) = await tasks.call(
        whose,
        "evaluation_report",
        kind=kind,
        systems=[{"name": name_of(each.evaluation), **each.columns} for each in compared],
        labels=list(first.spec.labels),
        resamples=wanted.resamples,
        confidence=wanted.confidence,
        seed=seed,
    )
    page = ""
    if wanted.page:
        about = [await _about(parts, each, wanted.page_lines) for each in compared]
        pieces = await tasks.call(
            whose,
            "evaluation_page",
            title=_title([each.evaluation for each in compared]),
            report=report,
            about=about,
            confidence=wanted.confidence,
            resamples=wanted.resamples,
            seed=seed,
        )
        page = "".join(map(str, pieces))
    ids = [each.evaluation.evaluation_id for each in compared]
    differences = [
        Difference(
            ids[each["system"]],
            *(each[name] for name in ("name", "value", "low", "high", "p_value", "lines")),
        )
        for each in report["differences"]
    ]
    return Comparison(
        evaluations=[replace(each.evaluation, **read_figures(report, n)) for n, each in enumerate(compared)],
        differences=differences,
        page=page,
        notes=tuple(report["notes"]),
    )


def name_of(evaluation: Evaluation) -> str:
    """What an evaluation is called: its title, else its model, and the version that answered."""
    versions = "+".join(map(str, evaluation.versions))
    return evaluation.spec.title or f"{evaluation.spec.model}{f'@{versions}' if versions else ''}"


def _check_same(first: Evaluation, other: Evaluation, field: str) -> None:
    for what, one, two in (
        ("kind", first.spec.kind.name, other.spec.kind.name),
        ("data", f"sha256:{first.digest}", f"sha256:{other.digest}"),
        ("labels", ", ".join(first.spec.labels), ", ".join(other.spec.labels)),
        ("judge", first.spec.judge, other.spec.judge),
        ("rubric", _rubric(first), _rubric(other)),
    ):
        if one != two:
            raise InvalidFieldError(
                f"evaluation {other.evaluation_id} has {what} {two[:100]} and the first one {one[:100]}; only those of"
                " the same can be compared",
                field=field,
            )


def _rubric(evaluation: Evaluation) -> str:
    """A short name of a rubric, as two may begin alike."""
    rubric = evaluation.spec.rubric
    return f"sha256:{sha256(rubric.encode()).hexdigest()[:16]} ({rubric[:40]!r})" if rubric else "the usual one"


def _title(evaluations: Sequence[Evaluation]) -> str:
    kind = evaluations[0].spec.kind.name.lower()
    return f"{' and '.join(dict.fromkeys(map(name_of, evaluations)))}: {kind}"


async def _about(parts: EvaluationParts, compared: Compared, count: int) -> dict[str, Any]:
    """Facts of an evaluation, and the lines with the lowest scores."""
    evaluation = compared.evaluation
    spec = evaluation.spec
    facts = {
        "evaluation": evaluation.evaluation_id,
        "model": spec.model,
        "versions": ", ".join(map(str, evaluation.versions)),
        "data": f"sha256:{evaluation.digest}, {evaluation.lines} lines",
        "failed lines": str(evaluation.failed),
        "tokens": f"{evaluation.prompt_tokens} read, {evaluation.output_tokens} written",
        "begun": _moment(evaluation.started),
        "ended": _moment(evaluation.finished),
        "judge": spec.judge,
    }
    scores = dict(scores_of(compared.columns))
    lowest = sorted(sorted(scores, key=lambda number: (*scores[number].values(), number))[:count])
    lines = lines_of(await parts.data(evaluation)) if lowest else []
    samples = []
    for number in lowest:
        for answer in await parts.answers(evaluation, range(number, number + 1)):
            shown = {"line": lines[number - 1][:SHOWN_CHARACTERS], "answer": _shown(answer)[:SHOWN_CHARACTERS]}
            samples.append({"number": number, "scores": scores[number], **shown})
    return {
        "name": name_of(evaluation),
        "facts": {name: value for name, value in facts.items() if value},
        "samples": samples,
    }


def _shown(answer: Answer) -> str:
    likely = ", ".join(f"{each:.3f}" for each in answer.logprobs)
    return f"log probabilities: {likely}" if likely else f"{answer.text}\n{answer.why}".strip()


def _moment(at: float | None) -> str:
    return "" if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
