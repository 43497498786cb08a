"""The commands of `inferd quotas` and their options."""

from typing import Annotated

import typer

from inferd.cli.options import ADDRESS, Address, Output, parse_size, text_option
from inferd.cli.output import Format, edge

QuotaArgument = Annotated[str, typer.Argument(help="Id of the quota; its beginning is enough.", metavar="QUOTA_ID")]
Tenants = Annotated[
    str, text_option("--tenants", help="Pattern of tenants, each of which has all of it.", metavar="PATTERN")
]
Models = Annotated[str, text_option("--models", help="Pattern of models, which count together.", metavar="PATTERN")]
Requests = Annotated[int | None, typer.Option(help="Tasks that are made in a minute.", min=0, metavar="N")]
Tokens = Annotated[int | None, typer.Option(help="Tokens read and written in a minute.", min=0, metavar="N")]
Tasks = Annotated[int | None, typer.Option(help="Tasks that have not ended.", min=0, metavar="N")]
Inputs = Annotated[
    int | None, typer.Option(parser=parse_size, help="Memory of inputs of tasks, as 100MB.", metavar="SIZE")
]
Leased = Annotated[
    int | None, typer.Option(parser=parse_size, help="Memory that leases hold or wait for, as 4GB.", metavar="SIZE")
]
LeasedSequences = Annotated[
    int | None, typer.Option(help="Sequences of models that leases hold or wait for.", min=0, metavar="N")
]
Device = Annotated[float | None, typer.Option(help="Seconds of devices in 24 hours.", min=0, metavar="S")]

quota_app = typer.Typer(
    help="How much tenants may use.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@quota_app.command("create")
def _create(
    *,
    tenants: Tenants = "*",
    models: Models = "*",
    requests_per_minute: Requests = None,
    tokens_per_minute: Tokens = None,
    tasks: Tasks = None,
    input_bytes: Inputs = None,
    lease_bytes: Leased = None,
    lease_sequences: LeasedSequences = None,
    device_seconds_per_day: Device = None,
    address: Address = ADDRESS,
    output: Output = Format.TABLE,
) -> None:
    """Limit what each tenant may use, from now on."""
    limits = {
        "requests_per_minute": requests_per_minute,
        "tokens_per_minute": tokens_per_minute,
        "tasks": tasks,
        "input_bytes": input_bytes,
        "lease_bytes": lease_bytes,
        "lease_sequences": lease_sequences,
        "device_seconds_per_day": device_seconds_per_day,
    }
    with edge(output) as out:
        from inferd.cli.quotas import create

        create(out, address, tenants=tenants, models=models, limits=limits)


@quota_app.command("list")
def _list(*, address: Address = ADDRESS, output: Output = Format.TABLE) -> None:
    """List quotas, and what tenants use of them."""
    with edge(output) as out:
        from inferd.cli.quotas import list_all

        list_all(out, address)


@quota_app.command("rm")
def _delete(quota_id: QuotaArgument, *, address: Address = ADDRESS, output: Output = Format.TABLE) -> None:
    """Take away a quota that was made by `create`."""
    with edge(output) as out:
        from inferd.cli.quotas import delete

        delete(out, address, quota_id)
