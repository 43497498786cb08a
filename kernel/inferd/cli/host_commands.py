"""`inferd host`, and `inferd hosts invite`: their options."""

from pathlib import Path
from typing import Annotated

import typer

from inferd.cli.options import ADDRESS, Address, Output, parse_seconds, text_option
from inferd.cli.output import Format, edge

Join = Annotated[
    list[str],
    typer.Option(
        "--join",
        help="The kernel: tls:host:port, mtls:host:port, host:port or unix:/path; repeated, one of them that leads.",
        metavar="ADDRESS",
    ),
]
HostName = Annotated[
    str, text_option("--name", help="What the host is called. Default: the name of this machine.", metavar="NAME")
]
Label = Annotated[
    list[str] | None, typer.Option("--label", help="A label of the host; may be repeated.", metavar="NAME=VALUE")
]
TokenFile = Annotated[
    Path | None,
    typer.Option(
        "--token-file",
        help="An invitation (inferd hosts invite), '-' for stdin. Needed once: the host is known then.",
        metavar="FILE",
    ),
]
ServeFiles = Annotated[
    str,
    text_option(
        "--serve-files",
        help="Give files of models to other hosts there, an address of this machine by which they reach it.",
        metavar="HOST:PORT",
    ),
]
Config = Annotated[Path | None, typer.Option(help="The configuration, a TOML file.", metavar="FILE")]
ForHost = Annotated[str, text_option("--host", help="The name that the host is to have. Default: any.", metavar="NAME")]
Uses = Annotated[int | None, typer.Option(help="How many hosts may join by it. Default 1.", min=1, metavar="N")]
ExpiresIn = Annotated[
    float | None, typer.Option(parser=parse_seconds, help="Seconds until it ends. Default: an hour.", metavar="S")
]
Write = Annotated[
    Path | None, typer.Option("--write", help="Write it to this new file, not to stdout.", metavar="FILE")
]

host_app = typer.Typer()
invite_app = typer.Typer()


@host_app.command("host")
def _host(
    *,
    join: Join,
    name: HostName = "",
    label: Label = None,
    token_file: TokenFile = None,
    serve_files: ServeFiles = "",
    config: Config = None,
    output: Output = Format.TABLE,
) -> None:
    """Give a kernel this machine's devices, until Ctrl-C."""
    with edge(output) as out:
        from inferd.cli.host import read_labels, serve_host
        from inferd.cli.settings import read_settings

        serve_host(
            out,
            read_settings(config=config),
            join,
            name=name,
            labels=read_labels(label or ()),
            token_file=token_file,
            serve_files=serve_files,
        )


@invite_app.command("invite")
def _invite(
    *,
    host: ForHost = "",
    uses: Uses = None,
    expires_in: ExpiresIn = None,
    write: Write = None,
    address: Address = ADDRESS,
    output: Output = Format.TABLE,
) -> None:
    """Make an invitation, by which other machines join (inferd host --join), and tell it, once."""
    with edge(output) as out:
        from inferd.cli.invites import invite

        invite(out, address, host, uses=uses, expires_in_s=expires_in, write=write)
