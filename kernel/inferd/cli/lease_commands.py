"""The commands of `inferd lease` and their options."""

from typing import Annotated

import typer

from inferd.cli.options import (
    ADDRESS,
    Address,
    Class,
    Output,
    Tenant,
    Watch,
    parse_seconds,
    parse_size,
    parse_ttl,
    text_option,
)
from inferd.cli.output import Format, edge

Memory = Annotated[
    int | None, typer.Option(parser=parse_size, help='Memory of the device, like "4GiB" or "512MB".', metavar="SIZE")
]
Cores = Annotated[int | None, typer.Option(help="Processor cores of the device.", min=1, metavar="N")]
Device = Annotated[str, text_option(help="The device of --memory and --cores. Default cpu:0.", metavar="DEVICE")]
Selector = Annotated[
    list[str] | None,
    typer.Option(help="A label of the host of --memory and --cores; may be repeated.", metavar="NAME=VALUE"),
]
Model = Annotated[str, text_option(help="A model that stays loaded.", metavar="MODEL")]
Sequences = Annotated[int | None, typer.Option(help="Places of --model for tasks.", min=1, metavar="N")]
KvTokens = Annotated[int | None, typer.Option(help="Room of --model for tokens of tasks.", min=1, metavar="N")]
Ttl = Annotated[
    float | None,
    typer.Option(parser=parse_ttl, help="Seconds that it holds unless kept alive. Default: the kernel's.", metavar="S"),
]
Priority = Annotated[Class | None, typer.Option(help="Its class among waiting leases.")]
Wait = Annotated[bool, typer.Option("--wait", help="Wait for room instead of failing.")]
WaitTimeout = Annotated[
    float | None, typer.Option(parser=parse_seconds, help="Longest wait in seconds; implies --wait.", metavar="S")
]
Label = Annotated[list[str] | None, typer.Option(help="A mark of yours; may be repeated.", metavar="NAME=VALUE")]
Grace = Annotated[
    float, typer.Option(parser=parse_seconds, help="Seconds between SIGTERM and SIGKILL at the end.", metavar="S")
]
LeaseArgument = Annotated[str, typer.Argument(help="Id of the lease.", metavar="LEASE_ID")]
LeaseArguments = Annotated[list[str], typer.Argument(help="Ids of leases.", metavar="LEASE_ID...")]

lease_app = typer.Typer(
    help="Hold memory, cores or a part of a model.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@lease_app.command("create")
def _create(
    *,
    memory: Memory = None,
    cores: Cores = None,
    device: Device = "",
    selector: Selector = None,
    model: Model = "",
    sequences: Sequences = None,
    kv_tokens: KvTokens = None,
    ttl: Ttl = None,
    priority: Priority = None,
    wait: Wait = False,
    wait_timeout: WaitTimeout = None,
    label: Label = None,
    address: Address = ADDRESS,
    tenant: Tenant = "",
    output: Output = Format.TABLE,
) -> None:
    """Claim capacity and print the lease's id; it ends after its TTL unless it is kept alive."""
    with edge(output) as out:
        from inferd.cli.claim import read_claims, read_options
        from inferd.cli.leases import create

        claims = read_claims(
            memory_bytes=memory,
            cores=cores,
            device=device,
            selector=selector,
            model=model,
            sequences=sequences,
            kv_tokens=kv_tokens,
        )
        options = read_options(ttl_s=ttl, priority=priority, wait=wait, wait_timeout_s=wait_timeout, labels=label)
        create(out, address, tenant, claims, options)


@lease_app.command("run", context_settings={"allow_interspersed_args": False})
def _run(
    command: Annotated[list[str], typer.Argument(help="The program and its arguments.", metavar="CMD [ARGS]")],
    *,
    memory: Memory = None,
    cores: Cores = None,
    device: Device = "",
    selector: Selector = None,
    model: Model = "",
    sequences: Sequences = None,
    kv_tokens: KvTokens = None,
    ttl: Ttl = None,
    priority: Priority = None,
    wait: Wait = False,
    wait_timeout: WaitTimeout = None,
    label: Label = None,
    grace: Grace = 5.0,
    address: Address = ADDRESS,
    tenant: Tenant = "",
    output: Output = Format.TABLE,
) -> None:
    """Hold capacity while a program runs, and end with its exit code.

    The program finds the lease's id in INFERD_LEASE, and gets the signals that this command is sent. Should the lease
    be lost, or this command be killed, it and all that it started get SIGTERM, then SIGKILL; the exit code is 75. What
    it leaves running is ended too, before the lease is given back. With -o json what this command itself says is JSON
    lines on stderr: stdout is the program's.
    """
    with edge(output, errors=True) as out:
        from inferd.cli.claim import read_claims, read_options
        from inferd.cli.program import run_under_lease

        claims = read_claims(
            memory_bytes=memory,
            cores=cores,
            device=device,
            selector=selector,
            model=model,
            sequences=sequences,
            kv_tokens=kv_tokens,
        )
        options = read_options(ttl_s=ttl, priority=priority, wait=wait, wait_timeout_s=wait_timeout, labels=label)
        raise typer.Exit(run_under_lease(out, address, tenant, command, claims=claims, options=options, grace_s=grace))


@lease_app.command("keep")
def _keep(
    lease_ids: LeaseArguments,
    *,
    ttl: Ttl = None,
    once: Annotated[bool, typer.Option("--once", help="Keep them alive for one TTL more, and end.")] = False,
    address: Address = ADDRESS,
    tenant: Tenant = "",
    output: Output = Format.TABLE,
) -> None:
    """Keep leases alive until Ctrl-C, however often a call fails; the exit code is 1 when one of them has ended."""
    with edge(output) as out:
        from inferd.cli.keep import keep

        keep(out, address, tenant, lease_ids, ttl_s=ttl, once=once)


@lease_app.command("release")
def _release(
    lease_ids: LeaseArguments, *, address: Address = ADDRESS, tenant: Tenant = "", output: Output = Format.TABLE
) -> None:
    """Give leases back."""
    with edge(output) as out:
        from inferd.cli.leases import release

        release(out, address, tenant, lease_ids)


@lease_app.command("list")
def _list(
    *,
    everything: Annotated[bool, typer.Option("--all", help="With those that have ended.")] = False,
    watch: Watch = False,
    address: Address = ADDRESS,
    tenant: Tenant = "",
    output: Output = Format.TABLE,
) -> None:
    """List leases, oldest first."""
    with edge(output) as out:
        from inferd.cli.leases import list_leases

        list_leases(out, address, tenant, with_ended=everything, watch=watch)


@lease_app.command("watch")
def _watch(
    lease_id: LeaseArgument, *, address: Address = ADDRESS, tenant: Tenant = "", output: Output = Format.TABLE
) -> None:
    """Show each change of a lease, to its end."""
    with edge(output) as out:
        from inferd.cli.leases import watch

        watch(out, address, tenant, lease_id)
