"""The commands of `inferd certs` and their options."""

from pathlib import Path
from typing import Annotated

import typer

from inferd.cli.options import Output, text_option
from inferd.cli.output import Format, edge

MOST_DAYS = 36_500.0

Folder = Annotated[
    Path | None,
    typer.Option("--dir", help="Folder of the authority. Default: certs, in your configuration.", metavar="FOLDER"),
]
NameArgument = Annotated[str, typer.Argument(help="For whom: a kernel, a program, a person.", metavar="NAME")]
WhichArgument = Annotated[
    str, typer.Argument(help="Whose certificates, or the beginning of the number of one.", metavar="NAME|SERIAL")
]
RootName = Annotated[str, text_option("--name", help="Name of the authority.", metavar="NAME")]
RootDays = Annotated[float, typer.Option(help="Days that it holds.", min=0.001, max=MOST_DAYS, metavar="N")]
Host = Annotated[
    list[str] | None,
    typer.Option(
        "--host", help="Of a server: a DNS name or address by which it is reached; may be repeated.", metavar="HOST"
    ),
]
Uri = Annotated[
    list[str] | None,
    typer.Option("--uri", help="Of a client: what it stands for. Default inferd:NAME; may be repeated.", metavar="URI"),
]
Days = Annotated[float, typer.Option(help="Days that it holds.", min=0.001, max=MOST_DAYS, metavar="N")]
Out = Annotated[
    Path | None, typer.Option("--out", help="Folder for NAME.pem and NAME.key. Default: here.", metavar="FOLDER")
]
Replace = Annotated[bool, typer.Option("--replace", help="Replace the files that are there.")]

cert_app = typer.Typer(
    help="A small authority of your own, for TLS.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@cert_app.command("init")
def _init(
    *, dir_: Folder = None, name: RootName = "inferd", days: RootDays = 3650.0, output: Output = Format.TABLE
) -> None:
    """Make an authority: a root, and an empty list of what is revoked."""
    with edge(output) as out:
        from inferd.cli.certs import init

        init(out, dir_, name=name, days=days)


@cert_app.command("issue")
def _issue(
    name: NameArgument,
    *,
    host: Host = None,
    uri: Uri = None,
    days: Days = 90.0,
    out: Out = None,
    replace: Replace = False,
    dir_: Folder = None,
    output: Output = Format.TABLE,
) -> None:
    """Issue a certificate with its key: with --host a server's, else a client's."""
    with edge(output) as written:
        from inferd.cli.certs import issue

        issue(
            written,
            dir_,
            name,
            hosts=host or (),
            uris=uri or (),
            days=days,
            out=out or Path(),
            replace=replace,
        )


@cert_app.command("revoke")
def _revoke(which: WhichArgument, *, dir_: Folder = None, output: Output = Format.TABLE) -> None:
    """Revoke a client's certificates: kernels that see the list end what goes on with them within a second."""
    with edge(output) as out:
        from inferd.cli.certs import revoke

        revoke(out, dir_, which)


@cert_app.command("list")
def _list(*, dir_: Folder = None, output: Output = Format.TABLE) -> None:
    """List what was issued, newest first."""
    with edge(output) as out:
        from inferd.cli.certs import list_all

        list_all(out, dir_)
