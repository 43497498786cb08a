"""The commands `inferd federate`, and their options."""

from pathlib import Path
from typing import Annotated

import typer

from inferd.cli.options import ADDRESS, Address, Output, Tenant, Watch, text_option
from inferd.cli.output import Format, edge

IdArgument = Annotated[str, typer.Argument(help="Id of the federation; its beginning is enough.", metavar="ID")]
Rows = Annotated[Path, typer.Option("--data", help="Rows: JSON Lines.", exists=True, dir_okay=False, metavar="FILE")]

federate_app = typer.Typer(
    help="Federations: weights that clients train together, whose data stays with them.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@federate_app.command("create")
def _create(
    plan: Annotated[Path, typer.Argument(help="The plan, in TOML.", exists=True, dir_okay=False, metavar="FILE")],
    *,
    address: Address = ADDRESS,
    tenant: Tenant = "",
    output: Output = Format.TABLE,
) -> None:
    """Make a federation, and tell its id; its rounds begin when enough clients have joined."""
    with edge(output) as out:
        from inferd.cli.federations import create

        create(out, address, tenant, plan)


@federate_app.command("join")
def _join(
    coordinator: Annotated[str, typer.Argument(help="Address of the kernel that coordinates.", metavar="ADDRESS")],
    *,
    federation: Annotated[str, text_option("--federation", help="Id of the federation.", metavar="ID")],
    data: Rows,
    kernel: Annotated[str, text_option("--kernel", help="The own kernel, which trains.", metavar="ADDRESS")] = "",
    name: Annotated[str, text_option("--name", help="What people call this client.", metavar="TEXT")] = "",
    tenant: Annotated[str, text_option("--tenant", help="Of the federation, there.", metavar="T")] = "",
    credential_file: Annotated[
        Path | None,
        typer.Option("--credential-file", help="The login there.", exists=True, dir_okay=False, metavar="FILE"),
    ] = None,
    ca_file: Annotated[
        Path | None,
        typer.Option("--ca-file", help="Who signs its certificate.", exists=True, dir_okay=False, metavar="FILE"),
    ] = None,
    cert_file: Annotated[
        Path | None,
        typer.Option("--cert-file", help="The own certificate.", exists=True, dir_okay=False, metavar="FILE"),
    ] = None,
    key_file: Annotated[
        Path | None, typer.Option("--key-file", help="The key of it.", exists=True, dir_okay=False, metavar="FILE")
    ] = None,
    identity: Annotated[
        Path | None,
        typer.Option("--identity", help="A file that has who this client is, for the next start.", dir_okay=False),
    ] = None,
    record: Annotated[
        Path | None,
        typer.Option(
            "--record", help="A folder for each update as it is before it is masked.", exists=True, file_okay=False
        ),
    ] = None,
    output: Output = Format.TABLE,
) -> None:
    """Take part in a federation with own rows, which the own kernel trains on, until it has ended."""
    with edge(output) as out:
        from inferd.cli.federations import join

        files = {
            "credential_file": credential_file,
            "ca_file": ca_file,
            "cert_file": cert_file,
            "key_file": key_file,
        }
        join(
            out,
            coordinator,
            federation,
            data,
            kernel=kernel,
            tenant=tenant,
            name=name,
            identity=identity,
            record=record,
            login={option: path for option, path in files.items() if path is not None},
        )


@federate_app.command("list")
def _list(
    *, watch: Watch = False, address: Address = ADDRESS, tenant: Tenant = "", output: Output = Format.TABLE
) -> None:
    """List federations, newest first."""
    with edge(output) as out:
        from inferd.cli.federations import list_federations

        list_federations(out, address, tenant, watch=watch)


@federate_app.command("show")
def _show(
    federation: IdArgument,
    *,
    weights: Annotated[
        Path | None, typer.Option("--weights", help="Write the weights here, as safetensors.", dir_okay=False)
    ] = None,
    address: Address = ADDRESS,
    tenant: Tenant = "",
    output: Output = Format.TABLE,
) -> None:
    """Show a federation and what came of its rounds."""
    with edge(output) as out:
        from inferd.cli.federations import show

        show(out, address, tenant, federation, weights=weights)


@federate_app.command("watch")
def _watch(
    federation: IdArgument, *, address: Address = ADDRESS, tenant: Tenant = "", output: Output = Format.TABLE
) -> None:
    """Follow a federation until it has ended."""
    with edge(output) as out:
        from inferd.cli.federations import watch

        watch(out, address, tenant, federation)


@federate_app.command("judge")
def _judge(
    federation: IdArgument,
    *,
    data: Rows,
    address: Address = ADDRESS,
    tenant: Tenant = "",
    output: Output = Format.TABLE,
) -> None:
    """Tell how good the weights of a federation are on rows."""
    with edge(output) as out:
        from inferd.cli.federations import judge

        judge(out, address, tenant, federation, data)


@federate_app.command("cancel")
def _cancel(
    federation: IdArgument, *, address: Address = ADDRESS, tenant: Tenant = "", output: Output = Format.TABLE
) -> None:
    """End a federation."""
    with edge(output) as out:
        from inferd.cli.federations import cancel

        cancel(out, address, tenant, federation)


@federate_app.command("rm")
def _remove(
    federation: IdArgument, *, address: Address = ADDRESS, tenant: Tenant = "", output: Output = Format.TABLE
) -> None:
    """Delete a federation that has ended, with its weights."""
    with edge(output) as out:
        from inferd.cli.federations import remove

        remove(out, address, tenant, federation)
