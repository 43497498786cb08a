"""The commands of `inferd hosts`, and `inferd logs`: their options."""

from typing import Annotated

import typer

from inferd.cli.host_commands import invite_app
from inferd.cli.options import ADDRESS, Address, Interval, Output, Watch, read_pairs, text_option
from inferd.cli.output import Format, edge

HostArgument = Annotated[
    str, typer.Argument(help="The host, as `inferd hosts` lists it; the kernel's own is local.", metavar="HOST")
]
Labels = Annotated[
    list[str] | None,
    typer.Option("--label", "-l", help="Only hosts that have it; may be repeated.", metavar="KEY=VALUE"),
]

Reason = Annotated[str, text_option(help="Why, for people: told with the host.", metavar="TEXT")]

hosts_app = typer.Typer(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
log_app = typer.Typer()


@hosts_app.callback()
def _hosts(
    context: typer.Context,
    *,
    label: Labels = None,
    watch: Watch = False,
    address: Address = ADDRESS,
    output: Output = Format.TABLE,
) -> None:
    """List the hosts of a kernel: how they stand, what they hold, and how long nothing was heard of them."""
    if context.invoked_subcommand is None:
        _list(label=label, watch=watch, address=address, output=output)


@hosts_app.command("ls", hidden=True)
@hosts_app.command("list")
def _list(
    *, label: Labels = None, watch: Watch = False, address: Address = ADDRESS, output: Output = Format.TABLE
) -> None:
    """List the hosts of a kernel, as `inferd hosts` does."""
    with edge(output) as out:
        from inferd.cli.hosts import list_hosts

        list_hosts(out, address, read_pairs(label, "--label"), watch=watch)


@hosts_app.command("show")
def _show(host: HostArgument, *, address: Address = ADDRESS, output: Output = Format.TABLE) -> None:
    """Tell all of a host: its devices and who holds them, labels, backends and models."""
    with edge(output) as out:
        from inferd.cli.hosts import show_host

        show_host(out, address, host)


@hosts_app.command("cordon")
def _cordon(
    host: HostArgument, *, reason: Reason = "", address: Address = ADDRESS, output: Output = Format.TABLE
) -> None:
    """Let a host get no new instances; those that it has stay and take tasks, until `resume`."""
    with edge(output) as out:
        from inferd.cli.hosts import cordon

        cordon(out, address, host, reason=reason)


@hosts_app.command("drain")
def _drain(
    host: HostArgument,
    *,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Return at once; it goes on.")] = False,
    reason: Reason = "",
    address: Address = ADDRESS,
    output: Output = Format.TABLE,
) -> None:
    """Empty a host and wait until nothing is left of it: tasks end there, and instances come up elsewhere first."""
    with edge(output) as out:
        from inferd.cli.hosts import drain

        drain(out, address, host, waits=not no_wait, reason=reason)


@hosts_app.command("resume")
def _resume(host: HostArgument, *, address: Address = ADDRESS, output: Output = Format.TABLE) -> None:
    """Let a host that drains or is cordoned take instances again."""
    with edge(output) as out:
        from inferd.cli.hosts import resume

        resume(out, address, host)


@hosts_app.command("rm")
def _remove(
    host: HostArgument,
    *,
    force: Annotated[bool, typer.Option("--force", help="Though something is left: tasks go on elsewhere.")] = False,
    revoke: Annotated[bool, typer.Option("--revoke", help="Its credential holds no longer, too.")] = False,
    address: Address = ADDRESS,
    output: Output = Format.TABLE,
) -> None:
    """Know a host no longer; one that is not lost has to be drained first."""
    with edge(output) as out:
        from inferd.cli.hosts import remove

        remove(out, address, host, force=force, revoke=revoke)


@hosts_app.command("watch")
def _watch(
    host: Annotated[str, typer.Argument(help="One host. Default: all.", metavar="[HOST]")] = "",
    *,
    interval: Interval = 1.0,
    address: Address = ADDRESS,
    output: Output = Format.TABLE,
) -> None:
    """Tell of hosts as they change, a line each, until Ctrl-C."""
    with edge(output) as out:
        from inferd.cli.hosts import watch

        watch(out, address, host, interval_s=interval)


@log_app.command("logs")
def _logs(
    instance: Annotated[str, typer.Argument(help="An instance, see `inferd ps`.", metavar="INSTANCE")],
    *,
    tail: Annotated[int | None, typer.Option(help="Bytes before its end. Default 65536.", min=1, metavar="N")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until its worker has ended.")] = False,
    address: Address = ADDRESS,
    output: Output = Format.TABLE,
) -> None:
    """Read the log of an instance's worker, also of one that has ended."""
    with edge(output) as out:
        from inferd.cli.hosts import read_log

        read_log(out, address, instance, tail_bytes=tail, follow=follow)


hosts_app.registered_commands += invite_app.registered_commands
