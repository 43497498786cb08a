"""`inferd hosts` and `inferd logs`: hosts as they stand, and what operators want of them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from inferd.cli.amounts import counted, size, span
from inferd.cli.changing import Listing
from inferd.cli.kernel import connected
from inferd.cli.models import pairs
from inferd.cli.output import screen, table_of
from inferd.cli.plain import plain
from inferd_api.v1.host_pb2 import HOST_STATE_DRAINING, HOST_STATE_JOINING, HOST_STATE_LOST, HostState

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from inferd.cli.output import Output
    from inferd_api.v1.host_pb2 import Device, Host

COLUMNS = ("HOST", "STATE", "DEVICES", "FREE", "MODELS", "LOAD", "LAG", "VERSION", "LABELS", "WHY")
SHOWN_MODELS = 4


def list_hosts(output: Output, address: str, labels: Mapping[str, str], *, watch: bool = False) -> None:
    """List hosts, or follow them."""
    listing = Listing(
        columns=COLUMNS,
        row=row,
        document=plain,
        empty="no host has these labels",
        gives_way="WHY",
        goes=("VERSION", "LAG", "LABELS", "DEVICES", "MODELS"),
        moving=("LAG", "FREE"),
    )
    with connected(address) as client:
        listing.show(output, lambda: client.list_hosts(labels=labels), name="hosts", watch=watch)


def show_host(output: Output, address: str, host_id: str) -> None:
    """Tell all of a host."""
    with connected(address) as client:
        host = client.get_host(host_id)
    if output.json:
        output.document(plain(host))
        return
    facts = {
        "state": _state(host),
        "why": _why(host),
        "labels": pairs(host.labels),
        "backends": ", ".join(host.backends),
        "models": ", ".join(host.models),
        "instances": str(host.instances or ""),
        "load": _load(host),
        "leases": str(host.held_leases or ""),
        "heard": f"{span(host.silence.ToNanoseconds() / 1e9)} ago" if host.HasField("silence") else "",
        "version": host.version,
        "system": host.os,
    }
    rows = [*((name, fact) for name, fact in facts.items() if fact), *_devices(host.devices)]
    screen().print(table_of(("HOST", host.host_id), rows))


def cordon(output: Output, address: str, host_id: str, *, reason: str) -> None:
    """Let a host get nothing new."""
    with connected(address) as client:
        host = client.cordon_host(host_id, reason=reason)
    has = (
        f"is {_state(host)}: that holds once it is back"
        if _is_away(host)
        else f"has {counted(host.instances, 'instance')}"
    )
    _tell(output, host, f"{host.host_id} gets no new instances; it {has}")


def drain(output: Output, address: str, host_id: str, *, waits: bool, reason: str) -> None:
    """Empty a host, and perhaps wait for it."""
    with connected(address) as client, output.status(f"draining {host_id}"):
        for host in client.drain_host(host_id, reason=reason):
            if not waits:
                break
            output.note(_state(host) if _is_away(host) else _left(host))
    if _is_away(host):
        said = f"{host.host_id} is {_state(host)}: it drains once it is back"
    elif host.drained and host.host_id == "local":
        said = "local is drained: nothing is loaded on the kernel's own host, and the kernel serves with the others"
    elif host.drained:
        said = f"{host.host_id} is drained: it may be switched off, or removed (inferd hosts rm {host.host_id})"
    elif host.state == HOST_STATE_DRAINING:
        said = f"{host.host_id} drains: {_left(host)}"
    else:
        said = f"{host.host_id} drains no more: it is {_state(host)}"
    _tell(output, host, said)


def resume(output: Output, address: str, host_id: str) -> None:
    """Let a host take instances again."""
    with connected(address) as client:
        host = client.resume_host(host_id)
    when = f" once it is back; it is {_state(host)}" if _is_away(host) else ""
    _tell(output, host, f"{host.host_id} takes instances again{when}")


def remove(output: Output, address: str, host_id: str, *, force: bool, revoke: bool) -> None:
    """Know a host no longer."""
    with connected(address) as client:
        client.remove_host(host_id, force=force, revoke=revoke)
    if output.json:
        output.document({"host_id": host_id, "removed": True})
    else:
        output.text(f"{host_id} is known no longer")


def watch(output: Output, address: str, host_id: str, *, interval_s: float) -> None:
    """Tell of hosts as they change."""
    with connected(address) as client:
        watched = client.watch_host(host_id, interval_s=interval_s) if host_id else None
        for response in watched or client.watch_hosts(interval_s=interval_s):
            if output.json:
                output.document(plain(response))
                continue
            for host in response.hosts or ([response.host] if response.HasField("host") else ()):
                output.text("  ".join(filter(None, row(host))))
            for gone in response.gone_host_ids:
                output.text(f"{gone}  gone")


def read_log(output: Output, address: str, instance_id: str, *, tail_bytes: int | None, follow: bool) -> None:
    """Read the log of an instance's worker onto stdout."""
    with connected(address) as client:
        for part in client.read_instance_log(instance_id, tail_bytes=tail_bytes, follow=follow):
            if output.json:
                output.document({"instance_id": instance_id, "text": part.decode(errors="replace")})
            else:
                sys.stdout.write(part.decode(errors="replace"))
                sys.stdout.flush()


def _tell(output: Output, host: Host, said: str) -> None:
    if output.json:
        output.document(plain(host))
    else:
        output.text(said)


def row(host: Host) -> tuple[str, ...]:
    """A host in a table, see `COLUMNS`."""
    more = len(host.models) - SHOWN_MODELS
    return (
        host.host_id,
        _state(host),
        ", ".join(device.device_id for device in host.devices),
        size(sum(device.free_bytes for device in host.devices)),
        ", ".join(host.models[:SHOWN_MODELS]) + (f" and {more} others" if more > 0 else ""),
        _load(host),
        span(host.silence.ToNanoseconds() / 1e9) if host.HasField("silence") else "",
        host.version,
        pairs(host.labels),
        _why(host),
    )


def _state(host: Host) -> str:
    state = HostState.Name(host.state).removeprefix("HOST_STATE_").lower()
    return "drained" if host.drained else state


def _load(host: Host) -> str:
    return f"{host.placed_tasks}/{host.places}" if host.places else ""


def _is_away(host: Host) -> bool:
    return host.state in {HOST_STATE_LOST, HOST_STATE_JOINING}


def _why(host: Host) -> str:
    """Why it is as it is, and what operators want of it that is not so yet."""
    wanted = HostState.Name(host.ordered).removeprefix("HOST_STATE_").lower() if host.ordered else ""
    ordered = f"{wanted} once it is back" if wanted and _is_away(host) else ""
    return "; ".join(filter(None, (host.reason, ordered, host.order_reason)))


def _left(host: Host) -> str:
    left = {"instance": host.instances, "task": host.placed_tasks, "lease": host.held_leases}
    return ", ".join(counted(count, what) for what, count in left.items() if count) or "nothing is left"


def _devices(devices: Iterable[Device]) -> Iterable[tuple[str, str]]:
    for device in devices:
        free, capacity = size(device.free_bytes), size(device.capacity_bytes)
        yield (
            device.device_id,
            f"{free} of {capacity} free" + (f", {counted(device.cores, 'core')}" if device.cores else ""),
        )
