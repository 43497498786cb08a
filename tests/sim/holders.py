"""Holders of leases: those who keep them alive and give them back, and those who die, sleep, or come too late."""

import random
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Protocol

from inferd.core import events
from inferd.core.ids import DeviceId, LeaseId, ModelName, Tenant
from inferd.core.lease import Claim, CoresClaim, LeaseSpec, LeaseState, MemoryClaim, ModelClaim
from inferd.core.model import InstanceFacts
from inferd.core.priority import Priority
from inferd.core.resources import DeviceCapacity, MemoryNeed


class Manner(Enum):
    """How a holder behaves."""

    GOOD = 1  # keeps it alive in time and gives it back
    DYING = 2  # never comes back
    SLEEPY = 3  # comes back long after its end and believes that it still holds
    TARDY = 4  # keeps it alive about when it ends


class World(Protocol):
    """What a holder needs of the simulation."""

    random: random.Random
    now: float
    devices: list[DeviceCapacity]
    granted: dict[LeaseId, "Holder"]
    homes: dict[DeviceId, list[ModelName]]

    def later(self, mean_s: float, action: Callable[[], None]) -> None: ...
    def tell(self, event: events.Event) -> bool: ...
    def submit(self, model: ModelName, tenant: Tenant, lease_id: LeaseId) -> None: ...
    def holds(self, lease_id: LeaseId) -> LeaseState | None: ...


class Holder:
    """One holder of one lease. One writer: its world."""

    def __init__(self, world: World, lease_id: LeaseId, tenant: Tenant) -> None:
        self._world = world
        self._lease_id = lease_id
        self._tenant = tenant
        rng = world.random
        self._manner = rng.choices([*Manner], [6, 2, 1, 2])[0]
        self._ttl_s = rng.choice([None, rng.uniform(0.4, 5.0)])
        self._hold_s = rng.choice([0.2, 1.0, 5.0])
        self._claims: tuple[Claim, ...] = ()
        self._active = False

    def claim(self, models: Sequence[tuple[ModelName, tuple[MemoryNeed, InstanceFacts]]]) -> None:
        """Create the lease."""
        world, rng = self._world, self._world.random
        self._claims = tuple(self._draw(models) for _ in range(rng.choice([1, 1, 1, 2, 3])))
        spec = LeaseSpec(
            lease_id=self._lease_id,
            tenant=self._tenant,
            claims=self._claims,
            ttl_s=self._ttl_s,
            priority=rng.choice([*Priority]),
            wait=rng.random() < 0.7,
            wait_s=rng.uniform(0.0, 5.0) if rng.random() < 0.4 else None,
        )
        world.granted[self._lease_id] = self
        if not world.tell(events.CreateLease(spec)):
            del world.granted[self._lease_id]
            return
        if self._manner is not Manner.DYING:
            self._keep_later()
        world.later(self._hold_s + 10.0, self._give_up)

    def told(self) -> None:
        """The lease has changed."""
        state = self._world.holds(self._lease_id)
        if state is LeaseState.ACTIVE and not self._active:
            self._active = True
            self._use()
        elif state not in (LeaseState.PENDING, LeaseState.ACTIVE):
            self._world.granted.pop(self._lease_id, None)

    def _draw(self, models: Sequence[tuple[ModelName, tuple[MemoryNeed, InstanceFacts]]]) -> Claim:
        rng, roll = self._world.random, self._world.random.random()
        device = rng.choice(self._world.devices if rng.random() < 0.5 else self._world.devices[:4])
        if roll < 0.5:
            most = rng.choice([0.1, 0.3, 0.6, 1.02])
            return MemoryClaim(device_id=device.device_id, memory_bytes=rng.randint(1, int(device.memory_bytes * most)))
        if roll < 0.7:
            return CoresClaim(device_id=device.device_id, cores=rng.randint(1, device.cores))
        name, (_, facts) = rng.choice(models)
        return ModelClaim(
            model=name,
            sequences=rng.randint(0, facts.max_tasks + (rng.random() < 0.1)),
            kv_tokens=rng.choice([0, 100, 600]),
        )

    def _use(self) -> None:
        world, rng = self._world, self._world.random
        for claim in self._claims:
            if isinstance(claim, ModelClaim):
                for _ in range(rng.randint(0, claim.sequences + 1)):
                    self._submit_later(claim.model)
            elif isinstance(claim, MemoryClaim) and claim.device_id in world.homes and rng.random() < 0.5:
                name = rng.choice(world.homes[claim.device_id])
                world.later(0.1, lambda: self._load(name))
        if self._manner in (Manner.GOOD, Manner.TARDY):
            world.later(self._hold_s, self._release)

    def _load(self, name: ModelName) -> None:
        if self._world.tell(events.LoadModel(name, self._tenant, self._lease_id)):
            for _ in range(3):
                self._submit_later(name)

    def _submit_later(self, name: ModelName) -> None:
        self._world.later(0.3, lambda: self._submit(name))

    def _submit(self, name: ModelName) -> None:
        if self._world.holds(self._lease_id) is LeaseState.ACTIVE or self._world.random.random() < 0.2:
            self._world.submit(name, self._tenant, self._lease_id)

    def _keep_later(self) -> None:
        ttl_s = self._ttl_s or 3.0
        share = {Manner.GOOD: 0.15, Manner.TARDY: 0.6, Manner.SLEEPY: 5.0}[self._manner]
        self._world.later(ttl_s * share, self._keep)

    def _keep(self) -> None:
        rng = self._world.random
        ttl_s = rng.uniform(0.4, 5.0) if rng.random() < 0.1 else None
        if self._world.tell(events.KeepAlive(self._lease_id, self._tenant, ttl_s)):
            self._keep_later()

    def _release(self) -> None:
        self._world.tell(events.ReleaseLease(self._lease_id, self._tenant))

    def _give_up(self) -> None:
        if self._manner is not Manner.DYING and self._world.holds(self._lease_id) is not None:
            self._release()
