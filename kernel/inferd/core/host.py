"""Hosts: their states, the core's record of one, and how their devices are named."""

from dataclasses import dataclass, field
from enum import Enum

from inferd.core.ids import DeviceId, HostId, InstanceId
from inferd.core.lifecycle import Table

LOCAL_HOST = HostId("")  # the kernel's own


class HostState(Enum):
    """Where a host stands."""

    JOINING = 1  # its devices are not known yet, or not again
    READY = 2
    DRAINING = 3  # it gets nothing new but within leases; its instances go when they have ended what they have
    LOST = 4  # nothing is heard of it; it may come back
    GONE = 5


class HostChange(Enum):
    """What can happen to a host."""

    JOIN = 1  # it says which devices it has
    DRAIN = 2  # on JOINING: it says so, and is to drain as before it was lost
    RESUME = 3  # it is not to drain any more
    LOSE = 4
    RETURN = 5
    LEAVE = 6


HOST_TABLE: Table[HostState, HostChange] = {
    HostState.JOINING: {
        HostChange.JOIN: HostState.READY,
        HostChange.DRAIN: HostState.DRAINING,
        HostChange.LOSE: HostState.LOST,
        HostChange.LEAVE: HostState.GONE,
    },
    HostState.READY: {
        HostChange.DRAIN: HostState.DRAINING,
        HostChange.LOSE: HostState.LOST,
        HostChange.LEAVE: HostState.GONE,
    },
    HostState.DRAINING: {
        HostChange.RESUME: HostState.READY,
        HostChange.LOSE: HostState.LOST,
        HostChange.LEAVE: HostState.GONE,
    },
    HostState.LOST: {
        HostChange.RETURN: HostState.JOINING,
        HostChange.LEAVE: HostState.GONE,
    },
    HostState.GONE: {},
}


@dataclass(slots=True, kw_only=True)
class Host:
    """The core's record of one host. One writer: the kernel machine.

    Attributes:
        host_id: Its id; "" for the kernel's own.
        since: When it came to its state; kernel clock, seconds.
        devices: Those that it has, or had when it was lost.
        instances: Those whose worker may still live there.
        drains: Whether it is to drain, also when it comes back, until it is resumed.
    """

    host_id: HostId
    since: float
    state: HostState = HostState.JOINING
    devices: dict[DeviceId, None] = field(default_factory=dict)
    instances: dict[InstanceId, None] = field(default_factory=dict)
    drains: bool = False


def device_on(host_id: HostId, name: str) -> DeviceId:
    """What a device is called in the core and by clients: `host/cuda:0`, on the kernel's own host `cuda:0`."""
    return DeviceId(f"{host_id}/{name}" if host_id else name)


def host_of(device_id: DeviceId) -> HostId:
    """The host of a device."""
    return HostId(device_id.rpartition("/")[0])


def name_of(device_id: DeviceId) -> DeviceId:
    """What a device is called on its own host, by its workers: `cuda:0`."""
    return DeviceId(device_id.rpartition("/")[2])
