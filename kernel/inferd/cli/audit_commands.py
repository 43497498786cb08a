"""The commands of `inferd audit` and their options."""

from pathlib import Path
from typing import Annotated

import typer

from inferd.cli.options import ADDRESS, Address, Output
from inferd.cli.output import Format, edge

Exported = Annotated[
    Path | None, typer.Argument(help="A trail that was exported. Default: that of the kernel.", metavar="FILE")
]
Offline = Annotated[
    bool, typer.Option("--offline", help="Read the store of the configuration, while no kernel has it.")
]
Url = Annotated[str | None, typer.Option("--url", help="Read this store, while no kernel has it.", metavar="URL")]
Keys = Annotated[
    list[Path] | None,
    typer.Option(
        "--key",
        help="The public half of a key that signs, as audit.pub; again for each. Default: the kernel's own.",
        metavar="PUB",
    ),
]
Checkpoints = Annotated[
    list[Path] | None,
    typer.Option(
        "--checkpoint", help="A checkpoint that was kept elsewhere: the trail must reach as far.", metavar="FILE"
    ),
]
To = Annotated[Path | None, typer.Option("--to", help="A new file. Default: standard output.", metavar="FILE")]

audit_app = typer.Typer(
    help="Who did what, with which decision: the audit trail of a kernel.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@audit_app.command("verify")
def _verify(
    file: Exported = None,
    *,
    key: Keys = None,
    checkpoint: Checkpoints = None,
    offline: Offline = False,
    url: Url = None,
    address: Address = ADDRESS,
    output: Output = Format.TABLE,
) -> None:
    """Check that the trail is what was written; the exit code is 1 at the first line that is not."""
    with edge(output) as out:
        from inferd.cli.audit import verify

        verify(out, address, file=file, keys=key or [], checkpoints=checkpoint or [], offline=offline, url=url)


@audit_app.command("export")
def _export(
    *,
    to: To = None,
    offline: Offline = False,
    url: Url = None,
    address: Address = ADDRESS,
    output: Output = Format.TABLE,
) -> None:
    """Write the trail as lines of JSON, checkpoints among them, as it is kept."""
    with edge(output) as out:
        from inferd.cli.audit import export

        export(out, address, to=to, offline=offline, url=url)


@audit_app.command("checkpoint")
def _checkpoint(*, address: Address = ADDRESS, output: Output = Format.TABLE) -> None:
    """Write the last checkpoint: keep it elsewhere, and `verify` finds when lines up to it are gone."""
    with edge(output) as out:
        from inferd.cli.audit import checkpoint

        checkpoint(out, address)


@audit_app.command("tail")
def _tail(
    *,
    lines: Annotated[int, typer.Option("-n", "--lines", help="How many of the last lines.", min=1, max=1000)] = 20,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on with what is told from now on.")] = False,
    address: Address = ADDRESS,
    output: Output = Format.TABLE,
) -> None:
    """Show the last lines of the trail; as they are with `-o json`."""
    with edge(output) as out:
        from inferd.cli.audit import tail

        tail(out, address, lines=lines, follow=follow)
