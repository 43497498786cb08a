"""Who waits for what devices no longer have: in vain, so that it is to be told."""

from collections.abc import Collection

from inferd.core.broker import Broker
from inferd.core.claim_check import check_possible
from inferd.core.claims import cores_line, memory_line
from inferd.core.fleet import Fleet
from inferd.core.ids import DeviceId, InstanceId, LeaseId
from inferd.core.lease import Lease
from inferd.core.leases import Leases
from inferd.core.model import Instance, InstanceState
from inferd.errors import InvalidFieldError


def claimants(device_ids: Collection[DeviceId], leases: Leases) -> list[Lease]:
    """The leases that wait for something of one of these devices."""
    lines = (line for device_id in device_ids for line in (memory_line(device_id), cores_line(device_id)))
    keys = dict.fromkeys(LeaseId(key) for line in lines for key in leases.waiters.line(line))
    return [leases.known[key] for key in keys if key in leases.known]


def too_large_leases(
    device_ids: Collection[DeviceId], leases: Leases, broker: Broker, fleet: Fleet
) -> list[tuple[Lease, str]]:
    """The leases that wait for more than there is at all, of these devices among others, and what that is."""
    found = []
    for lease in claimants(device_ids, leases):
        try:
            check_possible(lease.spec, broker, fleet.models)
        except InvalidFieldError as error:
            found.append((lease, error.message))
    return found


def too_large_loads(device_ids: Collection[DeviceId], leases: Leases, broker: Broker, fleet: Fleet) -> list[Instance]:
    """The instances that wait for more memory than their device has at all, of these devices."""
    keys = [InstanceId(key) for device_id in device_ids for key in leases.waiters.line(memory_line(device_id))]
    loads = [fleet.instances[key] for key in keys if key in fleet.instances]
    return [i for i in loads if i.state is InstanceState.WAITING and _is_too_large(i, broker)]


def _is_too_large(instance: Instance, broker: Broker) -> bool:
    most_bytes = broker.devices[instance.device_id].capacity_bytes
    return instance.need is not None and instance.need.total_bytes > most_bytes
