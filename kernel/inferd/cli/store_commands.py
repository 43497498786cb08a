"""The commands of `inferd store` and their options."""

from pathlib import Path
from typing import Annotated

import typer

from inferd.cli.options import Output
from inferd.cli.output import Format, edge

File = Annotated[
    Path | None, typer.Option("--file", help="The store's file. Default: that of the configuration.", metavar="FILE")
]
Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        help="The store: sqlite:/path or postgresql://…; a password is better kept in PGPASSWORD or ~/.pgpass.",
        metavar="URL",
    ),
]
To = Annotated[
    str | None, typer.Option("--to", help="Copy all that is kept to this store, which must be empty.", metavar="URL")
]

store_app = typer.Typer(
    help="Look after what a kernel keeps, while none runs.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@store_app.command("check")
def _check(*, file: File = None, url: Url = None, output: Output = Format.TABLE) -> None:
    """Read all that is kept, and change nothing; the exit code is 1 when some of it is damaged."""
    with edge(output) as out:
        from inferd.cli.store import check

        check(out, file, url)


@store_app.command("compact")
def _compact(*, file: File = None, url: Url = None, output: Output = Format.TABLE) -> None:
    """Give back the room of what was dropped."""
    with edge(output) as out:
        from inferd.cli.store import compact

        compact(out, file, url)


@store_app.command("export")
def _export(*, file: File = None, url: Url = None, output: Output = Format.TABLE) -> None:
    """Write all that is kept as lines of JSON: a model or a task each, with its events."""
    with edge(output) as out:
        from inferd.cli.store import export

        export(out, file, url)


@store_app.command("migrate")
def _migrate(*, file: File = None, url: Url = None, to: To = None, output: Output = Format.TABLE) -> None:
    """Bring an older store up to this version, which a kernel does when it starts; or copy it to another one.

    A file is copied to FILE.schema-N before. The store of --to gets all or nothing; this one is left as it is.
    """
    with edge(output) as out:
        from inferd.cli.store import migrate

        migrate(out, file, url, to)
