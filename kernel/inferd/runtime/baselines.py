"""What devices had to give when a kernel began, which holds for the next one while leases hold memory there.

A program that has filled memory which it has leased outlives the kernel. The next one would find that memory taken,
and take the lease off what is left: twice, for as long as it runs.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import structlog

from inferd.core.ids import DeviceId
from inferd.core.lease import MemoryClaim
from inferd.errors import StoreUnavailableError
from inferd.runtime.found import leave_out
from inferd.runtime.kept_records import UNREADABLE
from inferd.runtime.lease_records import read_lease
from inferd.store.store import NO_TENANT, Kind, Put

if TYPE_CHECKING:
    from collections.abc import Mapping

    from inferd.core.resources import DeviceCapacity
    from inferd.runtime.clock import Clock
    from inferd.runtime.devices import DeviceMeter
    from inferd.runtime.driver import Driver
    from inferd.store.store import Store

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Baseline:
    """A device when a kernel of this boot began, and no lease held memory there.

    Attributes:
        capacity_bytes: What it had to give.
        start_bytes: What others held of it.
    """

    capacity_bytes: int
    start_bytes: int


async def kept_baselines(driver: Driver) -> dict[DeviceId, Baseline]:
    """Those that hold for this kernel: of devices of which leases that it takes up hold memory, in the same boot.

    Raises:
        StoreUnavailableError: They cannot be read.
    """
    if driver.keeper is None:
        return {}
    found: dict[DeviceId, Baseline] = await driver.keeper.read(lambda store: _read(store, driver.clock))
    return found


def as_before(device: DeviceCapacity, before: Mapping[DeviceId, Baseline], named: Mapping[str, int]) -> DeviceCapacity:
    """A device with what it had to give; one whose size is `named` in the configuration has that."""
    baseline = before.get(device.device_id)
    if baseline is None or device.device_id in named:
        return device
    return replace(device, memory_bytes=baseline.capacity_bytes)


def _read(store: Store, clock: Clock) -> dict[DeviceId, Baseline]:
    boot, leased, found = clock.stamp().boot, _leased(store, clock), {}
    for record in store.records(Kind.DEVICE, lambda *lost: leave_out("device", *lost)):
        try:
            written = json.loads(record.value)
            if boot and written["boot"] == boot and record.key in leased:
                found[DeviceId(record.key)] = Baseline(written["capacity_bytes"], written["start_bytes"])
        except UNREADABLE as error:
            leave_out("device", record.tenant, record.key, error)
    return found


def _leased(store: Store, clock: Clock) -> set[DeviceId]:
    leased: set[DeviceId] = set()
    for record in store.records(Kind.LEASE, lambda *_: None):  # the start tells of those that are damaged
        try:
            lease = read_lease(record.value, clock)
        except UNREADABLE:
            continue
        if lease.expires > clock.now():
            leased.update(claim.device_id for claim in lease.spec.claims if isinstance(claim, MemoryClaim))
    return leased


async def keep_baselines(driver: Driver, meter: DeviceMeter, before: Mapping[DeviceId, Baseline]) -> None:
    """Keep for the next kernel what devices have to give, unless it is what was kept `before`."""
    if driver.keeper is None:
        return
    devices, boot = driver.views.devices, driver.clock.stamp().boot
    puts = [
        Put(NO_TENANT, Kind.DEVICE, name, _write(Baseline(devices[name].capacity_bytes, start_bytes), boot))
        for name, start_bytes in meter.start_bytes.items()
        if name in devices and name not in before
    ]
    if not puts:
        return
    try:
        await driver.keeper.keep_records(puts)
    except StoreUnavailableError as error:
        log.warning("what devices have to give is not kept: the next kernel may count leases twice", why=error.message)


def _write(baseline: Baseline, boot: str) -> bytes:
    written = {"boot": boot, "capacity_bytes": baseline.capacity_bytes, "start_bytes": baseline.start_bytes}
    return json.dumps(written, separators=(",", ":")).encode()
