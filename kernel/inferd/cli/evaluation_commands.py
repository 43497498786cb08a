"""The commands `inferd evaluate` and `inferd evaluations`, and their options."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from inferd.cli.options import ADDRESS, Address, Class, ModelArgument, Output, Tenant, Watch, text_option
from inferd.cli.output import Format, edge


class Task(StrEnum):
    """What is measured."""

    CHOICE = "choice"
    GENERATION = "generation"
    CLASSIFICATION = "classification"
    CODE = "code"
    JUDGE = "judge"


IdArgument = Annotated[str, typer.Argument(help="Id of the evaluation; its beginning is enough.", metavar="ID")]
IdsArgument = Annotated[list[str], typer.Argument(help="Ids; the others are compared with the first.", metavar="ID...")]
Page = Annotated[Path | None, typer.Option("--page", help="Write a page in HTML to this file.", dir_okay=False)]
Resamples = Annotated[int, typer.Option(help="How often lines are drawn for intervals.", min=100, max=10_000)]
Confidence = Annotated[float, typer.Option(help="Which part of these an interval has.", min=0.5, max=0.999)]
Seed = Annotated[
    int | None, typer.Option(help="Which lines are drawn. Default: the first evaluation's.", min=0, max=2**32 - 1)
]

_HELP = {"help_option_names": ["-h", "--help"]}
evaluate_app = typer.Typer()
evaluations_app = typer.Typer(help="Evaluations of models.", no_args_is_help=True, context_settings=_HELP)


@evaluate_app.command("evaluate")
def _evaluate(
    model: ModelArgument,
    *,
    data: Annotated[
        str,
        text_option(
            "--data",
            help="JSON Lines: a file, - for stdin, sha256:… for a blob; or a dataset, as reviews or reviews@3.",
            metavar="FILE",
        ),
    ],
    task: Annotated[Task, typer.Option("--task", help="What is measured.")],
    label: Annotated[
        list[str] | None,
        typer.Option("--label", help="Of a classification; default: those of the file.", metavar="TEXT"),
    ] = None,
    judge: Annotated[str, text_option("--judge", help="The model that rates.", metavar="MODEL")] = "",
    rubric: Annotated[str, text_option("--rubric", help="By what it rates; @FILE reads it.", metavar="TEXT")] = "",
    chat: Annotated[bool, typer.Option("--chat", help="Put each prompt into a conversation.")] = False,
    most_tokens: Annotated[int, typer.Option(help="Most tokens of an answer.", min=1, max=8192)] = 256,
    stop: Annotated[list[str] | None, typer.Option("--stop", help="Ends an answer.", metavar="TEXT")] = None,
    separator: Annotated[
        str | None, text_option("--separator", help="Between a prompt and a choice. Default: a space.", metavar="TEXT")
    ] = None,
    priority: Annotated[Class, typer.Option(help="Class of its tasks.")] = Class.LOW,
    title: Annotated[str, text_option("--title", help="What people call it.", metavar="TEXT")] = "",
    seed: Annotated[int, typer.Option(help="Which lines are drawn for intervals.", min=0, max=2**32 - 1)] = 0,
    against: Annotated[
        str, text_option("--against", help="Compare with this evaluation of the same data.", metavar="ID")
    ] = "",
    page: Page = None,
    detach: Annotated[bool, typer.Option("--detach", help="Leave it with the kernel, and tell its id.")] = False,
    address: Address = ADDRESS,
    tenant: Tenant = "",
    output: Output = Format.TABLE,
) -> None:
    """Measure how good a model is at a task, line by line of a file, and tell figures with intervals."""
    with edge(output) as out:
        from inferd.cli.evaluations import Wanted, evaluate

        wanted = Wanted(
            data=data,
            kind=task.value,
            labels=label or (),
            against=against,
            page=page,
            detach=detach,
            options={
                "judge": judge,
                "rubric": rubric,
                "chat": chat,
                "most_tokens": most_tokens,
                "stop": stop or (),
                "separator": separator,
                "priority": priority.value,
                "title": title,
                "seed": seed,
            },
        )
        evaluate(out, address, tenant, model, wanted)


@evaluations_app.command("list")
def _list(
    *, watch: Watch = False, address: Address = ADDRESS, tenant: Tenant = "", output: Output = Format.TABLE
) -> None:
    """List evaluations, newest first."""
    with edge(output) as out:
        from inferd.cli.evaluations import list_evaluations

        list_evaluations(out, address, tenant, watch=watch)


@evaluations_app.command("show")
def _show(
    evaluation: IdArgument,
    *,
    lines: Annotated[bool, typer.Option("--lines", help="Tell each line, its answer and its scores.")] = False,
    address: Address = ADDRESS,
    tenant: Tenant = "",
    output: Output = Format.TABLE,
) -> None:
    """Show an evaluation, and what was found."""
    with edge(output) as out:
        from inferd.cli.evaluations import show

        show(out, address, tenant, evaluation, lines=lines)


@evaluations_app.command("watch")
def _watch(
    evaluation: IdArgument, *, address: Address = ADDRESS, tenant: Tenant = "", output: Output = Format.TABLE
) -> None:
    """Follow an evaluation until it has ended."""
    with edge(output) as out:
        from inferd.cli.evaluations import watch

        watch(out, address, tenant, evaluation)


@evaluations_app.command("compare")
def _compare(
    evaluation: IdsArgument,
    *,
    resamples: Resamples = 1000,
    confidence: Confidence = 0.95,
    seed: Seed = None,
    page: Page = None,
    address: Address = ADDRESS,
    tenant: Tenant = "",
    output: Output = Format.TABLE,
) -> None:
    """Compare evaluations of the same data with the first one, line by line."""
    with edge(output) as out:
        from inferd.cli.evaluations import compare

        options = {"resamples": resamples, "confidence": confidence, "seed": seed}
        compare(out, address, tenant, evaluation, page=page, options=options)


@evaluations_app.command("report")
def _report(
    evaluation: IdsArgument,
    *,
    page: Annotated[Path, typer.Option("--page", help="Where it is written.", dir_okay=False)],
    resamples: Resamples = 1000,
    confidence: Confidence = 0.95,
    seed: Seed = None,
    address: Address = ADDRESS,
    tenant: Tenant = "",
    output: Output = Format.TABLE,
) -> None:
    """Write a page about evaluations, which needs nothing from anywhere."""
    with edge(output) as out:
        from inferd.cli.evaluations import compare

        options = {"resamples": resamples, "confidence": confidence, "seed": seed}
        compare(out, address, tenant, evaluation, page=page, options=options)


@evaluations_app.command("cancel")
def _cancel(
    evaluation: IdArgument, *, address: Address = ADDRESS, tenant: Tenant = "", output: Output = Format.TABLE
) -> None:
    """End an evaluation."""
    with edge(output) as out:
        from inferd.cli.evaluations import cancel

        cancel(out, address, tenant, evaluation)


@evaluations_app.command("rm")
def _remove(
    evaluation: IdArgument, *, address: Address = ADDRESS, tenant: Tenant = "", output: Output = Format.TABLE
) -> None:
    """Delete an evaluation that has ended."""
    with edge(output) as out:
        from inferd.cli.evaluations import remove

        remove(out, address, tenant, evaluation)
