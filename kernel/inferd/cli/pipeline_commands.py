"""The commands of `inferd pipelines` and their options."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from inferd.cli.options import ADDRESS, Address, Class, LeaseOption, Output, Tenant, Watch, text_option
from inferd.cli.output import Format, edge

FileArgument = Annotated[
    Path, typer.Argument(help="The pipeline, TOML or (.json) JSON.", metavar="FILE", exists=True, dir_okay=False)
]
RunArgument = Annotated[str, typer.Argument(help="Id of the run, or its beginning.", metavar="RUN")]
_HELP = {"help_option_names": ["-h", "--help"]}
pipeline_app = typer.Typer(
    help="Pipelines: functions and models, composed.", no_args_is_help=True, context_settings=_HELP
)


class Form(StrEnum):
    """What the bytes of an input are."""

    TEXT = "text"
    JSON = "json"
    LINES = "lines"
    JSON_LINES = "json_lines"


@pipeline_app.command("run")
def _run(
    file: FileArgument,
    *,
    given: Annotated[
        str, text_option("--input", help="Its input, JSON; @FILE reads it, - stdin.", metavar="JSON")
    ] = "",
    input_file: Annotated[
        Path | None,
        typer.Option("--input-file", help="A file that is its input, given as a blob.", dir_okay=False, exists=True),
    ] = None,
    form: Annotated[Form, typer.Option("--format", help="What --input-file is.")] = Form.TEXT,
    dataset: Annotated[
        str, text_option("--data", help="A dataset whose rows are its input.", metavar="NAME[@VERSION]")
    ] = "",
    priority: Annotated[Class | None, typer.Option(help="Its class: a higher one goes first.")] = None,
    lease: LeaseOption = "",
    ttl_s: Annotated[float | None, typer.Option("--ttl", help="Seconds after which it expires.", min=0.001)] = None,
    seed: Annotated[int | None, typer.Option(help="From which the seeds of its tasks are made.", min=0)] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Leave it with the kernel, and tell its id.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Only check it.")] = False,
    address: Address = ADDRESS,
    tenant: Tenant = "",
    output: Output = Format.TABLE,
) -> None:
    """Check a pipeline, run it, and tell what it gives; Ctrl-C leaves the run with the kernel."""
    with edge(output) as out:
        from inferd.cli.pipelines import run

        options = {
            "priority": None if priority is None else priority.value,
            "lease": lease or None,
            "ttl_s": ttl_s,
            "seed": seed,
        }
        run(
            out,
            address,
            tenant,
            file,
            given,
            input_file=input_file,
            form=form.value,
            dataset=dataset,
            detach=detach,
            check=check,
            options=options,
        )


@pipeline_app.command("list")
def _list(
    *, watch: Watch = False, address: Address = ADDRESS, tenant: Tenant = "", output: Output = Format.TABLE
) -> None:
    """List runs, newest first."""
    with edge(output) as out:
        from inferd.cli.pipelines import list_runs

        list_runs(out, address, tenant, watch=watch)


@pipeline_app.command("show")
def _show(
    run_id: RunArgument,
    *,
    step: Annotated[str, text_option("--step", help="Tell what this step has given instead.", metavar="NAME")] = "",
    items: Annotated[
        bool, typer.Option("--output-items", help="Tell what it has given, a line for each item.")
    ] = False,
    address: Address = ADDRESS,
    tenant: Tenant = "",
    output: Output = Format.TABLE,
) -> None:
    """Show how a run stands, or what it or a step of it has given."""
    with edge(output) as out:
        from inferd.cli.pipelines import show, show_items

        if step or items:
            show_items(out, address, tenant, run_id, step=step)
        else:
            show(out, address, tenant, run_id)


@pipeline_app.command("watch")
def _watch(
    run_id: RunArgument,
    *,
    after: Annotated[int, typer.Option("--after", help="Leave out events up to this number.", min=0)] = 0,
    address: Address = ADDRESS,
    tenant: Tenant = "",
    output: Output = Format.TABLE,
) -> None:
    """Tell what happens to a run, from its first event or from behind a number, to its end."""
    with edge(output) as out:
        from inferd.cli.pipelines import watch

        watch(out, address, tenant, run_id, after=after)


@pipeline_app.command("cancel")
def _cancel(
    run_id: RunArgument, *, address: Address = ADDRESS, tenant: Tenant = "", output: Output = Format.TABLE
) -> None:
    """End a run with its tasks."""
    with edge(output) as out:
        from inferd.cli.pipelines import cancel

        cancel(out, address, tenant, run_id)


@pipeline_app.command("rm")
def _remove(
    run_id: RunArgument, *, address: Address = ADDRESS, tenant: Tenant = "", output: Output = Format.TABLE
) -> None:
    """Delete a run that has ended, and what it gave."""
    with edge(output) as out:
        from inferd.cli.pipelines import remove

        remove(out, address, tenant, run_id)
