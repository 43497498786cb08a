"""The commands of `inferd store` and their options."""

from pathlib import Path
from typing import Annotated

import typer

from inferd.cli.options import Output
from inferd.cli.output import Format, edge

File = Annotated[
    Path | None, typer.Option("--file", help="The store's file. Default: that of the configuration.", metavar="FILE")
]

store_app = typer.Typer(
    help="Look after what a kernel keeps, while none runs.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@store_app.command("check")
def _check(*, file: File = None, output: Output = Format.TABLE) -> None:
    """Read all that is kept, and change nothing; the exit code is 1 when some of it is damaged."""
    with edge(output) as out:
        from inferd.cli.store import check

        check(out, file)


@store_app.command("compact")
def _compact(*, file: File = None, output: Output = Format.TABLE) -> None:
    """Give back the room of what was dropped."""
    with edge(output) as out:
        from inferd.cli.store import compact

        compact(out, file)


@store_app.command("export")
def _export(*, file: File = None, output: Output = Format.TABLE) -> None:
    """Write all that is kept as lines of JSON: a model or a task each, with its events."""
    with edge(output) as out:
        from inferd.cli.store import export

        export(out, file)
