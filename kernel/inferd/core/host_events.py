"""What is told of hosts besides that they come and go: what they have of files, and what operators want of them."""

from collections.abc import Mapping
from dataclasses import dataclass

from inferd.core.host import HostChange, HostFacts
from inferd.core.ids import NO_LEASE, DeviceId, HostId, InstanceId, LeaseId, ModelName
from inferd.core.resources import DeviceCapacity, MemoryNeed


@dataclass(frozen=True, slots=True)
class CordonHost:
    """An operator lets a host get no new instances; those that it has stay and take tasks."""

    host_id: HostId


@dataclass(frozen=True, slots=True)
class HostHolds:
    """A host has the files of these models now, by their `file_version`, and of no others; see `HostFacts`."""

    host_id: HostId
    holds: frozenset[str]


@dataclass(frozen=True, slots=True)
class OrderHosts:
    """Operators wanted this of hosts before this kernel was started: CORDON or DRAIN, once they join."""

    orders: Mapping[HostId, HostChange]


@dataclass(frozen=True, slots=True)
class AwaitHosts:
    """Hosts of before may join at any moment, as another kernel's: what needs one waits; told again, no longer."""

    waits: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldWorker:
    """A worker, its model loaded or about to be, that a host has kept since before this kernel, or since it was lost.

    Attributes:
        held_id: As its host calls it.
        instance_id: The instance that it held.
        model: The model of that.
        differs: In what it is not what would be loaded now, for people; "" where it is just that.
        device_ids: Where it computes, as its host calls them, the first one first.
        need: What it holds of each.
        tasks: So many it ran when its kernel was gone.
        loading: Whether it loads still; what it holds was given to it.
        lease_id: The lease under which it was loaded; "" for none.
        fencing_token: Of that.
    """

    held_id: int
    instance_id: InstanceId
    model: ModelName
    differs: str = ""
    device_ids: tuple[DeviceId, ...]
    need: MemoryNeed
    tasks: int = 0
    loading: bool = False
    lease_id: LeaseId = NO_LEASE
    fencing_token: int = 0


@dataclass(frozen=True, slots=True)
class AdoptWorkers:
    """A host that joins has kept workers: those that would be started anyway are instances from now on.

    Attributes:
        devices: As in `HostJoined`, which follows once the others have ended.
    """

    host_id: HostId
    devices: tuple[DeviceCapacity, ...]
    facts: HostFacts
    workers: tuple[HeldWorker, ...]
