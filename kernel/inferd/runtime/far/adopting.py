"""Workers that a host has kept while it had no kernel: what its agent tells of them, as far as that may be so."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from inferd.core.host import MOST_DEVICES
from inferd.core.host_events import HeldWorker
from inferd.core.ids import DeviceId, InstanceId, LeaseId, ModelName
from inferd.runtime.far.parcels import plain_words
from inferd.runtime.frames import read_needs
from inferd.runtime.launcher import NoLauncher
from inferd.skew import works_with

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from inferd.core.resources import DeviceCapacity
    from inferd.runtime.far.host import FarHost
    from inferd.runtime.far.worker import FarWorker
    from inferd.runtime.launcher import Adopter
    from inferd.runtime.link import OnClosed, OnFrame
    from inferd_api.agent.v1 import agent_pb2 as wire

MOST_WORKERS = 256  # of a host
MOST_NAME = 200  # characters of an instance
MOST_BYTES = 1 << 60  # of a need, as a worker may tell
MOST_HANDLE = 1 << 31  # of tasks that a worker was given: as many are left for the next kernel


class Differs(Protocol):
    """Says in what a worker is not what would be loaded."""

    def __call__(self, told: wire.WorkerIdentity, device_ids: Sequence[DeviceId], /) -> str:
        """That, for people; "" where it is."""


class Held:
    """What an agent has told of the workers that its host has kept. One writer: its `FarHost`.

    Attributes:
        kept: Those that are adopted.
        devices: Those of the host, as it calls them.
    """

    def __init__(self, host: FarHost, told: wire.WorkersHeld, devices: tuple[DeviceCapacity, ...]) -> None:
        self.devices = devices
        self.kept: set[int] = set()
        self._host = host
        self._told = {each.held_id: each for each in told.workers[:MOST_WORKERS]}

    @property
    def models(self) -> set[str]:
        """Those that they have loaded."""
        return {told.identity.model for told in self._told.values()}

    def workers(self, changed: Collection[str], differs: Differs) -> Iterator[HeldWorker]:
        """What of them is told to the core, where files of some models have `changed`."""
        names = {each.device_id for each in self.devices}
        for held_id, told in self._told.items():
            device_ids = tuple(DeviceId(each) for each in told.device_ids[: MOST_DEVICES + 1])
            yield HeldWorker(
                held_id=held_id,
                instance_id=InstanceId(plain_words(told.instance_id)[:MOST_NAME]),
                model=ModelName(plain_words(told.identity.model)[:MOST_NAME]),
                differs=_faults(told, names, changed) or differs(told.identity, device_ids),
                device_ids=device_ids,
                need=read_needs(told.needs),
                tasks=told.tasks,
                loading=told.loading,
                lease_id=LeaseId(plain_words(told.identity.lease_id)[:MOST_NAME]),
                fencing_token=told.identity.fencing_token,
            )

    def adopter(self, held_id: int) -> Adopter:
        """Who gives one of them; it is kept for that."""
        told = self._told.get(held_id)
        if told is None:
            return NoLauncher(self._host.name)
        self.kept.add(held_id)
        return HeldAdopter(self._host, told)


def _faults(told: wire.HeldWorker, devices: Collection[str], changed: Collection[str]) -> str:
    """What no agent says of a worker that may be adopted; "" where there is nothing of that kind."""
    needs = told.needs
    if fault := _devices_fault(told.device_ids, devices):
        return fault
    if max(needs.weights_bytes, needs.kv_bytes, needs.workspace_bytes) > MOST_BYTES:
        return "it is said to hold more than any device has"
    if not 0 < told.first_handle < MOST_HANDLE:
        return "it was given more tasks than one worker may be"
    if told.identity.model in changed:
        return "its model's files have changed since"
    if not works_with(told.version):
        return f"it is of version {plain_words(told.version)[:40]!r} of inferd"
    return ""


def _devices_fault(told: Collection[str], devices: Collection[str]) -> str:
    if not 0 < len(told) <= MOST_DEVICES:
        return f"it is said to compute on {len(told)} devices"
    return "" if set(told) <= set(devices) else "it is said to compute on a device that its host does not tell of"


class HeldAdopter:
    """Gives a worker that a host has kept, as a launcher gives one that it has started.

    Attributes:
        first_handle: See `Adopter`.
    """

    def __init__(self, host: FarHost, told: wire.HeldWorker) -> None:
        self.first_handle = told.first_handle
        self._host = host
        self._held_id = told.held_id
        self._before = InstanceId(told.instance_id)

    def log_of(self, _: InstanceId) -> str:
        """Its log bears the name of the instance that it was first."""
        return self._host.log_of(self._before)

    def silent_s(self) -> float | None:
        """Since when nothing was heard of its host, in seconds."""
        return self._host.silent_s()

    async def read_log(self, instance_id: InstanceId, offset_bytes: int, most_bytes: int) -> tuple[bytes, int]:
        """As of its host."""
        return await self._host.read_log(instance_id, offset_bytes, most_bytes)

    async def launch(self, instance_id: InstanceId, *, on_frame: OnFrame, on_closed: OnClosed) -> FarWorker:
        """Go on with it.

        Raises:
            OSError: It is there no more, its agent does not say so in time, or the host is lost.
        """
        return await self._host.adopt(self._held_id, instance_id, on_frame=on_frame, on_closed=on_closed)

    def adopter(self, held_id: int) -> Adopter:
        """As of its host."""
        return self._host.adopter(held_id)
