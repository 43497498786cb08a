"""`inferd top`: what the kernel holds and does, live."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import termios
import tty
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Group
from rich.live import Live
from rich.text import Text

from inferd.cli.amounts import size
from inferd.cli.kernel import connected
from inferd.cli.leases import ACTIVE, COLUMNS, PENDING, row
from inferd.cli.output import screen, table_of, uncut
from inferd.cli.plain import plain
from inferd.cli.quotas import USE_COLUMNS, fullest, use_row
from inferd.cli.tasks import class_name
from inferd.cli.visible import visible_line
from inferd_api.v1.model_pb2 import InstanceState
from inferd_client import AsyncClient, KernelUnreachableError
from inferd_client.errors import KernelTooOldError, PermissionDeniedError, ShuttingDownError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator, Sequence

    from rich.console import RenderableType

    from inferd.cli.output import Output
    from inferd_api.v1.host_pb2 import Device, Host, TenantLoad
    from inferd_api.v1.host_service_pb2 import WatchHostResponse
    from inferd_api.v1.lease_pb2 import Lease
    from inferd_api.v1.model_pb2 import Instance
    from inferd_api.v1.quota_pb2 import QuotaUse

MOST_LEASES = 20  # that are shown
MOST_QUOTAS = 10  # that are shown, of so many:
MOST_USES = 1000
QUIT = b"qQ"


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """How things stand; of the leases the tenant's that are held or wait, the oldest ones, of quotas the fullest."""

    told: WatchHostResponse
    leases: Sequence[Lease]
    quotas: Sequence[QuotaUse] = ()

    def plain(self) -> dict[str, object]:
        """For JSON."""
        leases, quotas = ([*map(plain, each)] for each in (self.leases, self.quotas))
        return {**plain(self.told), "leases": leases, "quota_uses": quotas}


def top(output: Output, address: str, tenant: str, *, interval_s: float, once: bool) -> None:
    """Show how things stand, again and again until `q` or Ctrl-C; once only where stdout is no terminal."""
    with connected(address, tenant) as client:  # for its errors
        once = once or not (output.json or sys.stdout.isatty())
        asyncio.run(_top(output, client.address, tenant, interval_s, once=once))


async def _top(output: Output, address: str, tenant: str, interval_s: float, *, once: bool) -> None:
    async with AsyncClient(address, tenant=tenant) as client, aclosing(_looks(client, interval_s)) as looks:
        if once:
            look = await anext(looks)
            if output.json:
                output.document(look.plain())
            else:
                screen().print(render(look))
        elif output.json:
            async for look in looks:
                output.line(look.plain())
        else:
            await _show(looks)


async def _looks(client: AsyncClient, interval_s: float) -> AsyncGenerator[Look]:
    async with aclosing(client.watch_host(interval_s=interval_s)) as hosts:
        async for told in hosts:
            leases: list[Lease] = []
            with contextlib.suppress(KernelUnreachableError, ShuttingDownError):  # the next look is of one that is back
                async with aclosing(client.list_leases(states=(PENDING, ACTIVE))) as living:
                    async for lease in living:
                        leases.append(lease)
                        if len(leases) == MOST_LEASES:
                            break
            yield Look(told=told, leases=leases, quotas=await _quotas(client))


async def _quotas(client: AsyncClient) -> Sequence[QuotaUse]:
    """The fullest of the first; none for who may not read them, or of an older kernel."""
    uses: list[QuotaUse] = []
    unseen = (KernelUnreachableError, ShuttingDownError, PermissionDeniedError, KernelTooOldError)
    with contextlib.suppress(*unseen):
        async with aclosing(client.list_quota_uses()) as found:
            async for use in found:
                uses.append(use)
                if len(uses) == MOST_USES:
                    break
    return fullest(uses, MOST_QUOTAS)


async def _show(looks: AsyncGenerator[Look]) -> None:
    """Show each look in place of the one before, until a key ends it."""
    with Live(console=screen(), screen=True, auto_refresh=False) as live, _keys() as ended:

        async def follow() -> None:
            async for look in looks:
                live.update(render(look), refresh=True)

        following = asyncio.create_task(follow())
        ending = asyncio.create_task(ended.wait())
        try:
            await asyncio.wait((following, ending), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (following, ending):
                task.cancel()
            await asyncio.gather(following, ending, return_exceptions=True)
    if not following.cancelled():
        following.result()  # the kernel has ended the stream: its error is the command's


@contextlib.contextmanager
def _keys() -> Iterator[asyncio.Event]:
    """Set the event that is given when `q` is typed; the terminal is as it was when the block ends."""
    ended = asyncio.Event()
    if not sys.stdin.isatty():
        yield ended
        return
    terminal, loop = sys.stdin.fileno(), asyncio.get_running_loop()

    def read() -> None:
        typed = os.read(terminal, 64)
        if not typed or any(key in QUIT for key in typed):
            loop.remove_reader(terminal)
            ended.set()

    before = termios.tcgetattr(terminal)
    tty.setcbreak(terminal)
    loop.add_reader(terminal, read)
    try:
        yield ended
    finally:
        loop.remove_reader(terminal)
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def render(look: Look) -> RenderableType:
    """Tables for people; what is empty is left out."""
    host = look.told.host
    parts: list[RenderableType] = [
        Text(visible_line(summary(host))),
        *(Text(visible_line(f"! {warning}"), style="yellow") for warning in host.warnings),
        "",
        table_of(
            ("DEVICE", "CAPACITY", "INSTANCES", "LEASES", "OTHERS", "FREE", "CORES LEASED"),
            map(_device, host.devices),
        ),
    ]
    for columns, rows in (
        (
            ("INSTANCE", "LEASE", "MODEL", "STATE", "DEVICE", "RESERVED", "MEASURED", "TASKS"),
            map(_instance, look.told.instances),
        ),
        (("TENANT", "CLASS", "WAITING", "RUNNING"), map(_load, host.loads)),
        (USE_COLUMNS, map(use_row, look.quotas)),
        (COLUMNS, map(row, look.leases)),
    ):
        way = "WAITS FOR" if "WAITS FOR" in columns else ""
        table = table_of(columns, rows, gives_way=way, width=screen().width)
        if table.row_count:
            parts += ["", uncut(table)]
    return Group(*parts)


def summary(host: Host) -> str:
    """The first line."""
    return " · ".join(
        (
            f"inferd {host.version} on {host.name}",
            f"{host.tokens_per_second:.1f} tok/s",
            f"{host.running_tasks} running",
            f"{host.queued_tasks} waiting",
            f"{host.leases} lease{'' if host.leases == 1 else 's'}",
        )
    )


def _device(device: Device) -> tuple[str, ...]:
    capacity, instances, leases, foreign, free = map(
        size,
        (
            device.capacity_bytes,
            device.instance_bytes,
            device.lease_bytes,
            device.foreign_bytes,
            device.free_bytes,
        ),
    )
    foreign += "?" if device.unmeasured else ""
    return (
        device.device_id,
        capacity,
        instances,
        leases,
        foreign,
        free,
        f"{device.leased_cores}/{device.cores}" if device.cores else "",
    )


def _instance(instance: Instance) -> tuple[str, ...]:
    state = InstanceState.Name(instance.state).removeprefix("INSTANCE_STATE_").lower()
    loading = instance.state == InstanceState.INSTANCE_STATE_LOADING
    return (
        instance.instance_id,
        instance.lease_id,
        instance.model,
        f"{state} {instance.load_fraction:.0%}" if loading else state,
        " ".join((instance.device, *instance.devices_beside)),
        size(instance.reserved_bytes),
        size(instance.memory_bytes),
        f"{instance.running_tasks}/{instance.max_tasks}",
    )


def _load(load: TenantLoad) -> tuple[str, ...]:
    return load.tenant, class_name(load.priority), str(load.queued_tasks), str(load.running_tasks)
