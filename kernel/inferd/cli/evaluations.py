"""`inferd evaluate`, and `inferd evaluations list`, `show`, `watch`, `compare`, `report`, `cancel` and `rm`."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from inferd.cli.changing import Listing
from inferd.cli.kernel import connected
from inferd.cli.output import CommandError
from inferd.cli.plain import plain
from inferd.errors import words_of
from inferd_api.v1 import evaluation_pb2 as ep

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from inferd.cli.output import Output
    from inferd_api.v1.evaluation_service_pb2 import CompareEvaluationsResponse
    from inferd_client import Client

COLUMNS = ("EVALUATION", "MODEL", "TASK", "STATE", "LINES", "FAILED", "FIGURES")
FIGURES = ("FIGURE", "VALUE", "FROM", "TO")
LABELS = ("LABEL", "PRECISION", "RECALL", "F1", "LINES")
DIFFERENCES = ("EVALUATION", "FIGURE", "DIFFERENCE", "FROM", "TO", "P", "LINES")
LINES = ("LINE", "SCORES", "ANSWER")
EMPTY = "no evaluations; inferd evaluate makes one"
SHOWN = 3  # figures of an evaluation in a list
ENDED = (ep.EVALUATION_STATE_SUCCEEDED, ep.EVALUATION_STATE_FAILED, ep.EVALUATION_STATE_CANCELLED)
MOST_LABELS = 256
DATASET = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}(@[1-9][0-9]{0,8})?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is to be evaluated.

    Attributes:
        data: A file, "-", the digest of a blob, or a dataset.
        kind: Of the task.
        labels: Of a classification; none for those of the data.
        against: With which evaluation it is compared; "" for none.
        page: Where a page is written.
        detach: Whether nobody waits for it.
        options: As the client takes them.
    """

    data: str
    kind: str
    labels: Sequence[str] = ()
    against: str = ""
    page: Path | None = None
    detach: bool = False
    options: dict[str, Any] = field(default_factory=dict)


def evaluate(output: Output, address: str, tenant: str, model: str, wanted: Wanted) -> None:
    """Have a model evaluated, wait for it, and tell what was found.

    Raises:
        CommandError: It failed, or a file cannot be read or written.
    """
    options = {**wanted.options, "rubric": _text(wanted.options["rubric"], "--rubric"), "kind": wanted.kind}
    labels = list(wanted.labels)
    with connected(address, tenant) as client:
        if wanted.data.startswith("sha256:"):
            options["blob"] = wanted.data
        elif _is_dataset(wanted.data):
            options["dataset"] = wanted.data
            labels = labels or (_labels_of_rows(client, wanted.data) if wanted.kind == "classification" else [])
        else:
            options["data"] = data = _read(wanted.data)
            labels = labels or (_labels_of(data) if wanted.kind == "classification" else [])
        made = client.evaluate_model(model, class_labels=labels, **options)
        if wanted.detach:
            if output.json:
                output.document(plain(made))
            else:
                output.text(made.evaluation_id)
            return
        ended = _follow(output, client, made.evaluation_id)
        ids = [_find(client, wanted.against), ended.evaluation_id] if wanted.against else [ended.evaluation_id]
        if wanted.against or wanted.page is not None:
            compared = client.compare_evaluations(ids, page=wanted.page is not None)
            _write_page(output, wanted.page, compared.page)
            _tell_comparison(output, compared)
            return
    _tell(output, ended)


def list_evaluations(output: Output, address: str, tenant: str, *, watch: bool = False) -> None:
    """List evaluations, or follow them."""
    listing = Listing(columns=COLUMNS, row=_row, document=plain, empty=EMPTY, gives_way="FIGURES")
    with connected(address, tenant) as client:
        listing.show(output, client.list_evaluations, name="evaluations", watch=watch)


def show(output: Output, address: str, tenant: str, evaluation_id: str, *, lines: bool) -> None:
    """Show an evaluation, and its lines if they are asked for."""
    with connected(address, tenant) as client:
        found = client.get_evaluation(_find(client, evaluation_id))
        told = list(client.evaluation_lines(found.evaluation_id)) if lines else []
    if output.json:
        output.document({**plain(found), **({"line_results": [plain(each) for each in told]} if lines else {})})
        return
    _tell(output, found)
    if lines:
        output.table(LINES, map(_line_row, told), empty="no line was answered yet", gives_way="ANSWER")


def watch(output: Output, address: str, tenant: str, evaluation_id: str) -> None:
    """Follow an evaluation until it has ended."""
    with connected(address, tenant) as client:
        ended = _follow(output, client, _find(client, evaluation_id))
    _tell(output, ended)


def compare(
    output: Output,
    address: str,
    tenant: str,
    evaluation_ids: Sequence[str],
    *,
    page: Path | None,
    options: Mapping[str, Any],
) -> None:
    """Compare evaluations, and write a page of them if that is asked for."""
    with connected(address, tenant) as client:
        ids = [_find(client, each) for each in evaluation_ids]
        compared = client.compare_evaluations(ids, page=page is not None, **options)
    _write_page(output, page, compared.page)
    _tell_comparison(output, compared)


def cancel(output: Output, address: str, tenant: str, evaluation_id: str) -> None:
    """End an evaluation."""
    with connected(address, tenant) as client:
        ended = client.cancel_evaluation(_find(client, evaluation_id))
    _tell(output, ended)


def remove(output: Output, address: str, tenant: str, evaluation_id: str) -> None:
    """Delete an evaluation that has ended."""
    with connected(address, tenant) as client:
        whole = _find(client, evaluation_id)
        client.delete_evaluation(whole)
    if output.json:
        output.document({"evaluation_id": whole})
    else:
        output.note(f"evaluation {whole} is deleted")


def _find(client: Client, begin: str) -> str:
    """The whole id of an evaluation."""
    found = [each.evaluation_id for each in client.list_evaluations() if each.evaluation_id.startswith(begin)]
    if len(found) > 1 and begin not in found:
        raise CommandError(f"{begin!r} begins {len(found)} ids; give more of it", reason="USAGE")
    return found[0] if len(found) == 1 else begin


def _text(given: str, option: str) -> str:
    if not given.startswith("@"):
        return given
    try:
        return Path(given[1:]).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise typer.BadParameter(words_of(error), param_hint=option) from None


def _read(data: str) -> bytes:
    if data == "-":
        return sys.stdin.buffer.read()
    try:
        return Path(data).expanduser().read_bytes()
    except OSError as error:
        raise typer.BadParameter(f"{data} cannot be read: {words_of(error)}", param_hint="--data") from None


def _is_dataset(data: str) -> bool:
    """Whether this names a dataset: so do names that no file has, and that may be one's."""
    return data != "-" and DATASET.fullmatch(data) is not None and not Path(data).expanduser().exists()


def _labels_of_rows(client: Client, dataset: str) -> list[str]:
    """As `_labels_of`, of the rows of a dataset.

    Raises:
        CommandError: They cannot be read here.
    """
    from inferd_client import data  # noqa: PLC0415 - pyarrow is imported with the first table

    try:
        found = {label for row in data.rows(client, dataset) if isinstance(label := row.get("label"), str)}
    except ModuleNotFoundError as error:
        raise CommandError(f"{error}; or name the labels: --label", reason="USAGE") from None
    return _few(found)


def _labels_of(data: bytes) -> list[str]:
    """The labels that lines have, in the order of the alphabet; what is wrong with a line the kernel says."""
    found = set[str]()
    for line in data.splitlines():
        try:
            label = json.loads(line)["label"]
        except (ValueError, LookupError, TypeError, RecursionError):
            continue
        if isinstance(label, str):
            found.add(label)
    return _few(found)


def _few(found: set[str]) -> list[str]:
    if len(found) > MOST_LABELS:
        raise CommandError(f"the data has {len(found)} labels; at most {MOST_LABELS} can be told apart", reason="USAGE")
    return sorted(found)


def _follow(output: Output, client: Client, evaluation_id: str) -> ep.Evaluation:
    """Wait for the end of an evaluation.

    Raises:
        CommandError: It failed, or was cancelled.
    """
    told = ep.Evaluation()
    with output.status(f"evaluation {evaluation_id}") as say:
        for told in client.watch_evaluation(evaluation_id):
            state = _name(ep.EvaluationState.Name(told.state), "EVALUATION_STATE_")
            failed = f", {told.failed_lines} failed" if told.failed_lines else ""
            say(f"evaluation {evaluation_id}: {state}, {told.done_lines} of {told.lines} lines{failed}")
    if told.state == ep.EVALUATION_STATE_FAILED:
        raise CommandError(
            f"evaluation {evaluation_id} failed: {told.error.message}", reason=_reason(told) or "EVALUATION_FAILED"
        )
    if told.state == ep.EVALUATION_STATE_CANCELLED:
        raise CommandError(f"evaluation {evaluation_id} was cancelled", reason="CANCELLED")
    return told


def _reason(evaluation: ep.Evaluation) -> str:
    from google.rpc import error_details_pb2  # noqa: PLC0415 - where something failed

    info = error_details_pb2.ErrorInfo()
    return next((info.reason for each in evaluation.error.details if each.Unpack(info)), "")


def _write_page(output: Output, path: Path | None, page: str) -> None:
    if path is not None:
        path.write_text(page, encoding="utf-8")
        output.note(f"the page is in {path}")


def _tell(output: Output, evaluation: ep.Evaluation) -> None:
    if output.json:
        output.document(plain(evaluation))
        return
    kind = _name(ep.EvaluationKind.Name(evaluation.spec.kind), "EVALUATION_KIND_")
    state = _name(ep.EvaluationState.Name(evaluation.state), "EVALUATION_STATE_")
    version = f" version {', '.join(map(str, evaluation.versions))}" if evaluation.versions else ""
    output.text(f"{evaluation.evaluation_id}: {evaluation.spec.model}{version}, {kind}, {state}")
    failed = f", {evaluation.failed_lines} failed" if evaluation.failed_lines else ""
    tokens = f"{evaluation.prompt_tokens} tokens read, {evaluation.output_tokens} written"
    output.text(f"{evaluation.done_lines} of {evaluation.lines} lines{failed}; {tokens}")
    if evaluation.HasField("error"):
        output.text(f"error: {evaluation.error.message}")
    _tell_figures(output, evaluation)


def _tell_figures(output: Output, evaluation: ep.Evaluation) -> None:
    if evaluation.figures:
        rows = [(each.name, f"{each.value:.4f}", f"{each.low:.4f}", f"{each.high:.4f}") for each in evaluation.figures]
        output.table(FIGURES, rows, empty="")
    if evaluation.labels:
        rows_of_labels = [
            (each.label, f"{each.precision:.4f}", f"{each.recall:.4f}", f"{each.f1:.4f}", str(each.support))
            for each in evaluation.labels
        ]
        output.table(LABELS, rows_of_labels, empty="")
    for note in evaluation.notes:
        output.note(note)


def _tell_comparison(output: Output, compared: CompareEvaluationsResponse) -> None:
    if output.json:
        document = plain(compared)
        document.pop("page", None)  # which is in its file
        output.document(document)
        return
    for each in compared.evaluations:
        _tell(output, each)
    if compared.differences:
        output.text(f"differences from {compared.evaluations[0].evaluation_id}, of pairs of lines:")
        rows = [
            (
                each.evaluation_id,
                each.name,
                f"{each.value:+.4f}",
                f"{each.low:+.4f}",
                f"{each.high:+.4f}",
                f"{each.p_value:.4f}",
                str(each.lines),
            )
            for each in compared.differences
        ]
        output.table(DIFFERENCES, rows, empty="")


def _row(each: ep.Evaluation) -> tuple[str, ...]:
    figures = ", ".join(f"{figure.name} {figure.value:.3f}" for figure in each.figures[:SHOWN])
    return (
        each.evaluation_id,
        each.spec.title or each.spec.model,
        _name(ep.EvaluationKind.Name(each.spec.kind), "EVALUATION_KIND_"),
        _name(ep.EvaluationState.Name(each.state), "EVALUATION_STATE_"),
        f"{each.done_lines}/{each.lines}",
        str(each.failed_lines),
        figures or each.error.message,
    )


def _line_row(line: ep.EvaluationLine) -> tuple[str, ...]:
    scores = ", ".join(f"{name} {value:.3g}" for name, value in sorted(line.scores.items()))
    likely = ", ".join(f"{each:.2f}" for each in line.logprobs)
    return str(line.number), scores, line.error.message or line.text.strip() or likely


def _name(name: str, begin: str) -> str:
    return name.removeprefix(begin).lower()
