"""Holders of leases: those who keep them alive and give them back, and those who die, sleep, or come too late."""

from enum import Enum

from clients import Clients
from scale import TENANTS
from world import World

from inferd.core import changes, commands, events
from inferd.core.ids import LeaseId, ModelName
from inferd.core.lease import Claim, CoresClaim, LeaseSpec, LeaseState, MemoryClaim, ModelClaim
from inferd.core.priority import Priority

PATIENCE_S = 10.0  # after which a holder gives up waiting


class Manner(Enum):
    """How a holder behaves."""

    GOOD = 1  # keeps it alive in time and gives it back
    DYING = 2  # never comes back
    SLEEPY = 3  # comes back long after its end and believes that it still holds
    TARDY = 4  # keeps it alive about when it ends


class Holder:
    """One holder of one lease. One writer: its world."""

    def __init__(self, world: World, clients: Clients) -> None:
        rng = world.random
        self.lease_id = LeaseId(f"l{world.number()}")
        self._world = world
        self._clients = clients
        self._tenant = rng.choice(TENANTS)
        self._manner = rng.choices([*Manner], [6, 2, 1, 2])[0]
        self._ttl_s = rng.choice([None, rng.uniform(0.4, 5.0)])
        self._hold_s = rng.choice([0.2, 0.5, 1.0, 5.0])
        self._claims = tuple(self._draw() for _ in range(rng.choice([1, 1, 1, 2, 3])))
        self._active = False

    def claim(self) -> bool:
        """Create the lease; whether it was accepted."""
        world, rng = self._world, self._world.random
        spec = LeaseSpec(
            lease_id=self.lease_id,
            tenant=self._tenant,
            claims=self._claims,
            ttl_s=self._ttl_s,
            priority=rng.choice([*Priority]),
            wait=rng.random() < 0.85,
            wait_s=rng.uniform(0.0, 5.0) if rng.random() < 0.4 else None,
        )
        if not world.tell(events.CreateLease(spec)):
            return False
        if self._manner is not Manner.DYING:
            self._keep_later()
            world.later(self._hold_s + PATIENCE_S, self._release)
        return True

    def told(self) -> None:
        """The lease has changed: use it when it is granted."""
        if self._holds() and not self._active:
            self._active = True
            for claim in self._claims:
                self._use(claim)
            if self._manner in (Manner.GOOD, Manner.TARDY):
                self._world.later(self._hold_s, self._release)

    def _holds(self) -> bool:
        held = self._world.mirror.leases.known.get(self.lease_id)
        return held is not None and held.state is LeaseState.ACTIVE

    def _draw(self) -> Claim:
        world, rng, roll = self._world, self._world.random, self._world.random.random()
        device = rng.choice(world.devices if rng.random() < 0.8 else world.devices[:4])
        if roll < 0.5:
            most = rng.choice([0.05, 0.1, 0.3, 0.3, 0.6, 1.02])
            return MemoryClaim(device_id=device.device_id, memory_bytes=rng.randint(1, int(device.memory_bytes * most)))
        if roll < 0.7:
            cores = rng.randint(1, rng.choice([1, device.cores // 2, device.cores]))
            return CoresClaim(device_id=device.device_id, cores=cores)
        name = rng.choice([*world.models])
        sequences = rng.randint(0, world.models[name].facts.max_tasks + (rng.random() < 0.1))
        return ModelClaim(model=name, sequences=sequences, kv_tokens=rng.choice([0, 100, 600]))

    def _use(self, claim: Claim) -> None:
        world, rng = self._world, self._world.random
        match claim:
            case ModelClaim():
                for _ in range(rng.randint(0, claim.sequences + 1)):
                    self._submit_later(claim.model)
            case MemoryClaim() if rng.random() < 0.5:
                names = [name for name, model in world.models.items() if claim.device_id in model.needs]
                if names:
                    name = rng.choice(names)
                    world.later(0.1, lambda: self._load(name))
            case _:
                pass

    def _load(self, name: ModelName) -> None:
        if self._world.tell(events.LoadModel(name, self._tenant, self.lease_id)):
            for _ in range(3):
                self._submit_later(name)

    def _submit_later(self, name: ModelName) -> None:
        self._world.later(0.3, lambda: self._submit(name))

    def _submit(self, name: ModelName) -> None:
        if self._holds() or self._world.random.random() < 0.2:
            self._clients.submit(name, self._tenant, self.lease_id)

    def _keep_later(self) -> None:
        share = {Manner.GOOD: 0.15, Manner.TARDY: 0.6, Manner.SLEEPY: 5.0}[self._manner]
        self._world.later((self._ttl_s or 3.0) * share, self._keep)

    def _keep(self) -> None:
        rng = self._world.random
        ttl_s = rng.uniform(0.4, 5.0) if rng.random() < 0.1 else None
        if self._world.tell(events.KeepAlive(self.lease_id, self._tenant, ttl_s)):
            self._keep_later()

    def _release(self) -> None:
        if self.lease_id in self._world.mirror.leases.known:
            self._world.tell(events.ReleaseLease(self.lease_id, self._tenant))


class Holders:
    """All holders. One writer: its world."""

    def __init__(self, world: World, clients: Clients) -> None:
        self.left = world.scale.leases
        self.rate = world.scale.hosts**0.8 * world.random.uniform(2.0, 6.0)
        self._world = world
        self._clients = clients
        self._living: dict[LeaseId, Holder] = {}

    def claim_next(self) -> None:
        """Have someone claim something, and others after it."""
        if self.left:
            self.left -= 1
            holder = Holder(self._world, self._clients)
            self._living[holder.lease_id] = holder
            if not holder.claim():
                del self._living[holder.lease_id]
            self._world.later(1 / self.rate, self.claim_next)

    def told(self, command: commands.Reply) -> None:
        """Tell a holder of its lease."""
        match command:
            case changes.LeaseChanged() if command.lease_id in self._living:
                self._living[command.lease_id].told()
            case changes.LeaseForgotten():
                self._living.pop(command.lease_id, None)
            case _:
                pass
