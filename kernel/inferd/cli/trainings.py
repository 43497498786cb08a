"""`inferd train`, and `inferd trainings list`, `show`, `watch`, `cancel` and `rm`."""

from __future__ import annotations

import json
import re
import sys
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import typer

from inferd.cli.amounts import counted, size, span
from inferd.cli.changing import Listing
from inferd.cli.kernel import connected
from inferd.cli.output import CommandError, command_error
from inferd.cli.plain import plain
from inferd.errors import words_of
from inferd_api.v1 import training_pb2 as tp
from inferd_client import InferdError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from inferd.cli.output import Output
    from inferd_client import Client

COLUMNS: Final = ("TRAINING", "NAME", "METHOD", "STATE", "STEPS", "LOSS", "WHY")
JUDGEMENTS: Final = ("STEP", "LOSS", "FIGURES")
LABELS: Final = ("LABEL", "PRECISION", "RECALL", "F1", "ROWS")
STEPS: Final = ("STEP", "LOSS", "RATE", "TOKENS")
EMPTY: Final = "no trainings; inferd train makes one"
SHOWN: Final = 3  # figures of a judgement in a list
INLINE_BYTES: Final = 1 << 20  # of data that goes with the call; what is larger goes into a blob
SPEC: Final = ("name", "model", "replace", "backend", "device", "title")
"""What a file may say besides the recipe."""
SPEC_FIELD: Final = re.compile(rf"\bspec\.({'|'.join(SPEC)})\b")
"""Fields of a call that options of the same names give."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is to be trained.

    Attributes:
        recipe: A file of TOML; None for none.
        data, held: Files, "-", or digests of blobs; "" for none.
        settings: Fields of the recipe, in place of the file's.
        detach: Whether nobody waits for it.
        options: As the client takes them.
    """

    recipe: Path | None
    data: str
    held: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    detach: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)


def train(output: Output, address: str, tenant: str, wanted: Wanted) -> None:
    """Have a model trained, wait for it, and tell what came of it.

    Raises:
        CommandError: It failed, or a file cannot be read.
    """
    said = {} if wanted.recipe is None else _read_toml(wanted.recipe)
    options: dict[str, Any] = {name: said.pop(name) for name in SPEC if name in said}
    options |= {name: value for name, value in wanted.options.items() if value or name not in options}
    name = options.pop("name", "")
    if not name:
        raise typer.BadParameter("say what the result is called", param_hint="--name")
    recipe = {**said, **wanted.settings}
    if "method" not in recipe:
        raise typer.BadParameter("say what is trained, here or in a recipe", param_hint="--method")
    with connected(address, tenant) as client:
        given = {**_given(client, wanted.data, "data", "blob"), **_given(client, wanted.held, "held", "held_blob")}
        try:
            made = client.train(name, recipe=recipe, **given, **options)
        except (ValueError, TypeError) as error:
            raise CommandError(str(error), reason="USAGE") from None
        except InferdError as error:
            raise _as_typed(error, wanted) from None
        if wanted.detach:
            if output.json:
                output.document(plain(made))
            else:
                output.text(made.training_id)
            return
        ended = _follow(output, client, made.training_id)
    _tell(output, ended)


def list_trainings(output: Output, address: str, tenant: str, *, watch: bool = False) -> None:
    """List trainings, or follow them."""
    listing = Listing(columns=COLUMNS, row=_row, document=plain, empty=EMPTY, gives_way="WHY")
    with connected(address, tenant) as client:
        listing.show(output, client.list_trainings, name="trainings", watch=watch)


def show(output: Output, address: str, tenant: str, training_id: str, *, curve: bool, card: bool) -> None:
    """Show a training, its curve and the card of what came of it if they are asked for."""
    with connected(address, tenant) as client:
        found = client.get_training(_find(client, training_id))
        steps = list(client.training_steps(found.training_id)) if curve else []
    if output.json:
        more = {"curve": [plain(each) for each in steps]} if curve else {}
        output.document({**plain(found), **more})
        return
    if card:
        output.text(json.dumps(json.loads(found.card or "{}"), indent=2, ensure_ascii=False))
        return
    _tell(output, found)
    if curve:
        rows = [(str(each.step), f"{each.loss:.6g}", f"{each.learning_rate:.3g}", str(each.tokens)) for each in steps]
        output.table(STEPS, rows, empty="no step was done yet")


def watch(output: Output, address: str, tenant: str, training_id: str) -> None:
    """Follow a training until it has ended."""
    with connected(address, tenant) as client:
        ended = _follow(output, client, _find(client, training_id))
    _tell(output, ended)


def cancel(output: Output, address: str, tenant: str, training_id: str) -> None:
    """End a training."""
    with connected(address, tenant) as client:
        ended = client.cancel_training(_find(client, training_id))
    _tell(output, ended)


def remove(output: Output, address: str, tenant: str, training_id: str) -> None:
    """Delete a training that has ended."""
    with connected(address, tenant) as client:
        whole = _find(client, training_id)
        client.delete_training(whole)
    if output.json:
        output.document({"training_id": whole})
    else:
        output.note(f"training {whole} is deleted")


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.expanduser().read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CommandError(f"recipe {path} cannot be read: {words_of(error)}", reason="USAGE") from None


def _given(client: Client, source: str, inline: str, blob: str) -> dict[str, Any]:
    """Data as the client takes it: what is large goes into a blob first."""
    if not source:
        return {}
    if source.startswith("sha256:"):
        return {blob: source}
    if source == "-":
        return {inline: sys.stdin.buffer.read()}
    path = Path(source).expanduser()
    try:
        if path.stat().st_size > INLINE_BYTES:
            return {blob: client.put_blob(path).digest}
        return {inline: path.read_bytes()}
    except OSError as error:
        raise typer.BadParameter(f"{source} cannot be read: {words_of(error)}", param_hint=f"--{inline}") from None


def _as_typed(error: InferdError, wanted: Wanted) -> CommandError:
    """The kernel's error, by the options and the files that were typed instead of the fields of the call."""
    told = command_error(error)
    told.message = SPEC_FIELD.sub(r"--\1", told.message)
    files = {"inline": wanted.data, "blob": wanted.data, "held_inline": wanted.held, "held_blob": wanted.held}
    if typed := files.get(error.field):
        told.message = told.message.replace(error.field, "stdin" if typed == "-" else typed, 1)
    return told


def _find(client: Client, begin: str) -> str:
    """The whole id of a training."""
    found = [each.training_id for each in client.list_trainings() if each.training_id.startswith(begin)]
    if len(found) > 1 and begin not in found:
        raise CommandError(f"{begin!r} begins {len(found)} ids; give more of it", reason="USAGE")
    return found[0] if len(found) == 1 else begin


def _follow(output: Output, client: Client, training_id: str) -> tp.Training:
    """Wait for the end of a training.

    Raises:
        CommandError: It failed, or was cancelled.
    """
    told = tp.Training()
    try:
        with output.status(f"training {training_id}") as say:
            for told in client.watch_training(training_id):
                say(f"training {training_id}: {_progress(told)}")
    except KeyboardInterrupt:
        output.note(
            f"training {training_id} goes on; inferd trainings watch {training_id} follows it,"
            f" inferd trainings cancel {training_id} ends it"
        )
        raise
    if told.state == tp.TRAINING_STATE_FAILED:
        raise CommandError(
            f"training {training_id} failed: {told.error.message}", reason=_reason(told) or "TRAINING_FAILED"
        )
    if told.state == tp.TRAINING_STATE_CANCELLED:
        raise CommandError(f"training {training_id} was cancelled", reason="CANCELLED")
    return told


def _progress(told: tp.Training) -> str:
    parts = [_state(told)]
    if told.waits_for and told.state == tp.TRAINING_STATE_QUEUED:
        parts.append(f"waits: {told.waits_for}")
    if told.steps:
        parts.append(f"step {told.step} of {told.steps}")
    if told.ranks > 1 or told.spec.recipe.ranks > 1:
        parts.append(f"{told.ranks} of {told.spec.recipe.ranks} ranks")
    if told.step:
        parts.append(f"loss {told.loss:.4g}")
    if told.tokens_per_s:
        parts.append(f"{told.tokens_per_s:,.0f} tokens/s")
    if told.left_s and told.state == tp.TRAINING_STATE_RUNNING:
        parts.append(f"{span(told.left_s)} left")
    return ", ".join(parts)


def _reason(training: tp.Training) -> str:
    from google.rpc import error_details_pb2  # noqa: PLC0415 - where something failed

    info = error_details_pb2.ErrorInfo()
    return next((info.reason for each in training.error.details if each.Unpack(info)), "")


def _tell(output: Output, training: tp.Training) -> None:
    if output.json:
        output.document(plain(training))
        return
    base = f" from {training.spec.model}" if training.spec.model else ""
    output.text(f"{training.training_id}: {training.spec.name}, {_method(training)}{base}, {_progress(training)}")
    cut = f", {training.cut_rows} times a row was cut" if training.cut_rows else ""
    early = ", ended early" if training.ended_early else ""
    output.text(
        f"{training.rows} rows, {training.tokens} tokens in {span(training.computed_s)}"
        f" by {counted(training.attempts, 'worker')},"
        f" backend {training.backend}{cut}{early}"
    )
    if training.HasField("error"):
        output.text(f"error: {training.error.message}")
    if training.HasField("result"):
        output.text(_result(training.result))
    if training.judgements:
        rows = [(str(each.step), f"{each.loss:.6g}", _figures(each)) for each in training.judgements]
        output.table(JUDGEMENTS, rows, empty="")
        _tell_labels(output, training.judgements[-1])


def _result(result: tp.TrainingResult) -> str:
    if result.kind == "adapter":
        return f"adapter {result.adapter} of {result.model} ({size(result.size_bytes)}), in {result.path}"
    return f"model {result.model}, version {result.version} ({size(result.size_bytes)}), in {result.path}"


def _tell_labels(output: Output, judged: tp.TrainingJudgement) -> None:
    if not judged.labels:
        return
    rows = [
        (each.label, f"{each.precision:.4f}", f"{each.recall:.4f}", f"{each.f1:.4f}", str(each.support))
        for each in judged.labels
    ]
    output.table(LABELS, rows, empty="")


def _row(each: tp.Training) -> tuple[str, ...]:
    return (
        each.training_id,
        each.spec.title or each.spec.name,
        _method(each),
        _state(each),
        f"{each.step}/{each.steps}",
        f"{each.loss:.4g}" if each.step else "",
        each.error.message or (each.waits_for if each.state == tp.TRAINING_STATE_QUEUED else ""),
    )


def _figures(judged: tp.TrainingJudgement) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in sorted(judged.figures.items())[:SHOWN])


def _method(training: tp.Training) -> str:
    return tp.TrainingMethod.Name(training.spec.recipe.method).removeprefix("TRAINING_METHOD_").lower()


def _state(training: tp.Training) -> str:
    return tp.TrainingState.Name(training.state).removeprefix("TRAINING_STATE_").lower()
