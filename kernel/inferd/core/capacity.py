"""Who gets capacity: instances that load and leases, in one order. Nobody else reserves and claims at the broker."""

from collections.abc import Collection, Iterable, Mapping
from itertools import islice
from math import inf, nextafter

from inferd.core import gangs
from inferd.core.broker import Broker
from inferd.core.claim_check import check_possible
from inferd.core.claim_choice import choose_devices
from inferd.core.claims import (
    CORES,
    MEMORY,
    Lack,
    cores_line,
    device_of,
    has_room,
    lines_of,
    memory_line,
    model_line,
    no_memory,
    sums,
    wants_of,
)
from inferd.core.commands import HoldCapacity, ProceedLoad, Reply
from inferd.core.fleet import Fleet
from inferd.core.ids import DeviceId, InstanceId, LeaseId, ModelName
from inferd.core.lease import CoresClaim, Lease, LeaseChange, LeaseSpec, LeaseState, MemoryClaim, ModelClaim
from inferd.core.leases import Leases
from inferd.core.model import Hold, Instance, InstanceState
from inferd.core.priority import Priority
from inferd.core.relief import Relief
from inferd.core.resources import MemoryNeed, size_text
from inferd.errors import InferdError, LeaseUnavailableError, present

MOST_PASSING = 16  # of a line are looked at, of those that wait behind others


class Capacity:
    """Gives memory, cores and parts of models, and takes them back. One writer: the kernel machine.

    The first in all of its lines goes when there is room. Whoever stands behind others passes them

    - when what it takes and what those before it want of the same things is all free: they wait for something else;
    - when it is a load, the first in line cannot go, and it fits what is free: what it takes comes back. It drains at
      once when the first could go without it (`Relief`), and no lease gets a part of it before.

    Attributes:
        alarms: Of what is due at some time.
    """

    def __init__(self, broker: Broker, fleet: Fleet, leases: Leases, drain_s: float, out: list[Reply]) -> None:
        self._broker = broker
        self._fleet = fleet
        self._leases = leases
        self._waiters = leases.waiters
        self._relief = Relief(broker, fleet, drain_s)
        self.alarms = (self._relief.alarms,)
        self._drain_s = drain_s
        self._heads: dict[DeviceId, str | None] = {}  # who stood first in the line for the memory of a device
        self._loads: dict[DeviceId, dict[InstanceId, None]] = {}  # instances that wait for memory
        self._out = out

    # Leases.

    def create_lease(self, spec: LeaseSpec, now: float) -> Lease:
        """Grant a lease, or have it wait.

        Raises:
            InvalidFieldError: It claims more than there is at all, or its TTL is outside its bounds.
            ModelNotFoundError: It claims a part of a model that is not known.
            LimitExceededError: There are too many leases.
            LeaseUnavailableError: There is no room now, and it does not want to wait.
        """
        ttl_s = self._leases.check(spec, now)
        spec = choose_devices(spec, self._broker)
        check_possible(spec, self._broker, self._fleet.models)
        lines = lines_of(spec)
        lack = self._lack(spec, now)
        behind = not self._may_pass(wants_of(spec), self._leases.rank(spec.priority, now))
        if not spec.wait and (lack.blocked or lack.load or behind):
            why = lack.words or "others wait for the same before it"
            raise LeaseUnavailableError(f"no room now: {why}; set wait, or try again later", metadata=lack.metadata)
        lease = self._leases.add(spec, ttl_s, now)
        self._leases.wait(lease, lines, lack.words or "those before it")
        self.serve(lines, now)
        return lease

    def end_lease(self, lease: Lease, change: LeaseChange, now: float, error: InferdError | None = None) -> None:
        """End a lease and take back all that hangs on it; its tasks have been ended already."""
        spec, active = lease.spec, lease.state is LeaseState.ACTIVE
        self._leases.end(lease, change, now, error)
        lines = dict.fromkeys(self._waiters.remove(spec.lease_id))
        if active:
            for instance_id in lease.instances:
                if instance_id in self._fleet.instances:
                    self._fleet.stop(self._fleet.instances[instance_id])
            self._broker.end_lease(spec.lease_id, lease.instances)
            for claim in spec.claims:
                if isinstance(claim, ModelClaim):
                    self._end_hold(lease, claim.model)
            lines |= dict.fromkeys(lines_of(spec))
        self.serve(lines, now)

    def refuse_waiting(self, name: ModelName, error: InferdError, now: float) -> None:
        """A model cannot be loaded: leases that wait for a part of it wait in vain."""
        for key in self._waiters.line(model_line(name)):
            self.end_lease(self._leases.known[LeaseId(key)], LeaseChange.REFUSE, now, error)

    def wanted(self, name: ModelName) -> bool:
        """Whether a lease waits for a part of a model."""
        return bool(self._waiters.line(model_line(name)))

    # Instances.

    def instance_needs(self, instance: Instance, need: MemoryNeed, now: float, *, may_wait: bool) -> None:
        """Reserve what an instance needs, after evicting idle ones if that helps; else it waits, or is refused."""
        wanted, room = need.total_bytes, gangs.room_bytes(self._broker, instance)
        if instance.lease_id:
            if wanted <= room:
                self._reserve(instance, now)
            else:
                held = f"lease {instance.lease_id} has {size_text(room)} left on {' and '.join(instance.device_ids)}"
                self._fleet.refused(instance, no_memory(instance, wanted, room, room, held), now)
            return
        plan = gangs.plan(self._broker, instance.device_ids, need)
        if wanted > plan.capacity_bytes or (not plan.fits and not may_wait):
            self.refuse_load(instance, now)
            return
        self._broker.expect(instance.instance_id, instance.device_ids, wanted)
        lines = tuple(map(memory_line, instance.device_ids))
        rank = self._leases.rank(Priority.NORMAL, instance.created)
        if (lease_id := self._waiters.head(model_line(instance.model))) is not None:
            rank = min(rank, nextafter(self._waiters.rank(lease_id), -inf))  # which may stand in these lines, too
        self._waiters.add(instance.instance_id, lines, rank, now)
        self._loads.setdefault(instance.device_id, {})[instance.instance_id] = None
        self.serve(lines, now)

    def take_over(self, instance: Instance, need: MemoryNeed) -> bool:
        """An instance that no kernel has to load holds what it needs already; False where that is not free."""
        return self._broker.take_over(instance.instance_id, instance.device_ids, need, instance.lease_id)

    def instance_ready(self, instance: Instance, now: float) -> None:
        """An instance takes tasks: leases whose part of the model was lost get it again, then those that wait."""
        model = self._fleet.models[instance.model]
        for lease_id, kept in model.leases.items():
            claim = self._claim_of(lease_id, instance.model)
            if kept is None and not instance.lease_id and has_room(instance, claim):
                self._hold(self._leases.known[lease_id], claim, instance)
        self.serve((model_line(instance.model), *map(memory_line, instance.device_ids)), now)

    def instance_gone(self, instance: Instance, now: float) -> None:
        """The worker of an instance is gone: what it held is free."""
        lines = dict.fromkeys(self._waiters.remove(instance.instance_id))
        lines |= dict.fromkeys(map(memory_line, self._broker.give_back(instance.instance_id)))
        model = self._fleet.models[instance.model]
        for lease_id in instance.holds:
            model.leases[lease_id] = None
        instance.holds.clear()
        self._leases.end_instance(instance.lease_id, instance.instance_id)
        self.serve(lines, now)

    def serve(self, lines: Iterable[str], now: float) -> None:
        """Something was given back: let those go that wait for it, in their order."""
        todo = list(lines)
        while todo:
            line = todo.pop()
            while (key := self._waiters.first(line)) is not None and self._go(key, now):
                todo += self._waiters.remove(key)
            for key in self._waiters.front(line, MOST_PASSING):
                if self._pass(key, now):
                    todo += self._waiters.remove(key)
            if line.startswith(MEMORY):
                self._pass_loads(device_of(line), now)
                self._relieve(line, now)

    def serve_eased(self, now: float) -> None:
        """Serve those who wait for the devices that may have more room than before."""
        while self._broker.eased:
            device_id = next(iter(self._broker.eased))
            del self._broker.eased[device_id]
            self.serve((memory_line(device_id),), now)

    def relieve_eased(self, now: float) -> None:
        """See anew who is to drain on the devices that may have more room than before, or less."""
        for device_id in self._broker.eased:
            self._relieve(memory_line(device_id), now)

    def ring(self, now: float) -> None:
        """Have those instances drain that are to drain now."""
        while (device_id := self._relief.pop_due(now)) is not None:
            self.serve((memory_line(device_id),), now)

    @property
    def eased(self) -> bool:
        """Whether `take_eased` has something to tell."""
        return bool(self._relief.eased)

    def take_eased(self, now: float) -> dict[ModelName, None]:
        """Models that take tasks again, or where stopped ones go on; leases get parts of them again."""
        eased, self._relief.eased = self._relief.eased, {}
        self.serve(map(model_line, eased), now)
        return eased

    # Devices whose hosts come and go.

    def close(self, device_ids: Iterable[DeviceId]) -> None:
        """Nothing is given of some devices any more: nobody there drains for others."""
        for device_id in device_ids:
            self._relief.stop(device_id)

    def reopen(self, device_ids: Iterable[DeviceId], now: float) -> None:
        """Some devices give again what they have, or have more than before."""
        for device_id in device_ids:
            self.serve((memory_line(device_id), cores_line(device_id)), now)

    def lessees(self, device_ids: Collection[DeviceId]) -> list[Lease]:
        """The leases that hold something of one of these devices."""
        return [self._leases.known[lease_id] for lease_id in self._broker.lessees(device_ids)]

    def refuse_load(self, instance: Instance, now: float) -> None:
        """An instance needs more than there is, or more than there is now and may not wait."""
        need = present(instance.need)
        plan = gangs.plan(self._broker, instance.device_ids, need)
        error = no_memory(instance, need.total_bytes, plan.free_bytes, plan.capacity_bytes, plan.reason)
        self._fleet.refused(instance, error, now)
        self._waiters.remove(instance.instance_id)

    def forget_devices(self, device_ids: Iterable[DeviceId]) -> None:
        """Some devices are gone for good."""
        for device_id in device_ids:
            self._heads.pop(device_id, None)
            self._loads.pop(device_id, None)

    # What waits, goes.

    def _go(self, key: str, now: float) -> bool:
        lease = self._leases.known.get(LeaseId(key))
        if lease is None:
            return self._go_instance(self._fleet.instances[InstanceId(key)], now)
        lack = self._lack(lease.spec, now)
        if not lack.words:
            self._grant(lease, lack, now)
            return True
        self._leases.lack(lease, lack.words)
        if not lack.blocked:
            for instance_id in lack.evict:
                self._fleet.stop(self._fleet.instances[instance_id])
            for model in lack.load:
                self._fleet.start_on_demand(model, now)
        return False

    def _go_instance(self, instance: Instance, now: float) -> bool:
        if instance.state is not InstanceState.WAITING or instance.need is None:
            return True  # it is being stopped
        wanted = instance.need.total_bytes
        if wanted <= gangs.room_bytes(self._broker, instance):
            self._reserve(instance, now)
            return True
        for instance_id in gangs.evictions(self._broker, instance.device_ids, wanted) or ():
            self._fleet.stop(self._fleet.instances[instance_id])
        return False

    # Who passes others, and who makes way for them.

    def _wants(self, key: str) -> Mapping[str, int]:
        """The lines that a waiter stands in, each with what it wants there."""
        if (lease := self._leases.known.get(LeaseId(key))) is not None:
            return wants_of(lease.spec)
        instance = self._fleet.instances[InstanceId(key)]
        wanted = 0 if instance.need is None else instance.need.total_bytes
        return dict.fromkeys(map(memory_line, instance.device_ids), wanted)

    def _may_pass(self, wants: Mapping[str, int], rank: float, key: str | None = None) -> bool:
        """Whether what a waiter or a newcomer wants is free, with what those before it want of the same."""
        for line, wanted in wants.items():
            before = self._waiters.before(line, rank, MOST_PASSING, key=key)
            if before is None:
                return False
            if not before:
                continue
            account = self._broker.devices.get(device_of(line))
            if account is None or not line.startswith((MEMORY, CORES)):
                return False
            free = account.free_bytes if line.startswith(MEMORY) else account.free_cores
            if wanted + sum(self._wants(each)[line] for each in before) > free:
                return False
        return True

    def _pass(self, key: str, now: float) -> bool:
        """Let a waiter go before others, if it delays none of them; whether it went."""
        if key not in self._waiters or not self._may_pass(self._wants(key), 0.0, key):
            return False
        lease = self._leases.known.get(LeaseId(key))
        if lease is None:
            instance = self._fleet.instances[InstanceId(key)]
            fits = self._wants(key)[memory_line(instance.device_id)] <= gangs.room_bytes(self._broker, instance)
            return fits and self._go_instance(instance, now)
        lack = self._lack(lease.spec, now)
        if not lack.words:
            self._grant(lease, lack, now)
        return not lack.words

    def _pass_loads(self, device_id: DeviceId, now: float) -> None:
        """Let loads go that fit what is free, though others wait before them: what they take comes back."""
        line, loads = memory_line(device_id), self._loads.get(device_id, {})
        for instance_id in list(islice(loads, MOST_PASSING)):
            if instance_id not in self._waiters:
                del loads[instance_id]
                continue
            instance, head = self._fleet.instances[instance_id], self._waiters.head(line)
            wanted = self._wants(instance_id)[line]
            if head is None or instance.state is not InstanceState.WAITING:
                continue
            comes_back = self._fleet.models[instance.model].least == 0
            first = self._wants(head)[line]
            blocked = self._broker.shortfall_bytes(device_id, first) > 0
            left = self._broker.shortfall_bytes(device_id, first + wanted) <= 0
            if wanted <= gangs.room_bytes(self._broker, instance) and comes_back and (blocked or left):
                self._reserve(instance, now)
                self._waiters.remove(instance_id)
                del loads[instance_id]

    def _relieve(self, line: str, now: float) -> None:
        """Have those drain that are in the way of the first in a line for memory, if it waits for nothing else."""
        device_id, key = device_of(line), self._waiters.first(line)
        account = self._broker.devices.get(device_id)
        if account is None or not account.open:
            return  # whoever is there drains with its host
        if (head := self._waiters.head(line)) != self._heads.get(device_id):  # what instances there owe has changed
            self._heads[device_id] = head
            models = {self._fleet.instances[i].model: None for i in account.held_by}
            self._relief.eased |= models
        lease = None if key is None else self._leases.known.get(LeaseId(key))
        if key is None or (lease is not None and self._lack(lease.spec, now).elsewhere):
            self._relief.stop(device_id)
        else:
            since = self._waiters.since(line, MOST_PASSING)
            self._relief.relieve(device_id, self._wants(key)[line], since, now)

    def _owes(self, instance: Instance, lease_id: str, now: float) -> bool:
        """Whether no lease may get a part of an instance: another waits before it for the memory that it holds."""
        line = memory_line(instance.device_id)
        head = self._waiters.head(line)
        if head is None or head == lease_id:
            return instance.draining
        since = self._waiters.since(line, MOST_PASSING)
        return instance.draining or instance.reserved > since or now >= since + self._drain_s

    def _reserve(self, instance: Instance, now: float) -> None:
        self._broker.reserve(instance.instance_id, instance.device_ids, present(instance.need), instance.lease_id)
        self._fleet.reserved(instance, now)
        self._out.append(ProceedLoad(instance.instance_id))

    def _grant(self, lease: Lease, lack: Lack, now: float) -> None:
        self._leases.grant(lease, now)
        for claim in lease.spec.claims:
            match claim:
                case MemoryClaim():
                    self._broker.claim(lease.spec.lease_id, claim.device_id, size_bytes=claim.memory_bytes)
                case CoresClaim():
                    self._broker.claim(lease.spec.lease_id, claim.device_id, cores=claim.cores)
        for part, instance in lack.holds:
            self._hold(lease, part, instance)

    # What a lease lacks.

    def _lack(self, spec: LeaseSpec, now: float) -> Lack:
        lack = Lack()
        memory, cores = sums(spec)
        for claim in spec.claims:
            if isinstance(claim, ModelClaim):
                self._lack_of_model(claim, lack, spec.lease_id, now)
        lack.elsewhere = bool(lack.blocked or lack.load)
        keep = [instance.instance_id for _, instance in lack.holds]
        for device_id, wanted in memory.items():
            account = self._broker.devices[device_id]
            if wanted <= account.free_bytes:
                continue
            evict = self._broker.evictions(device_id, wanted, keep=keep)
            if evict is None:
                held = self._broker.plan(device_id, MemoryNeed(weights_bytes=wanted))
                lack.blocked = f"{size_text(wanted)} of {device_id}; the claim {held.reason}"
                figures = {"wanted": wanted, "free": account.free_bytes, "capacity": account.capacity_bytes}
                lack.metadata = {"device": device_id, **{name: str(value) for name, value in figures.items()}}
            else:
                waits_for_stopping = not evict
                lack.evict += evict
                if waits_for_stopping:
                    lack.evict += [i for i in self._stopping(device_id) if i not in lack.evict]
        for device_id, wanted in cores.items():
            account = self._broker.devices[device_id]
            if wanted > account.free_cores:
                lack.elsewhere = True
                lack.blocked = f"{wanted} cores of {device_id}, {account.free_cores} of {account.cores} are free"
                figures = {"wanted": wanted, "free": account.free_cores, "capacity": account.cores}
                lack.metadata = {"device": device_id, **{name: str(value) for name, value in figures.items()}}
        return lack

    def _stopping(self, device_id: DeviceId) -> list[InstanceId]:
        held = self._broker.reservations()
        return [name for name, r in held.items() if r.stopping and device_id in r.device_ids]

    def _lack_of_model(self, claim: ModelClaim, lack: Lack, lease_id: LeaseId, now: float) -> None:
        model = self._fleet.models[claim.model]
        ready = [i for i in model.shared if i.state is InstanceState.READY]
        fitting = [i for i in ready if has_room(i, claim) and not self._owes(i, lease_id, now)]
        if fitting:
            lack.holds.append((claim, max(fitting, key=lambda i: i.free_places)))
        elif ready:
            held = sum(hold.sequences for i in ready for hold in i.holds.values())
            tokens = sum(hold.kv_tokens for i in ready for hold in i.holds.values())
            lack.blocked = (
                f"{claim.sequences} places and {claim.kv_tokens} KV tokens of model {claim.model!r}, whose instances"
                f" keep {held} places and {tokens} KV tokens for other leases"
            )
            lack.metadata = {"model": claim.model, "held_sequences": str(held), "held_kv_tokens": str(tokens)}
        elif model.shared:
            lack.blocked = f"model {claim.model!r} to be loaded"
            lack.metadata = {"model": claim.model}
        else:
            lack.load.append(model)
            lack.metadata = {"model": claim.model}

    # Parts of models.

    def _hold(self, lease: Lease, claim: ModelClaim, instance: Instance) -> None:
        lease_id, model = lease.spec.lease_id, self._fleet.models[claim.model]
        instance.holds[lease_id] = Hold(claim.sequences, claim.kv_tokens)
        model.leases[lease_id] = instance.instance_id
        if claim.sequences or claim.kv_tokens:  # zeros would say that the hold is over
            self._out.append(
                HoldCapacity(instance.instance_id, lease_id, lease.fencing_token, claim.sequences, claim.kv_tokens)
            )
        self._fleet.refresh(model)

    def _end_hold(self, lease: Lease, name: ModelName) -> None:
        model, lease_id = self._fleet.models[name], lease.spec.lease_id
        instance_id = model.leases.pop(lease_id, None)
        instance = None if instance_id is None else self._fleet.instances.get(instance_id)
        hold = None if instance is None else instance.holds.pop(lease_id, None)
        if instance is not None and hold is not None:
            self._fleet.refresh_drain(instance)
        if instance is not None and hold is not None and (hold.sequences or hold.kv_tokens):
            self._out.append(HoldCapacity(instance.instance_id, lease_id, lease.fencing_token, 0, 0))
        self._fleet.refresh(model)

    def _claim_of(self, lease_id: LeaseId, name: ModelName) -> ModelClaim:
        claims = self._leases.known[lease_id].spec.claims
        return next(c for c in claims if isinstance(c, ModelClaim) and c.model == name)
