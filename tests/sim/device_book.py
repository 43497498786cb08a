"""The memory and the cores of devices, reckoned from events and commands alone."""

from dataclasses import dataclass, field

from rules import BrokenRuleError, Rule

from inferd.core.broker import Broker
from inferd.core.ids import DeviceId, InstanceId, LeaseId
from inferd.core.resources import DeviceCapacity


@dataclass(slots=True)
class Device:
    memory_bytes: int
    cores: int
    held_bytes: int = 0  # by instances, those that draw on a lease left out
    leased_bytes: int = 0
    leased_cores: int = 0
    foreign_bytes: int = 0
    foreign_before_bytes: int = 0
    open: bool = True  # its host is READY
    gained: bool = False

    @property
    def free_bytes(self) -> int:
        return self.spare_bytes if self.open else 0

    @property
    def free_cores(self) -> int:
        return self.cores - self.leased_cores if self.open else 0

    @property
    def spare_bytes(self) -> int:
        return max(0, self.memory_bytes - self.held_bytes - self.leased_bytes - self.foreign_bytes)


@dataclass(slots=True)
class Holding:
    device_id: DeviceId
    size_bytes: int
    lease_id: LeaseId
    since: float


@dataclass(slots=True)
class Share:
    size_bytes: int = 0
    drawn_bytes: int = 0
    cores: int = 0
    instances: dict[InstanceId, None] = field(default_factory=dict)


@dataclass(slots=True)
class DeviceBook:
    """Who holds what of which device. One writer: the mirror."""

    devices: dict[DeviceId, Device] = field(default_factory=dict)
    holdings: dict[InstanceId, Holding] = field(default_factory=dict)
    shares: dict[LeaseId, dict[DeviceId, Share]] = field(default_factory=dict)
    touched: dict[DeviceId, None] = field(default_factory=dict)

    def found(self, device_id: DeviceId, capacity: DeviceCapacity) -> None:
        device = self.devices.setdefault(device_id, Device(0, 0))
        device.memory_bytes, device.cores = capacity.memory_bytes, capacity.cores
        self.touched[device_id] = None

    def open(self, device_id: DeviceId, *, is_open: bool) -> None:
        """A device gives something, or nothing any more."""
        self.devices[device_id].open = is_open
        self.touched[device_id] = None

    def forget(self, device_id: DeviceId) -> None:
        """A device is gone for good."""
        device = self.devices.pop(device_id)
        self.touched.pop(device_id, None)
        if device.held_bytes or device.leased_bytes or device.leased_cores:
            raise BrokenRuleError(Rule.LOSS, f"something is held of {device_id}, which has left: {device}")

    def foreign(self, device_id: DeviceId, foreign_bytes: int) -> None:
        device = self.devices[device_id]
        device.foreign_before_bytes, device.foreign_bytes = device.foreign_bytes, foreign_bytes
        self.touched[device_id] = None

    def take(
        self, instance_id: InstanceId, device_id: DeviceId, size_bytes: int, lease_id: LeaseId, now: float
    ) -> None:
        """An instance may load: it holds what it needs."""
        if instance_id in self.holdings:
            raise BrokenRuleError(Rule.BOOKS, f"{instance_id} was given its memory twice")
        self.holdings[instance_id] = Holding(device_id, size_bytes, lease_id, now)
        self.touched[device_id] = None
        if not lease_id:
            self.devices[device_id].held_bytes += size_bytes
            self.devices[device_id].gained = True
            return
        share = self.shares.get(lease_id, {}).get(device_id, Share())
        share.drawn_bytes += size_bytes
        share.instances[instance_id] = None
        if share.drawn_bytes > share.size_bytes:
            text = f"instances under {lease_id} take {share.drawn_bytes} of its {share.size_bytes} bytes of {device_id}"
            raise BrokenRuleError(Rule.SHARE, text)

    def measured(self, instance_id: InstanceId, booked_bytes: int) -> None:
        """A worker takes more than it needed, of which so much was booked."""
        held = self.holdings.get(instance_id)
        if held is not None and not held.lease_id and booked_bytes > held.size_bytes:
            self.devices[held.device_id].held_bytes += booked_bytes - held.size_bytes
            held.size_bytes = booked_bytes
            self.touched[held.device_id] = None

    def check_measured(self, instance_id: InstanceId, memory_bytes: int) -> None:
        """What a worker takes is booked, as far as there is room."""
        held = self.holdings.get(instance_id)
        if held is None or held.lease_id:
            return
        free_bytes = self.devices[held.device_id].spare_bytes
        if held.size_bytes < memory_bytes and free_bytes:
            text = f"{instance_id} takes {memory_bytes} bytes, {held.size_bytes} are booked, and {free_bytes} are free"
            raise BrokenRuleError(Rule.BOOKS, text)

    def gone(self, instance_id: InstanceId) -> None:
        """A worker is gone, and gives back what it held."""
        held = self.holdings.pop(instance_id, None)
        if held is None:
            return
        self.touched[held.device_id] = None
        if held.lease_id:
            share = self.shares[held.lease_id][held.device_id]
            share.drawn_bytes -= held.size_bytes
            del share.instances[instance_id]
        else:
            self.devices[held.device_id].held_bytes -= held.size_bytes

    def claim(self, lease_id: LeaseId, shares: dict[DeviceId, Share]) -> None:
        """A lease is granted."""
        self.shares[lease_id] = shares
        for device_id, share in shares.items():
            device = self.devices[device_id]
            device.leased_bytes += share.size_bytes
            device.leased_cores += share.cores
            device.gained |= share.size_bytes > 0
            self.touched[device_id] = None

    def end(self, lease_id: LeaseId) -> None:
        """A lease ends: what its instances drew is theirs until they are gone."""
        for device_id, share in self.shares.pop(lease_id).items():
            device = self.devices[device_id]
            device.leased_bytes -= share.size_bytes
            device.leased_cores -= share.cores
            device.held_bytes += share.drawn_bytes
            self.touched[device_id] = None
            for instance_id in share.instances:
                self.holdings[instance_id].lease_id = LeaseId("")

    def check(self, broker: Broker) -> None:
        """What must hold after an event, for the devices that it concerned."""
        for device_id in self.touched:
            device = self.devices[device_id]
            given = device.held_bytes + device.leased_bytes
            foreign = min(device.foreign_bytes, device.foreign_before_bytes) if device.gained else 0
            if given + foreign > device.memory_bytes:
                text = f"{given} bytes of {device_id} are held, {foreign} by others; it has {device.memory_bytes}"
                raise BrokenRuleError(Rule.MEMORY, text)
            if device.leased_cores > device.cores:
                text = f"leases hold {device.leased_cores} cores of {device_id}, which has {device.cores}"
                raise BrokenRuleError(Rule.CORES, text)
            device.gained, device.foreign_before_bytes = False, device.foreign_bytes
            account = broker.account(device_id)
            told = (account.free_bytes, account.lease_bytes, account.leased_cores)
            if told != (device.free_bytes, device.leased_bytes, device.leased_cores):
                here = (device.free_bytes, device.leased_bytes, device.leased_cores)
                text = f"the broker has {told} free, leased, and leased cores of {device_id}; it must be {here}"
                raise BrokenRuleError(Rule.BOOKS, text)
        self.touched.clear()
