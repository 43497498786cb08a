"""The commands of `inferd config` and their options."""

from pathlib import Path
from typing import Annotated

import typer

from inferd.cli.options import Output, text_option
from inferd.cli.output import Format, edge

Config = Annotated[Path | None, typer.Option("--config", help="The configuration, a TOML file.", metavar="FILE")]

config_app = typer.Typer(
    help="Settings of a kernel, and where they come from.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@config_app.command("show")
def _show(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Settings, or groups of them, as limits or store.url. Default: all.", metavar="NAME"),
    ] = None,
    *,
    origin: Annotated[
        bool, typer.Option("--origin", help="Tell where each value came from: a flag, a variable, a line of the file.")
    ] = False,
    changed: Annotated[bool, typer.Option("--changed", help="Only those that have no default value.")] = False,
    config: Config = None,
    listen: Annotated[
        list[str] | None, typer.Option("--listen", help="As `inferd serve` is given it.", metavar="A")
    ] = None,
    socket_group: Annotated[
        str, text_option("--socket-group", help="As `inferd serve` is given it.", metavar="NAME")
    ] = "",
    output: Output = Format.TABLE,
) -> None:
    """Show settings as a kernel that starts now would have them; secrets are hidden."""
    with edge(output) as out:
        from inferd.cli.configuration import show

        given = {"listen": tuple(listen or ()), "socket_group": socket_group}
        flags = {name: value for name, value in given.items() if value}
        show(out, names or (), config=config, flags=flags, origin=origin, changed=changed)


@config_app.command("check")
def _check(*, config: Config = None, output: Output = Format.TABLE) -> None:
    """Tell whether the settings are right, and each mistake in them; the exit code is 1 where there is one."""
    with edge(output) as out:
        from inferd.cli.configuration import check

        check(out, config=config)
