"""`inferd lease create`, `release`, `list` and `watch`."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing, closing
from typing import TYPE_CHECKING

import typer

from inferd.cli.amounts import span
from inferd.cli.changing import Listing
from inferd.cli.claim import describe
from inferd.cli.kernel import connected
from inferd.cli.output import CommandError, command_error
from inferd.cli.plain import plain
from inferd.cli.prefix import by_prefix
from inferd.cli.tasks import class_name
from inferd_api.v1.lease_pb2 import Lease, LeaseState
from inferd_client import AsyncClient, InferdError
from inferd_client.holding import PAUSE_S, RENEWALS, check_granted

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from google.protobuf.duration_pb2 import Duration

    from inferd.cli.output import Output
    from inferd_api.v1.lease_pb2 import Claim
    from inferd_client import Client, LeaseOptions

COLUMNS = ("LEASE", "STATE", "HOLDS", "CLASS", "LEFT", "TASKS", "WAITS FOR")
PENDING, ACTIVE = LeaseState.LEASE_STATE_PENDING, LeaseState.LEASE_STATE_ACTIVE
SHORTEST_PAUSE_S = 0.05


def create(output: Output, address: str, tenant: str, claims: list[Claim], options: LeaseOptions) -> None:
    """Claim capacity, wait for it where that is wanted, and print the lease's id."""
    with connected(address, tenant) as client:
        lease = client.create_lease(*claims, **options)
        if lease.state == PENDING:  # waiting and keeping alive at once takes asyncio
            lease = asyncio.run(_wait_for_grant(output, client.address, tenant, lease))
    if output.json:
        output.document(plain(lease))
        return
    output.text(lease.lease_id)
    held, left = describe(list(lease.spec.claims)), span(_seconds(lease.remaining))
    output.note(f"{held} for {left}; keep it with: inferd lease keep {lease.lease_id}")


async def _wait_for_grant(output: Output, address: str, tenant: str, lease: Lease) -> Lease:
    async with AsyncClient(address, tenant=tenant) as client:
        keeping = asyncio.create_task(_keep_alive(client, lease))
        try:
            with output.status(waiting(lease)) as say:
                async with aclosing(client.watch_lease(lease.lease_id)) as leases:
                    async for now in leases:
                        if now.state != PENDING:
                            check_granted(now)
                            return now
                        say(waiting(now))
        except asyncio.CancelledError:  # Ctrl-C
            await client.release_lease(lease.lease_id)
            raise
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)
    return lease


async def _keep_alive(client: AsyncClient, lease: Lease) -> None:
    """Keep a lease alive that waits; what fails is tried again."""
    third_s = max(SHORTEST_PAUSE_S, _seconds(lease.spec.ttl) / RENEWALS)
    pause_s = third_s
    while True:
        await asyncio.sleep(pause_s)
        try:
            await client.keep_alive([lease.lease_id], timeout_s=third_s)
            pause_s = third_s
        except InferdError:
            pause_s = PAUSE_S  # should it end meanwhile, who watches it is told


def release(output: Output, address: str, tenant: str, lease_ids: Sequence[str]) -> None:
    """Give leases back; an unknown one does not spare the others.

    Raises:
        typer.Exit: One of them is not known: exit code 1.
    """
    failed = False
    with connected(address, tenant) as client:
        for lease_id in lease_ids:
            try:
                lease = by_prefix(client.release_lease, lease_id, _ids(client))
            except (InferdError, CommandError) as error:
                output.error(command_error(error))
                failed = True
                continue
            if output.json:
                output.line(plain(lease))
            else:
                output.text(f"{lease.lease_id} is {state(lease)}")
    if failed:
        raise typer.Exit(1)


def list_leases(output: Output, address: str, tenant: str, *, with_ended: bool, watch: bool = False) -> None:
    """List the tenant's leases, oldest first, or follow them."""
    listing = Listing(
        columns=COLUMNS,
        row=row,
        document=plain,
        empty="no leases; claim capacity with: inferd lease create --memory 4GiB",
        gives_way="WAITS FOR",
        goes=("CLASS", "TASKS"),
        moving=("LEFT",),
    )
    states = () if with_ended else (PENDING, ACTIVE)
    with connected(address, tenant) as client:
        listing.show(output, lambda: client.list_leases(states=states), name="leases", watch=watch)


def watch(output: Output, address: str, tenant: str, lease_id: str) -> None:
    """Show a lease as it stands and each change of it, to its end."""
    with connected(address, tenant) as client:
        found = by_prefix(client.get_lease, lease_id, _ids(client))
        with closing(client.watch_lease(found.lease_id)) as leases:
            for lease in leases:
                if output.json:
                    output.line(plain(lease))
                else:
                    output.text(" · ".join(part for part in (time.strftime("%H:%M:%S"), *_changes(lease)) if part))


def _ids(client: Client) -> Iterator[str]:
    return (lease.lease_id for lease in client.list_leases())


def _changes(lease: Lease) -> tuple[str, ...]:
    left = f"{span(_seconds(lease.remaining))} left" if lease.HasField("remaining") else ""
    tasks = f"{lease.tasks} task{'' if lease.tasks == 1 else 's'}" if lease.tasks else ""
    why = waiting(lease) if lease.state == PENDING else lease.error.message
    return state(lease), left, tasks, why


def row(lease: Lease) -> tuple[str, ...]:
    """A lease in a table, see `COLUMNS`."""
    return (
        lease.lease_id,
        state(lease),
        describe(list(lease.spec.claims)),
        class_name(lease.spec.priority),
        span(_seconds(lease.remaining)) if lease.HasField("remaining") else "",
        str(lease.tasks),
        lease.waits_for or lease.error.message,
    )


def state(lease: Lease) -> str:
    """The lease's state as a word."""
    return LeaseState.Name(lease.state).removeprefix("LEASE_STATE_").lower()


def waiting(lease: Lease) -> str:
    """What a lease waits for."""
    before = f", {lease.position} before it" if lease.position else ""
    about = f", about {span(_seconds(lease.eta))}" if lease.HasField("eta") else ""
    return f"waits for {lease.waits_for}{before}{about}"


def _seconds(duration: Duration) -> float:
    return duration.ToNanoseconds() / 1e9
