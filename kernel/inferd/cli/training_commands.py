"""The commands `inferd train` and `inferd trainings`, and their options."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from inferd.cli.options import ADDRESS, Address, Class, Output, Tenant, Watch, read_values, text_option
from inferd.cli.output import Format, edge


class Method(StrEnum):
    """What is trained."""

    CLASSIFY = "classify"
    LORA = "lora"
    FULL = "full"
    EMBED = "embed"
    DISTIL = "distil"


IdArgument = Annotated[str, typer.Argument(help="Id of the training; its beginning is enough.", metavar="ID")]

_HELP = {"help_option_names": ["-h", "--help"]}
_DATA = "JSON Lines: a file, - for stdin, or sha256:… for a blob."
train_app = typer.Typer()
trainings_app = typer.Typer(help="Trainings of models.", no_args_is_help=True, context_settings=_HELP)


@train_app.command("train")
def _train(
    recipe: Annotated[
        Path | None,
        typer.Argument(help="A file of TOML: method, epochs, batch, …; also model and name.", dir_okay=False),
    ] = None,
    *,
    data: Annotated[str, text_option("--data", help=_DATA, metavar="FILE")],
    name: Annotated[str, text_option("--name", help="What the result is called.", metavar="NAME")] = "",
    model: Annotated[str, text_option("--model", help="The model that it begins with.", metavar="MODEL")] = "",
    method: Annotated[Method | None, typer.Option("--method", help="What is trained.")] = None,
    held: Annotated[
        str, text_option("--held", help="Rows that are held back. Default: a share of the data.", metavar="FILE")
    ] = "",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="A field of the recipe, in place of the file's.", metavar="NAME=VALUE"),
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="A model of that name gets a new version.")] = False,
    priority: Annotated[Class, typer.Option(help="Class of its work.")] = Class.LOW,
    backend: Annotated[str, text_option("--backend", help="Backend that trains.", metavar="NAME")] = "",
    device: Annotated[str, text_option("--device", help="Device that it computes on.", metavar="DEVICE")] = "",
    title: Annotated[str, text_option("--title", help="What people call it.", metavar="TEXT")] = "",
    detach: Annotated[bool, typer.Option("--detach", help="Leave it with the kernel, and tell its id.")] = False,
    address: Address = ADDRESS,
    tenant: Tenant = "",
    output: Output = Format.TABLE,
) -> None:
    """Train a model with the rows of a file, and tell what came of it."""
    with edge(output) as out:
        from inferd.cli.trainings import Wanted, train

        wanted = Wanted(
            recipe=recipe,
            data=data,
            held=held,
            settings={**({"method": method.value} if method else {}), **read_values(settings, "--set")},
            detach=detach,
            options={
                "name": name,
                "model": model,
                "replace": replace,
                "priority": priority.value,
                "backend": backend,
                "device": device,
                "title": title,
            },
        )
        train(out, address, tenant, wanted)


@trainings_app.command("list")
def _list(
    *, watch: Watch = False, address: Address = ADDRESS, tenant: Tenant = "", output: Output = Format.TABLE
) -> None:
    """List trainings, newest first."""
    with edge(output) as out:
        from inferd.cli.trainings import list_trainings

        list_trainings(out, address, tenant, watch=watch)


@trainings_app.command("show")
def _show(
    training: IdArgument,
    *,
    curve: Annotated[bool, typer.Option("--curve", help="Tell the steps of its curve.")] = False,
    card: Annotated[bool, typer.Option("--card", help="Tell the card of what came of it, JSON.")] = False,
    address: Address = ADDRESS,
    tenant: Tenant = "",
    output: Output = Format.TABLE,
) -> None:
    """Show a training, and what came of it."""
    with edge(output) as out:
        from inferd.cli.trainings import show

        show(out, address, tenant, training, curve=curve, card=card)


@trainings_app.command("watch")
def _watch(
    training: IdArgument, *, address: Address = ADDRESS, tenant: Tenant = "", output: Output = Format.TABLE
) -> None:
    """Follow a training until it has ended."""
    with edge(output) as out:
        from inferd.cli.trainings import watch

        watch(out, address, tenant, training)


@trainings_app.command("cancel")
def _cancel(
    training: IdArgument, *, address: Address = ADDRESS, tenant: Tenant = "", output: Output = Format.TABLE
) -> None:
    """End a training."""
    with edge(output) as out:
        from inferd.cli.trainings import cancel

        cancel(out, address, tenant, training)


@trainings_app.command("rm")
def _remove(
    training: IdArgument, *, address: Address = ADDRESS, tenant: Tenant = "", output: Output = Format.TABLE
) -> None:
    """Delete a training that has ended; the files of a model that came of it stay as long as that is known."""
    with edge(output) as out:
        from inferd.cli.trainings import remove

        remove(out, address, tenant, training)
