"""Who gets capacity: instances that load and leases, in one order. Nobody else reserves and claims at the broker."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from inferd.core.admission import find_model
from inferd.core.broker import Broker
from inferd.core.commands import Command, HoldCapacity, ProceedLoad
from inferd.core.fleet import Fleet
from inferd.core.ids import DeviceId, InstanceId, LeaseId, ModelName
from inferd.core.lease import CoresClaim, Lease, LeaseChange, LeaseSpec, LeaseState, MemoryClaim, ModelClaim
from inferd.core.leases import Leases
from inferd.core.model import Hold, Instance, InstanceState, Model
from inferd.core.priority import Priority
from inferd.core.resources import MemoryNeed, size_text
from inferd.errors import InferdError, InvalidFieldError, LeaseUnavailableError, NoMemoryError


@dataclass(slots=True)
class Lack:
    """What stands between a lease and its grant.

    Attributes:
        blocked: What it can only wait for, in words; "" when nothing.
        metadata: The same in figures.
        evict: Idle instances to stop first.
        load: Models to load first.
        holds: The instances that would keep its parts of models.
    """

    blocked: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    evict: list[InstanceId] = field(default_factory=list)
    load: list[Model] = field(default_factory=list)
    holds: list[tuple[ModelClaim, Instance]] = field(default_factory=list)

    @property
    def words(self) -> str:
        """What it waits for; "" when nothing is lacking."""
        if self.blocked:
            return self.blocked
        if self.load:
            return f"model {self.load[0].spec.name!r} to be loaded"
        return f"idle instances to end: {', '.join(self.evict)}" if self.evict else ""


class Capacity:
    """Gives memory, cores and parts of models, and takes them back. One writer: the kernel machine."""

    def __init__(self, broker: Broker, fleet: Fleet, leases: Leases, out: list[Command]) -> None:
        self._broker = broker
        self._fleet = fleet
        self._leases = leases
        self._waiters = leases.waiters
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
        ttl_s = self._leases.check(spec)
        self._check_possible(spec)
        lines = _lines(spec)
        lack = self._lack(spec)
        behind = self._waiters.would_wait(lines, self._leases.rank(spec.priority, now))
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
            lines |= dict.fromkeys(_lines(spec))
        self.serve(lines, now)

    def refuse_waiting(self, name: ModelName, error: InferdError, now: float) -> None:
        """A model cannot be loaded: leases that wait for a part of it wait in vain."""
        for key in self._waiters.line(_model_line(name)):
            self.end_lease(self._leases.known[LeaseId(key)], LeaseChange.REFUSE, now, error)

    def wanted(self, name: ModelName) -> bool:
        """Whether a lease waits for a part of a model."""
        return bool(self._waiters.line(_model_line(name)))

    # Instances.

    def instance_needs(self, instance: Instance, need: MemoryNeed, now: float, *, may_wait: bool) -> None:
        """Reserve what an instance needs, after evicting idle ones if that helps; else it waits, or is refused."""
        self._fleet.needs(instance, need)
        wanted, room = need.total_bytes, self._broker.room_bytes(instance.device_id, instance.lease_id)
        if instance.lease_id:
            if wanted <= room:
                self._reserve(instance)
            else:
                held = f"lease {instance.lease_id} has {size_text(room)} left on {instance.device_id}"
                self._fleet.refused(instance, _no_memory(instance, wanted, room, room, held), now)
            return
        account = self._broker.devices[instance.device_id]
        plan = self._broker.plan(instance.device_id, need)
        if wanted > account.capacity_bytes or (not plan.fits and not may_wait):
            error = _no_memory(instance, wanted, account.free_bytes, account.capacity_bytes, plan.reason)
            self._fleet.refused(instance, error, now)
            return
        line = _memory_line(instance.device_id)
        for_lease = self.wanted(instance.model)  # it stands in this line, too, and would wait for itself
        rank = float("-inf") if for_lease else self._leases.rank(Priority.NORMAL, instance.created)
        self._waiters.add(instance.instance_id, (line,), rank)
        self.serve((line,), now)

    def instance_ready(self, instance: Instance, now: float) -> None:
        """An instance takes tasks: leases whose part of the model was lost get it again, then those that wait."""
        model = self._fleet.models[instance.model]
        for lease_id, kept in model.leases.items():
            claim = self._claim_of(lease_id, instance.model)
            if kept is None and not instance.lease_id and _has_room(instance, claim):
                self._hold(self._leases.known[lease_id], claim, instance)
        self.serve((_model_line(instance.model), _memory_line(instance.device_id)), now)

    def instance_gone(self, instance: Instance, now: float) -> None:
        """The worker of an instance is gone: what it held is free."""
        lines = dict.fromkeys(self._waiters.remove(instance.instance_id))
        device_id = self._broker.give_back(instance.instance_id)
        if device_id is not None:
            lines[_memory_line(device_id)] = None
        model = self._fleet.models[instance.model]
        for lease_id in instance.holds:
            model.leases[lease_id] = None
        instance.holds.clear()
        if instance.lease_id and (lease := self._leases.known.get(instance.lease_id)) is not None:
            lease.instances.pop(instance.instance_id, None)
        self.serve(lines, now)

    def serve(self, lines: Iterable[str], now: float) -> None:
        """Something was given back: let those go that wait for it, in their order."""
        todo = list(lines)
        while todo:
            line = todo.pop()
            while (key := self._waiters.first(line)) is not None and self._go(key, now):
                todo += self._waiters.remove(key)

    def serve_eased(self, now: float) -> None:
        """Serve those who wait for the devices that may have more room than before."""
        while self._broker.eased:
            device_id = next(iter(self._broker.eased))
            del self._broker.eased[device_id]
            self.serve((_memory_line(device_id),), now)

    # What waits, goes.

    def _go(self, key: str, now: float) -> bool:
        lease = self._leases.known.get(LeaseId(key))
        if lease is None:
            return self._go_instance(self._fleet.instances[InstanceId(key)])
        lack = self._lack(lease.spec)
        if not lack.words:
            self._grant(lease, lack, now)
            return True
        lease.waits_for = lack.words
        if not lack.blocked:
            for instance_id in lack.evict:
                self._fleet.stop(self._fleet.instances[instance_id])
            for model in lack.load:
                self._fleet.start_on_demand(model, now)
        return False

    def _go_instance(self, instance: Instance) -> bool:
        if instance.state is not InstanceState.WAITING or instance.need is None:
            return True  # it is being stopped
        wanted = instance.need.total_bytes
        if wanted <= self._broker.room_bytes(instance.device_id, instance.lease_id):
            self._reserve(instance)
            return True
        for instance_id in self._broker.evictions(instance.device_id, wanted) or ():
            self._fleet.stop(self._fleet.instances[instance_id])
        return False

    def _reserve(self, instance: Instance) -> None:
        assert instance.need is not None  # noqa: S101 - the caller has checked that there is room for it
        self._broker.reserve(instance.instance_id, instance.device_id, instance.need, instance.lease_id)
        self._fleet.reserved(instance)
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

    def _check_possible(self, spec: LeaseSpec) -> None:
        memory, cores = _sums(spec)
        for number, claim in enumerate(spec.claims):
            where = f"spec.claims[{number}]"
            match claim:
                case MemoryClaim():
                    account = self._broker.account(claim.device_id, field=f"{where}.memory.device_id")
                    if memory[claim.device_id] > account.capacity_bytes:
                        raise InvalidFieldError(
                            f"{size_text(memory[claim.device_id])} of {claim.device_id} are claimed, which has"
                            f" {size_text(account.capacity_bytes)} to give",
                            field=f"{where}.memory.bytes",
                        )
                case CoresClaim():
                    account = self._broker.account(claim.device_id, field=f"{where}.cores.device_id")
                    if cores[claim.device_id] > account.cores:
                        raise InvalidFieldError(
                            f"{cores[claim.device_id]} cores of {claim.device_id} are claimed, which has"
                            f" {account.cores}",
                            field=f"{where}.cores.cores",
                        )
                case ModelClaim():
                    self._check_model(claim, where)
                    if sum(isinstance(c, ModelClaim) and c.model == claim.model for c in spec.claims) > 1:
                        message = f"model {claim.model!r} is claimed twice; add the claims up"
                        raise InvalidFieldError(message, field=f"{where}.model.model")

    def _check_model(self, claim: ModelClaim, where: str) -> None:
        model = find_model(self._fleet.models, claim.model)
        facts = next((i.facts for i in model.shared if i.facts is not None), None)
        if facts is None:
            return
        for name, wanted, there in (
            ("sequences", claim.sequences, facts.max_tasks),
            ("kv_tokens", claim.kv_tokens, facts.kv_tokens),
        ):
            if wanted > there:
                message = f"{name} is {wanted}; an instance of {claim.model!r} has {there}"
                raise InvalidFieldError(message, field=f"{where}.model.{name}")

    def _lack(self, spec: LeaseSpec) -> Lack:
        lack = Lack()
        memory, cores = _sums(spec)
        for claim in spec.claims:
            if isinstance(claim, ModelClaim):
                self._lack_of_model(claim, lack)
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
                lack.blocked = f"{wanted} cores of {device_id}, {account.free_cores} of {account.cores} are free"
                figures = {"wanted": wanted, "free": account.free_cores, "capacity": account.cores}
                lack.metadata = {"device": device_id, **{name: str(value) for name, value in figures.items()}}
        return lack

    def _stopping(self, device_id: DeviceId) -> list[InstanceId]:
        held = self._broker.reservations()
        return [name for name, r in held.items() if r.stopping and r.device_id == device_id]

    def _lack_of_model(self, claim: ModelClaim, lack: Lack) -> None:
        model = self._fleet.models[claim.model]
        ready = [i for i in model.shared if i.state is InstanceState.READY]
        fitting = [i for i in ready if _has_room(i, claim)]
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
        if instance is not None and hold is not None and (hold.sequences or hold.kv_tokens):
            self._out.append(HoldCapacity(instance.instance_id, lease_id, lease.fencing_token, 0, 0))
        self._fleet.refresh(model)

    def _claim_of(self, lease_id: LeaseId, name: ModelName) -> ModelClaim:
        claims = self._leases.known[lease_id].spec.claims
        return next(c for c in claims if isinstance(c, ModelClaim) and c.model == name)


def _sums(spec: LeaseSpec) -> tuple[Counter[DeviceId], Counter[DeviceId]]:
    """Memory and cores that a lease claims of each device."""
    memory: Counter[DeviceId] = Counter()
    cores: Counter[DeviceId] = Counter()
    for claim in spec.claims:
        match claim:
            case MemoryClaim():
                memory[claim.device_id] += claim.memory_bytes
            case CoresClaim():
                cores[claim.device_id] += claim.cores
    return memory, cores


def _lines(spec: LeaseSpec) -> tuple[str, ...]:
    """The lines that a lease stands in, each once."""
    lines: dict[str, None] = {}
    for claim in spec.claims:
        match claim:
            case MemoryClaim():
                lines[_memory_line(claim.device_id)] = None
            case CoresClaim():
                lines[f"cores/{claim.device_id}"] = None
            case ModelClaim():
                lines[_model_line(claim.model)] = None
    return tuple(lines)


def _memory_line(device_id: DeviceId) -> str:
    return f"memory/{device_id}"


def _model_line(name: ModelName) -> str:
    return f"model/{name}"


def _has_room(instance: Instance, claim: ModelClaim) -> bool:
    assert instance.facts is not None  # noqa: S101 - it is READY
    sequences = sum(hold.sequences for hold in instance.holds.values())
    kv_tokens = sum(hold.kv_tokens for hold in instance.holds.values())
    fits = sequences + claim.sequences <= instance.facts.max_tasks
    return fits and kv_tokens + claim.kv_tokens <= instance.facts.kv_tokens


def _no_memory(instance: Instance, wanted: int, free: int, capacity: int, why: str) -> NoMemoryError:
    figures = {"needed_bytes": wanted, "free_bytes": free, "capacity_bytes": capacity}
    return NoMemoryError(
        f"model {instance.model!r} needs {size_text(wanted)}: {why}; lower its settings, or free memory",
        metadata={"device": instance.device_id, **{name: str(value) for name, value in figures.items()}},
    )
