"""The commands of `inferd functions` and their options."""

from typing import Annotated

import typer

from inferd.cli.options import ADDRESS, Address, Class, LeaseOption, Output, Tenant, text_option
from inferd.cli.output import Format, edge

NameArgument = Annotated[str, typer.Argument(help="Name of the function.", metavar="NAME")]
Input = Annotated[
    str, text_option("--input", help="Its parameters, a JSON object; @FILE reads one, - stdin.", metavar="JSON")
]
VersionOption = Annotated[
    int, typer.Option("--version", help="Its version. Default: the highest.", min=0, metavar="N", show_default=False)
]

_HELP = {"help_option_names": ["-h", "--help"]}
function_app = typer.Typer(help="Functions, and calls of them.", no_args_is_help=True, context_settings=_HELP)


@function_app.command("list")
def _list(
    *,
    every: Annotated[bool, typer.Option("--all", help="Those, too, that the kernel itself calls.")] = False,
    address: Address = ADDRESS,
    tenant: Tenant = "",
    output: Output = Format.TABLE,
) -> None:
    """List functions."""
    with edge(output) as out:
        from inferd.cli.functions import list_functions

        list_functions(out, address, tenant, every=every)


@function_app.command("show")
def _show(
    name: NameArgument,
    *,
    version: VersionOption = 0,
    address: Address = ADDRESS,
    tenant: Tenant = "",
    output: Output = Format.TABLE,
) -> None:
    """Show what a function takes and gives."""
    with edge(output) as out:
        from inferd.cli.functions import show

        show(out, address, tenant, name, version=version)


@function_app.command("call")
def _call(
    name: NameArgument,
    *,
    given: Input = "{}",
    version: VersionOption = 0,
    priority: Annotated[Class | None, typer.Option(help="Its class: a higher one goes first.")] = None,
    lease: LeaseOption = "",
    detach: Annotated[
        bool, typer.Option("--detach", help="Leave the call with the kernel, which keeps it, and tell its id.")
    ] = False,
    address: Address = ADDRESS,
    tenant: Tenant = "",
    output: Output = Format.TABLE,
) -> None:
    """Call a function and tell what it gives, each piece as it comes."""
    with edge(output) as out:
        from inferd.cli.functions import call

        call(
            out,
            address,
            tenant,
            name,
            given,
            version=version,
            detach=detach,
            options={"priority": None if priority is None else priority.value, "lease": lease or None},
        )
