"""The memory broker: every byte of every device, and who holds it. There is no other place where memory is given."""

from __future__ import annotations

from typing import TYPE_CHECKING

from inferd.core.accounts import Account, Part, Reservation
from inferd.core.atlas import MOST_SITES, Atlas
from inferd.core.ids import NO_LEASE, DeviceId, InstanceId, LeaseId
from inferd.core.plan import LoadPlan
from inferd.core.resources import DeviceCapacity, MemoryNeed, size_text
from inferd.errors import InternalError, InvalidFieldError, suggestion

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from inferd.core.model import ModelSpec

MOST_TOLD = 256  # devices among which the one is looked for that was meant


class Broker:
    """Accounts of devices. One writer: the kernel machine.

    Attributes:
        devices: The accounts.
        eased: Devices that may have more room than when this was last looked at: something was given back, is about to
            be, or may be evicted now.
        atlas: Which devices there are, and where a start may go.
    """

    def __init__(self) -> None:
        self.devices: dict[DeviceId, Account] = {}
        self._reservations: dict[InstanceId, Reservation] = {}
        self._expected: dict[InstanceId, tuple[tuple[DeviceId, ...], int]] = {}
        self.eased: dict[DeviceId, None] = {}
        self.atlas = Atlas()
        self._moved: dict[DeviceId, None] = {}
        self._shares: dict[LeaseId, dict[DeviceId, Part]] = {}
        self._awaited: dict[
            DeviceId, list[tuple[LeaseId, int, int]]
        ] = {}  # shares of devices whose hosts are to return

    def add(self, device: DeviceCapacity, *, is_open: bool) -> None:
        """Make a device known, or change its capacity."""
        self.eased[device.device_id] = None
        known = self.devices.get(device.device_id)
        if known is None:
            self.devices[device.device_id] = Account(
                device_id=device.device_id, capacity_bytes=device.memory_bytes, cores=device.cores, open=is_open
            )
        else:
            known.capacity_bytes, known.cores = device.memory_bytes, device.cores
        self.atlas.add(device.device_id)
        self.open(device.device_id, is_open=self.devices[device.device_id].open)
        for lease_id, size_bytes, cores in self._awaited.pop(device.device_id, ()):
            self.take_up(lease_id, device.device_id, size_bytes=size_bytes, cores=cores)

    def open(self, device_id: DeviceId, *, is_open: bool) -> None:
        """Give of a device from now on, or do not."""
        self.devices[device_id].open = is_open
        self.eased[device_id] = None
        self.atlas.open(device_id, is_open=is_open)
        self._move(device_id)

    def remove(self, device_id: DeviceId) -> None:
        """A device is gone; nothing is held there."""
        del self.devices[device_id]
        self.eased.pop(device_id, None)
        self._moved.pop(device_id, None)
        self.atlas.remove(device_id)

    def _move(self, device_id: DeviceId) -> None:
        """Other amounts of a device are free than before."""
        self._moved[device_id] = None
        if len(self._moved) >= MOST_SITES < len(self.devices):
            self._chart()

    def _chart(self) -> None:
        """Have the atlas know what is free. Of few devices nobody looks at it."""
        for device_id in self._moved if len(self.devices) > MOST_SITES else ():
            account = self.devices[device_id]
            room_bytes = account.free_bytes - account.expected_bytes
            self.atlas.measure(device_id, room_bytes, room_bytes + account.idle_bytes + account.stopping_bytes)
        if len(self.devices) > MOST_SITES:
            self._moved.clear()

    def candidates(
        self, spec: ModelSpec, need_bytes: int, *, own: Collection[DeviceId] = (), but: Collection[DeviceId] = ()
    ) -> Sequence[DeviceId]:
        """See `Atlas.candidates`."""
        self._chart()
        return self.atlas.candidates(spec, need_bytes, own=own, but=but)

    def roomiest(self, bits: int) -> Sequence[DeviceId]:
        """See `Atlas.roomiest`."""
        self._chart()
        return self.atlas.roomiest(bits)

    def account(self, device_id: DeviceId, *, field: str = "device") -> Account:
        """The account of a device.

        Raises:
            InvalidFieldError: There is no such device; the nearest known name is suggested.
        """
        account = self.devices.get(device_id)
        if account is None:
            among: list[str] = [*self.atlas.beside(device_id, most=MOST_TOLD)]
            near = suggestion(device_id, among)
            hint = f"did you mean {near!r}?" if near else f"there are {', '.join(sorted(among)[:10])}"
            raise InvalidFieldError(f"no device {device_id!r}; {hint}", field=field)
        return account

    def set_foreign(self, device_id: DeviceId, foreign_bytes: int) -> None:
        """Programs that the kernel does not know hold so much of a device."""
        self.account(device_id).foreign_bytes = foreign_bytes
        self.eased[device_id] = None
        self._move(device_id)

    # Instances.

    def reserved_bytes(self, instance_id: InstanceId) -> int:
        """What an instance holds; 0 when it holds nothing yet."""
        reservation = self._reservations.get(instance_id)
        return 0 if reservation is None else reservation.size_bytes

    def room_bytes(self, device_id: DeviceId, lease_id: LeaseId) -> int:
        """What an instance could be given now: of the device, or of the lease that it is loaded under."""
        if not lease_id:
            return self.devices[device_id].free_bytes
        share = self._shares.get(lease_id, {}).get(device_id, Part())
        return share.size_bytes - share.drawn_bytes

    def expect(self, instance_id: InstanceId, device_ids: tuple[DeviceId, ...], size_bytes: int) -> None:
        """An instance that starts will ask for about so much of each: where others are placed counts that as taken."""
        self.expect_no_more(instance_id)
        self._expected[instance_id] = (device_ids, size_bytes)
        for device_id in device_ids:
            self.devices[device_id].expected_bytes += size_bytes
            self._move(device_id)

    def expect_no_more(self, instance_id: InstanceId) -> None:
        """An instance has what it was expected to ask for, or will not ask for it."""
        device_ids, size_bytes = self._expected.pop(instance_id, ((), 0))
        for device_id in device_ids:
            self.devices[device_id].expected_bytes -= size_bytes
            self._move(device_id)

    def reserve(
        self, instance_id: InstanceId, device_ids: tuple[DeviceId, ...], need: MemoryNeed, lease_id: LeaseId
    ) -> None:
        """Give an instance what it needs, of each of its devices; the caller has seen that there is room."""
        size_bytes = need.total_bytes
        for device_id in device_ids:
            if size_bytes > self.room_bytes(device_id, lease_id):
                raise InternalError(f"a defect of inferd: {size_bytes} bytes of {device_id} reserved without room")
        self._hold(instance_id, device_ids, need, lease_id)

    def take_over(
        self, instance_id: InstanceId, device_ids: tuple[DeviceId, ...], need: MemoryNeed, lease_id: LeaseId = NO_LEASE
    ) -> bool:
        """An instance holds what it needs already, of devices that give nothing yet; False where others hold that.

        Under a lease it is of what that has.
        """
        for device_id in device_ids:
            room_bytes = self.room_bytes(device_id, lease_id) if lease_id else self.devices[device_id].spare_bytes
            if need.total_bytes > room_bytes:
                return False
        self._hold(instance_id, device_ids, need, lease_id)
        return True

    def _hold(
        self, instance_id: InstanceId, device_ids: tuple[DeviceId, ...], need: MemoryNeed, lease_id: LeaseId
    ) -> None:
        size_bytes = need.total_bytes
        self.expect_no_more(instance_id)
        self._reservations[instance_id] = Reservation(device_ids, need, size_bytes, lease_id)
        for device_id in device_ids:
            if lease_id:
                self._shares[lease_id][device_id].drawn_bytes += size_bytes
                self.devices[device_id].drawn_bytes += size_bytes
            else:
                self.devices[device_id].instance_bytes += size_bytes
                self.devices[device_id].held_by[instance_id] = None
            self._move(device_id)

    def measured(self, instance_id: InstanceId, memory_bytes: int) -> None:
        """An instance on the host was seen to take so much: what it holds rises to that, as far as there is room."""
        reservation = self._reservations.get(instance_id)
        if reservation is None or reservation.lease_id or len(reservation.device_ids) > 1:
            return
        more, (device_id,) = memory_bytes - reservation.size_bytes, reservation.device_ids
        account = self.devices[device_id]
        more = min(more, account.spare_bytes)
        if more > 0:
            reservation.size_bytes += more
            account.instance_bytes += more
            account.stopping_bytes += more if reservation.stopping else 0
            account.idle_bytes += more if instance_id in account.idle else 0
            self.eased[device_id] = None  # who is first may not fit any more, and others pass it
            self._move(device_id)

    def lacking_bytes(self, instance_id: InstanceId, memory_bytes: int) -> int:
        """What an instance takes beyond what it holds and what could be given to it: memory of others, or none."""
        reservation = self._reservations.get(instance_id)
        if reservation is None:
            return 0
        device_id = reservation.device_ids[0]  # what is measured is the host's, and that is one
        room_bytes = self.devices[device_id].spare_bytes
        if reservation.lease_id:
            room_bytes += self.room_bytes(device_id, reservation.lease_id)
        return max(0, memory_bytes - reservation.size_bytes - room_bytes)

    def rest(self, instance_id: InstanceId) -> None:
        """An instance may be evicted from now on: it becomes the most recently used of these."""
        reservation = self._reservations[instance_id]
        for device_id in reservation.device_ids:
            account = self.devices[device_id]
            if instance_id not in account.idle:
                account.idle[instance_id] = None
                self.eased[device_id] = None
                account.idle_bytes += reservation.size_bytes
                self._move(device_id)

    def wake(self, instance_id: InstanceId) -> None:
        """An instance may not be evicted, any more or at all."""
        reservation = self._reservations.get(instance_id)
        for device_id in () if reservation is None else reservation.device_ids:
            account = self.devices[device_id]
            if reservation is not None and instance_id in account.idle:
                del account.idle[instance_id]
                account.idle_bytes -= reservation.size_bytes
                self.eased[device_id] = None  # as where it grew
                self._move(device_id)

    def stopping(self, instance_id: InstanceId) -> None:
        """The worker of an instance is being stopped: what it holds will be free."""
        self.wake(instance_id)
        self.expect_no_more(instance_id)
        reservation = self._reservations.get(instance_id)
        if reservation is not None and not reservation.stopping:
            reservation.stopping = True
            for device_id in () if reservation.lease_id else reservation.device_ids:
                self.devices[device_id].stopping_bytes += reservation.size_bytes
                self._move(device_id)

    def give_back(self, instance_id: InstanceId) -> tuple[DeviceId, ...]:
        """The worker of an instance is gone; the devices where that made room: all that it held something of."""
        self.wake(instance_id)
        self.expect_no_more(instance_id)
        reservation = self._reservations.pop(instance_id, None)
        if reservation is None:
            return ()
        size_bytes = reservation.size_bytes
        for device_id in reservation.device_ids:
            account = self.devices[device_id]
            if reservation.lease_id:
                self._shares[reservation.lease_id][device_id].drawn_bytes -= size_bytes
                account.drawn_bytes -= size_bytes
            else:
                account.instance_bytes -= size_bytes
                del account.held_by[instance_id]
                account.stopping_bytes -= size_bytes if reservation.stopping else 0
            self._move(device_id)
        return reservation.device_ids

    # Leases.

    def cores(self, device_id: DeviceId, lease_id: LeaseId) -> int:
        """Cores on which an instance computes: those that its lease holds, else those that none does, but one at least.

        0 for a device that has none.
        """
        account = self.devices[device_id]
        part = self._shares.get(lease_id, {}).get(device_id)
        own = part.cores if part is not None else 0
        return own or (max(1, account.cores - account.leased_cores) if account.cores else 0)

    def claim(self, lease_id: LeaseId, device_id: DeviceId, *, size_bytes: int = 0, cores: int = 0) -> None:
        """Give a lease a share of a device; the caller has seen that there is room."""
        account = self.devices[device_id]
        room = size_bytes <= account.free_bytes and cores <= account.free_cores
        if not room:
            raise InternalError(
                f"a defect of inferd: {size_bytes} bytes, {cores} cores of {device_id} claimed without room"
            )
        self.take_up(lease_id, device_id, size_bytes=size_bytes, cores=cores)

    def take_up(self, lease_id: LeaseId, device_id: DeviceId, *, size_bytes: int = 0, cores: int = 0) -> None:
        """A lease has a share of a device since before this kernel, even if that has less to give by now.

        Of a device that is not known it has it from when that is.
        """
        if device_id not in self.devices:
            self._awaited.setdefault(device_id, []).append((lease_id, size_bytes, cores))
            return
        account = self.devices[device_id]
        share = self._shares.setdefault(lease_id, {}).setdefault(device_id, Part())
        share.size_bytes += size_bytes
        share.cores += cores
        account.lease_bytes += size_bytes
        account.leased_cores += cores
        self._move(device_id)

    def end_lease(self, lease_id: LeaseId, instances: Iterable[InstanceId]) -> tuple[DeviceId, ...]:
        """Take back what a lease holds; what its instances draw is theirs until their workers are gone."""
        shares = self._shares.pop(lease_id, {})
        for device_id, awaited in tuple(self._awaited.items()):
            if not (left := [each for each in awaited if each[0] != lease_id]):
                del self._awaited[device_id]
            else:
                self._awaited[device_id] = left
        for device_id, share in shares.items():
            account = self.devices[device_id]
            account.lease_bytes -= share.size_bytes
            account.leased_cores -= share.cores
            account.drawn_bytes -= share.drawn_bytes
            self._move(device_id)
        for instance_id in instances:
            reservation = self._reservations.get(instance_id)
            if reservation is not None and reservation.lease_id == lease_id:
                reservation.lease_id = NO_LEASE
                for device_id in reservation.device_ids:
                    account = self.devices[device_id]
                    account.instance_bytes += reservation.size_bytes
                    account.held_by[instance_id] = None
                    account.stopping_bytes += reservation.size_bytes if reservation.stopping else 0
                    self._move(device_id)
        return tuple(shares)

    def leased(self, lease_id: LeaseId) -> list[DeviceId]:
        """The devices of which a lease holds memory."""
        return [device_id for device_id, share in self._shares.get(lease_id, {}).items() if share.size_bytes > 0]

    def lessees(self, device_ids: Collection[DeviceId]) -> tuple[LeaseId, ...]:
        """The leases that hold something of one of these devices."""
        return tuple(lease_id for lease_id, shares in self._shares.items() if not shares.keys().isdisjoint(device_ids))

    def awaited(self) -> list[tuple[LeaseId, DeviceId]]:
        """The leases that have a share of a device whose host is to return, and that device."""
        return [(lease_id, device_id) for device_id, awaited in self._awaited.items() for lease_id, *_ in awaited]

    # Plans.

    def evictions(
        self, device_id: DeviceId, wanted_bytes: int, *, keep: Collection[InstanceId] = ()
    ) -> tuple[InstanceId, ...] | None:
        """The idle instances to stop that make room, the least recently used first; None when all are not enough.

        Workers that are being stopped already count as gone. Those of `keep` stay.
        """
        account = self.devices[device_id]
        if not account.open:
            return None
        lacking = self.shortfall_bytes(device_id, wanted_bytes) + account.idle_bytes
        found: list[InstanceId] = []
        for instance_id in account.idle if lacking <= account.idle_bytes else ():
            if lacking <= 0:
                break
            if instance_id not in keep:
                found.append(instance_id)
                lacking -= self._reservations[instance_id].size_bytes
        return tuple(found) if lacking <= 0 else None

    def shortfall_bytes(self, device_id: DeviceId, wanted_bytes: int) -> int:
        """What would lack of so much when all idle instances are evicted and all that are being stopped are gone."""
        account = self.devices[device_id]
        taken = account.instance_bytes + account.lease_bytes + account.foreign_bytes
        return wanted_bytes + taken - account.capacity_bytes - account.stopping_bytes - account.idle_bytes

    def busy(self, device_id: DeviceId) -> list[InstanceId]:
        """The instances that hold memory of a device, are not being stopped and cannot be evicted, the oldest first."""
        account = self.devices[device_id]
        return [i for i in account.held_by if i not in account.idle and not self._reservations[i].stopping]

    def plan(self, device_id: DeviceId, need: MemoryNeed, *, keep: Collection[InstanceId] = ()) -> LoadPlan:
        """What giving an instance what it needs would take, if those of `keep` stay.

        Raises:
            InvalidFieldError: There is no such device.
        """
        account, wanted = self.account(device_id), need.total_bytes
        evicted = self.evictions(device_id, wanted, keep=keep)
        free, capacity = size_text(account.free_bytes), size_text(account.capacity_bytes)
        figures = f"it needs {size_text(wanted)}, {free} of {capacity} are free"
        busy: tuple[InstanceId, ...] = ()
        leases: tuple[LeaseId, ...] = ()
        fits = evicted is not None
        if evicted is None:
            evicted = ()
            if wanted <= account.capacity_bytes:  # else nothing that ends makes room
                evicted = tuple(idle for idle in account.idle if idle not in keep)
                busy, leases = self._obstacles(account, wanted)
        return LoadPlan(
            fits=fits,
            device_id=device_id,
            need=need,
            free_bytes=account.free_bytes,
            capacity_bytes=account.capacity_bytes,
            evicted=evicted,
            busy=busy,
            leases=leases,
            figures=figures,
            open=account.open,
        )

    def _obstacles(self, account: Account, wanted_bytes: int) -> tuple[tuple[InstanceId, ...], tuple[LeaseId, ...]]:
        """Busy instances, then leases, the oldest first, until there would be room."""
        lacking = self.shortfall_bytes(account.device_id, wanted_bytes)
        busy, leases = [], []
        for instance_id in self.busy(account.device_id):
            if lacking > 0:
                busy.append(instance_id)
                lacking -= self._reservations[instance_id].size_bytes
        for lease_id, shares in self._shares.items():
            if lacking > 0 and account.device_id in shares and shares[account.device_id].size_bytes:
                leases.append(lease_id)
                lacking -= shares[account.device_id].size_bytes
        return tuple(busy), tuple(leases)

    def reservations(self) -> Mapping[InstanceId, Reservation]:
        """What instances hold."""
        return self._reservations
