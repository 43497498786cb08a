"""The commands of `inferd blobs` and their options."""

from pathlib import Path
from typing import Annotated

import typer

from inferd.cli.options import ADDRESS, Address, Output, Tenant
from inferd.cli.output import Format, edge

Digest = Annotated[
    str, typer.Argument(help="Its digest, sha256:HEX; the beginning of HEX is enough.", metavar="DIGEST")
]

blob_app = typer.Typer(
    help="Leave files with the kernel, for many tasks to name.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@blob_app.command("put")
def _put(
    files: Annotated[list[Path], typer.Argument(help="The files.", metavar="FILE…")],
    *,
    address: Address = ADDRESS,
    tenant: Tenant = "",
    output: Output = Format.TABLE,
) -> None:
    """Give files and tell their digests; one that was interrupted goes on where it stopped."""
    with edge(output) as out:
        from inferd.cli.blobs import put

        put(out, address, tenant, files)


@blob_app.command("get")
def _get(
    digest: Digest,
    file: Annotated[Path, typer.Argument(help="Where it is written; - for stdout.", metavar="FILE")],
    *,
    address: Address = ADDRESS,
    tenant: Tenant = "",
    output: Output = Format.TABLE,
) -> None:
    """Read a blob into a file; one that was interrupted goes on where it stopped."""
    with edge(output) as out:
        from inferd.cli.blobs import get

        get(out, address, tenant, digest, file)


@blob_app.command("list")
def _list(*, address: Address = ADDRESS, tenant: Tenant = "", output: Output = Format.TABLE) -> None:
    """List the tenant's blobs, and who holds them."""
    with edge(output) as out:
        from inferd.cli.blobs import list_blobs

        list_blobs(out, address, tenant)


@blob_app.command("rm")
def _remove(digest: Digest, *, address: Address = ADDRESS, tenant: Tenant = "", output: Output = Format.TABLE) -> None:
    """Forget a blob; one that tasks or models hold is refused."""
    with edge(output) as out:
        from inferd.cli.blobs import remove

        remove(out, address, tenant, digest)
