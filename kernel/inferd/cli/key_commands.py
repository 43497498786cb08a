"""The commands of `inferd keys` and their options."""

from pathlib import Path
from typing import Annotated

import typer

from inferd.cli.options import ADDRESS, Address, Output, parse_seconds
from inferd.cli.output import Format, edge

Principal = Annotated[str, typer.Argument(help="Who is to have the key.", metavar="PRINCIPAL")]
KeyArgument = Annotated[str, typer.Argument(help="Id of the key; its beginning is enough.", metavar="KEY_ID")]
Role = Annotated[
    list[str] | None,
    typer.Option(help="What it is: viewer, user, operator, admin, or one of yours; may be repeated.", metavar="ROLE"),
]
ForTenant = Annotated[
    list[str] | None,
    typer.Option("--for-tenant", help="A tenant that it may ask for, or '*'; may be repeated.", metavar="T"),
]
ExpiresIn = Annotated[
    float | None, typer.Option(parser=parse_seconds, help="Seconds until it ends. Default: never.", metavar="S")
]
Overlap = Annotated[
    float | None,
    typer.Option(help="Seconds that the one before holds, too. Default 3600.", min=0, metavar="S"),
]
Write = Annotated[
    Path | None,
    typer.Option("--write", help="Write the credential to this new file, not to stdout.", metavar="FILE"),
]

key_app = typer.Typer(
    help="Keys by which callers are known.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@key_app.command("create")
def _create(
    principal: Principal,
    *,
    role: Role = None,
    for_tenant: ForTenant = None,
    expires_in: ExpiresIn = None,
    write: Write = None,
    address: Address = ADDRESS,
    output: Output = Format.TABLE,
) -> None:
    """Make a key and tell its credential, once."""
    with edge(output) as out:
        from inferd.cli.keys import create

        create(
            out, address, principal, roles=role or (), tenants=for_tenant or (), expires_in_s=expires_in, write=write
        )


@key_app.command("list")
def _list(*, address: Address = ADDRESS, output: Output = Format.TABLE) -> None:
    """List keys, those too that have ended."""
    with edge(output) as out:
        from inferd.cli.keys import list_all

        list_all(out, address)


@key_app.command("revoke")
def _revoke(key_id: KeyArgument, *, address: Address = ADDRESS, output: Output = Format.TABLE) -> None:
    """Take a key back; what goes on with it ends."""
    with edge(output) as out:
        from inferd.cli.keys import revoke

        revoke(out, address, key_id)


@key_app.command("rotate")
def _rotate(
    key_id: KeyArgument,
    *,
    overlap: Overlap = None,
    write: Write = None,
    address: Address = ADDRESS,
    output: Output = Format.TABLE,
) -> None:
    """Give a key a new credential and tell it, once; the one before holds for a while, too."""
    with edge(output) as out:
        from inferd.cli.keys import rotate

        rotate(out, address, key_id, overlap_s=overlap, write=write)


@key_app.command("whoami")
def _whoami(*, address: Address = ADDRESS, output: Output = Format.TABLE) -> None:
    """Tell who the kernel takes this command for."""
    with edge(output) as out:
        from inferd.cli.keys import whoami

        whoami(out, address)
