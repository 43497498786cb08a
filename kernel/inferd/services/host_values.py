"""Hosts for the wire."""

from collections.abc import Callable

from inferd.core.accounts import Account
from inferd.core.host import LOCAL_HOST, HostChange, name_of, shown_host
from inferd.errors import present
from inferd.plugin.backend import DeviceInfo
from inferd.runtime.clock import Clock
from inferd.runtime.front.standing import Standing
from inferd.services.times import duration, timestamp
from inferd_api.v1 import host_pb2 as hp

ORDERED = {
    None: hp.HOST_STATE_UNSPECIFIED,
    HostChange.CORDON: hp.HOST_STATE_CORDONED,
    HostChange.DRAIN: hp.HOST_STATE_DRAINING,
}
MOST_TAIL_BYTES, DEFAULT_TAIL_BYTES = 16 << 20, 64 << 10


def write_device(device: DeviceInfo, account: Account | None = None, unmeasured: str = "") -> hp.Device:
    """A device as a backend tells of it, and who holds what of it."""
    written = hp.Device(
        device_id=device.device_id,
        description=device.description,
        memory_bytes=device.memory_bytes,
        cores=device.cores,
        unmeasured=unmeasured,
    )
    if account is not None:
        _write_account(account, written)
    return written


def write_standing(standing: Standing, clock: Clock, into: hp.Host, *, reads: Callable[[str], bool]) -> hp.Host:
    """A host as it stands, with the models that the caller may read; devices only where none are written yet."""
    host = standing.host
    into.host_id = shown_host(host.host_id)
    into.state = hp.HostState.ValueType(host.state.value)
    into.state_time.CopyFrom(present(timestamp(clock, host.since)))
    into.labels.update(host.facts.labels)
    into.backends.extend(sorted(backend.name for backend in host.facts.backends or ()))
    into.models.extend(name for name in standing.models if reads(name))
    into.instances, into.places, into.placed_tasks = len(host.instances), standing.places, standing.tasks
    into.held_leases, into.reason, into.drained = standing.leases, host.why, standing.drained
    into.ordered = ORDERED[standing.order]
    into.order_reason = standing.order_reason
    into.version = host.facts.version
    if host.host_id != LOCAL_HOST:
        into.name = host.host_id
    if standing.silent_s is not None:
        into.silence.CopyFrom(present(duration(standing.silent_s)))
    if not into.devices:
        for account in standing.devices:
            device = into.devices.add(device_id=name_of(account.device_id), cores=account.cores)
            device.memory_bytes = account.capacity_bytes
            _write_account(account, device)
    return into


def _write_account(account: Account, into: hp.Device) -> None:
    into.capacity_bytes = account.capacity_bytes
    into.instance_bytes = account.instance_bytes
    into.lease_bytes = account.lease_bytes
    into.foreign_bytes = account.foreign_bytes
    into.free_bytes = account.free_bytes
    into.leased_cores = account.leased_cores
