"""The commands of `inferd dialogue` and their options."""

from typing import Annotated

import typer

from inferd.cli.options import ADDRESS, Address, Output, Tenant, text_option
from inferd.cli.output import Format, edge

NameArgument = Annotated[str, typer.Argument(help="Name of the conversation.", metavar="NAME")]
_HELP = {"help_option_names": ["-h", "--help"]}
dialogue_app = typer.Typer(help="Conversations that the kernel keeps.", no_args_is_help=True, context_settings=_HELP)


@dialogue_app.command("say")
def _say(
    name: NameArgument,
    message: Annotated[str, typer.Argument(help="What is said.", metavar="MESSAGE")],
    *,
    model: Annotated[str, text_option("--model", help="Who answers.", metavar="MODEL")],
    system: Annotated[
        str, text_option("--system", help="What the model is told before all else.", metavar="TEXT")
    ] = "",
    context_tokens: Annotated[
        int, typer.Option(help="Most tokens of what it is given and writes. Default: as many as it can.", min=0)
    ] = 0,
    most_tokens: Annotated[int, typer.Option(help="Most tokens that it writes.", min=1, max=4096)] = 256,
    address: Address = ADDRESS,
    tenant: Tenant = "",
    output: Output = Format.TABLE,
) -> None:
    """Say something in a conversation, and tell what the model answers; a new name begins one."""
    with edge(output) as out:
        from inferd.cli.dialogues import say

        asked = {"session": name, "message": message, "model": model, "system": system}
        say(out, address, tenant, **asked, context_tokens=context_tokens, most_tokens=most_tokens)


@dialogue_app.command("show")
def _show(
    name: NameArgument, *, address: Address = ADDRESS, tenant: Tenant = "", output: Output = Format.TABLE
) -> None:
    """Show a conversation."""
    with edge(output) as out:
        from inferd.cli.dialogues import show

        show(out, address, tenant, name)


@dialogue_app.command("list")
def _list(*, address: Address = ADDRESS, tenant: Tenant = "", output: Output = Format.TABLE) -> None:
    """List conversations."""
    with edge(output) as out:
        from inferd.cli.dialogues import list_dialogues

        list_dialogues(out, address, tenant)


@dialogue_app.command("rm")
def _remove(
    name: NameArgument, *, address: Address = ADDRESS, tenant: Tenant = "", output: Output = Format.TABLE
) -> None:
    """Forget a conversation."""
    with edge(output) as out:
        from inferd.cli.dialogues import remove

        remove(out, address, tenant, name)
