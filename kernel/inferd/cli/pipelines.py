"""`inferd pipelines run`, `list`, `show`, `watch`, `cancel` and `rm`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from inferd.cli.changing import Listing
from inferd.cli.kernel import connected
from inferd.cli.plain import plain
from inferd.cli.prefix import by_prefix
from inferd.errors import words_of
from inferd_api.v1.pipeline_pb2 import PipelineState, StepState
from inferd_client.pipeline_declarations import read_declaration
from inferd_client.pipelines import check_run

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from inferd.cli.output import Output
    from inferd_api.v1.pipeline_pb2 import Pipeline, PipelineEvent, PipelineRun
    from inferd_client import Client

COLUMNS = ("RUN", "PIPELINE", "STATE", "TASKS", "TOKENS", "CREATED")
EMPTY = "no runs of pipelines; make one with: inferd pipelines run FILE"
STEPS = ("STEP", "STATE", "DONE", "ITEMS")


def run(
    output: Output,
    address: str,
    tenant: str,
    file: Path,
    given: str,
    *,
    input_file: Path | None,
    form: str,
    dataset: str,
    detach: bool,
    check: bool,
    options: Mapping[str, Any],
) -> None:
    """Run a pipeline of a file.

    Raises:
        typer.BadParameter: The file declares none, or the input cannot be read.
    """
    try:
        pipeline = read_declaration(file)
    except (OSError, ValueError) as error:
        raise typer.BadParameter(words_of(error), param_hint="FILE") from None
    if bool(given) + (input_file is not None) + bool(dataset) > 1:
        raise typer.BadParameter("give one of --input, --input-file and --data", param_hint="--input")
    value = _read(given) if given else None
    with connected(address, tenant) as client:
        source: dict[str, Any] = {"dataset": dataset} if dataset else {}
        if input_file is not None:
            source = {"blob": client.put_blob(input_file).digest, "form": form}
        if check:
            made = client.check_pipeline(pipeline, value, **source)
            output.document(plain(made)) if output.json else output.text(f"{file} can run")
            return
        made = client.create_pipeline_run(pipeline, value, **source, **options)
        if detach:
            output.document(plain(made)) if output.json else output.text(made.run_id)
            return
        _follow(output, client, made, pipeline)


def _follow(output: Output, client: Client, made: PipelineRun, pipeline: Pipeline) -> None:
    output.note(f"run {made.run_id}; it goes on without this command, and `inferd pipelines watch` tells of it")
    items: dict[str, int] = {}
    done: dict[str, int] = {}
    with output.status(f"running {pipeline.name or 'the pipeline'}") as say:
        for event in client.watch_pipeline_run(made.run_id):
            if event.HasField("started"):
                items[event.started.step] = event.started.items
            elif event.HasField("item"):
                name = event.item.step
                done[name] = done.get(name, 0) + 1
                say(f"{name}: {done[name]} of {items.get(name, 1)}")
    ended = client.get_pipeline_run(made.run_id)
    check_run(ended)
    if output.json:
        output.document(plain(ended) | {"value": _value(client, ended)})
    else:
        _tell_items(output, client, made.run_id, "")


def _value(client: Client, ended: PipelineRun) -> Any:
    items = list(client.read_pipeline_output(ended.run_id))
    return items if ended.output.list else items[0]


def list_runs(output: Output, address: str, tenant: str, *, watch: bool = False) -> None:
    """List runs, or follow them."""
    listing = Listing(columns=COLUMNS, row=_row, document=plain, empty=EMPTY, gives_way="PIPELINE")
    with connected(address, tenant) as client:
        listing.show(output, client.list_pipeline_runs, name="runs", watch=watch)


def show(output: Output, address: str, tenant: str, run_id: str) -> None:
    """Show how a run stands."""
    with connected(address, tenant) as client:
        found = _find(client, run_id)
    if output.json:
        output.document(plain(found))
        return
    output.text(f"{found.run_id} {found.pipeline.name} {_state(found)}")
    output.table(STEPS, map(_step_row, found.steps), empty="no steps")
    if found.error.message:
        output.text(found.error.message)
    if found.HasField("output"):
        what = f"{found.output.items} items" if found.output.list else "one value"
        output.text(f"gave {what}, {found.output.size_bytes} bytes, {found.output.digest}")


def show_items(output: Output, address: str, tenant: str, run_id: str, *, step: str) -> None:
    """Tell what a run, or a step of it, has given."""
    with connected(address, tenant) as client:
        _tell_items(output, client, _find(client, run_id).run_id, step)


def _tell_items(output: Output, client: Client, run_id: str, step: str) -> None:
    for item in client.read_pipeline_output(run_id, step=step):
        if output.json:
            output.line({"item": item})
        else:
            output.text(item if isinstance(item, str) else json.dumps(item, ensure_ascii=False))


def watch(output: Output, address: str, tenant: str, run_id: str, *, after: int) -> None:
    """Tell the events of a run."""
    with connected(address, tenant) as client:
        for event in client.watch_pipeline_run(_find(client, run_id).run_id, after_sequence=after):
            if output.json:
                output.line(plain(event))
            else:
                output.text(f"{event.sequence} {_words(event)}")


def cancel(output: Output, address: str, tenant: str, run_id: str) -> None:
    """End a run."""
    with connected(address, tenant) as client:
        ended = by_prefix(client.cancel_pipeline_run, run_id, _ids(client))
    if output.json:
        output.document(plain(ended))
    else:
        output.text(f"{ended.run_id} {_state(ended)}")


def remove(output: Output, address: str, tenant: str, run_id: str) -> None:
    """Delete a run that has ended."""
    with connected(address, tenant) as client:
        whole = _find(client, run_id).run_id
        client.delete_pipeline_run(whole)
    if output.json:
        output.document({"run_id": whole})
    else:
        output.note(f"run {whole} is deleted")


def _ids(client: Client) -> Iterator[str]:
    return (each.run_id for each in client.list_pipeline_runs())


def _find(client: Client, begin: str) -> PipelineRun:
    """A run by its id, or the beginning of it."""
    return by_prefix(client.get_pipeline_run, begin, _ids(client))


def _read(given: str) -> Any:
    try:
        text = given
        if given == "-":
            text = sys.stdin.read()
        elif given.startswith("@"):
            text = Path(given[1:]).read_text(encoding="utf-8")
        return json.loads(text)
    except (OSError, ValueError) as error:
        raise typer.BadParameter(words_of(error), param_hint="--input") from None


def _state(found: PipelineRun) -> str:
    return PipelineState.Name(found.state).removeprefix("PIPELINE_STATE_").lower()


def _row(found: PipelineRun) -> tuple[str, ...]:
    used = found.usage
    when = found.create_time.ToDatetime().isoformat(" ", "seconds")
    tokens = str(used.prompt_tokens + used.output_tokens)
    return found.run_id, found.pipeline.name, _state(found), str(used.tasks), tokens, when


def _step_row(step: Any) -> tuple[str, ...]:
    state = StepState.Name(step.state).removeprefix("STEP_STATE_").lower()
    return step.name, state, str(step.done_items), str(step.items)


def _words(event: PipelineEvent) -> str:
    match event.WhichOneof("kind"):
        case "started":
            return f"{event.started.step} began, {event.started.items} items"
        case "item":
            return f"{event.item.step}[{event.item.index}] {'left out' if event.item.skipped else 'done'}"
        case "retried":
            return f"{event.retried.step}[{event.retried.index}] is tried again: {event.retried.reason}"
        case _:
            return PipelineState.Name(event.finished.state).removeprefix("PIPELINE_STATE_").lower()
