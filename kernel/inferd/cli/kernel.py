"""Connections of commands to a kernel: the client's errors become the command line's."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING

import typer

from inferd.cli.output import CommandError, command_error
from inferd.cli.private import private_kernel
from inferd_client import Client, CredentialError, InferdError, KernelUnreachableError
from inferd_client.tls import has_tls

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from inferd.cli.output import Output
    from inferd.cli.private import StartingKernel


@contextmanager
def connected(address: str, tenant: str = "", *, credential: str | None = None) -> Iterator[Client]:
    """A client of the kernel at `address`, "" for the one that is found.

    Its credential is that of the environment unless one is given.

    Raises:
        CommandError: There is no such credential, or a call inside the block failed and was not caught there.
    """
    try:
        client = Client(address or None, tenant=tenant, credential=credential)
    except CredentialError as error:
        raise CommandError(str(error), reason="CREDENTIAL_INVALID") from None
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--address") from None
    try:
        with client:
            yield client
    except InferdError as error:
        raise command_error(error) from None


def reachable(client: Client) -> bool:
    """Whether a kernel answers."""
    try:
        client.get_host()
    except KernelUnreachableError:
        if has_tls(client.address) or len(client.addresses) > 1:
            raise  # a kernel of a network is meant, and none here is as good
        return False
    return True


def alias_owner(name: str) -> str:
    """The model that a name stands for with the kernel of this machine; "" where it is no alias, or none answers."""
    with suppress(CommandError, typer.BadParameter), connected("") as client:
        if not has_tls(client.address) and reachable(client):
            model = client.get_model(name)
            return model.name if name in model.aliases else ""
    return ""


@contextmanager
def connected_or_private(
    output: Output, address: str, tenant: str, *, before: Callable[[], None], ahead: StartingKernel | None = None
) -> Iterator[Client]:
    """A client of the kernel at `address`; where none answers, of one that lives as long as the block.

    Args:
        output: Where it is told that one is started.
        address: Of the kernel.
        tenant: Whose tasks are meant.
        before: Is called before one is started, and raises where it would be of no use.
        ahead: One that was started before, for nobody listens at the address.

    Raises:
        CommandError: As `connected`, `private_kernel` and `before`.
    """
    with ExitStack() as stack:
        client = stack.enter_context(connected(address, tenant))
        if ahead is not None or not reachable(client):
            if ahead is None:
                before()
            away = client.address
            with output.status(f"no kernel at {away}; starting a private one"):
                started_address, pid = stack.enter_context(private_kernel()) if ahead is None else ahead.ready()
            output.note(f"no kernel at {away}; started a private one (pid {pid})")
            client = stack.enter_context(connected(started_address, tenant, credential=""))
        yield client
