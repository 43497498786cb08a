"""Which devices of one host some claims are on."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING

from inferd.core.atlas import is_called
from inferd.core.lease import CoresClaim, MemoryClaim

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inferd.core.broker import Broker
    from inferd.core.ids import DeviceId

PlacedClaim = MemoryClaim | CoresClaim

MOST_STEPS = 1024  # of the search for the devices of one lease
MOST_HERE = 128  # of these on one host


class Fit(IntEnum):
    """How soon a device could serve what is claimed of it."""

    NEVER = 0
    CLOSED = 1  # once its host takes new leases again
    LATER = 2  # once others give back what they hold
    IDLE = 3  # once idle instances have ended
    NOW = 4


@dataclass(slots=True)
class Held:
    """What a lease claims of devices so far."""

    memory: Counter[DeviceId] = field(default_factory=Counter)
    cores: Counter[DeviceId] = field(default_factory=Counter)

    def take(self, claim: PlacedClaim, device_id: DeviceId, *, sign: int = 1) -> None:
        """A claim is on a device; with `sign` -1 it is not any more."""
        if isinstance(claim, MemoryClaim):
            self.memory[device_id] += sign * claim.memory_bytes
        else:
            self.cores[device_id] += sign * claim.cores

    def copy(self) -> Held:
        """Another one that holds the same."""
        return Held(self.memory.copy(), self.cores.copy())


@dataclass(frozen=True, slots=True)
class Seating:
    """Devices of one host for some claims.

    Attributes:
        device_ids: One for each claim.
        fit: How soon all of them could be served.
        room_bytes: The least that would be left free of any of them.
    """

    device_ids: tuple[DeviceId, ...]
    fit: Fit
    room_bytes: float

    @property
    def rank(self) -> tuple[Fit, float]:
        """The higher, the better."""
        return self.fit, self.room_bytes


class Seats:
    """Looks for the devices of one lease, in so many steps at most.

    Attributes:
        steps: What is left of them.
    """

    def __init__(self, broker: Broker) -> None:
        self.steps = MOST_STEPS
        self._broker = broker

    def find(self, claims: Sequence[PlacedClaim], here: Sequence[DeviceId], held: Held) -> Seating | None:
        """Devices among those of a host, beside what is held already; None where it could never give them."""
        search = _Search(claims, here, held.copy(), self._broker, min(self.steps, MOST_HERE))
        search.go(0, Fit.NOW, float("inf"))
        self.steps -= search.steps
        return search.best


class _Search:
    """Tries the largest claim first, each where most is left; goes back only where that could be served sooner so."""

    def __init__(
        self, claims: Sequence[PlacedClaim], here: Sequence[DeviceId], held: Held, broker: Broker, most_steps: int
    ) -> None:
        self.best: Seating | None = None
        self._claims, self._here, self._held, self._broker = claims, here, held, broker
        self._order = sorted(range(len(claims)), key=lambda number: _size(claims[number]), reverse=True)
        self._chosen: dict[int, DeviceId] = {}
        self.steps, self._most_steps = 0, most_steps

    def go(self, at: int, fit: Fit, room_bytes: float) -> None:
        """Seat what follows; what stands before it could be served so soon, and leaves so much."""
        if at == len(self._order):
            self.best = Seating(tuple(self._chosen[number] for number in range(at)), fit, room_bytes)
            return
        number = self._order[at]
        claim = self._claims[number]
        for (option, left_bytes, *_), device_id in self._options(claim).items():
            lowest = min(fit, option)
            if lowest is Fit.NEVER or self.steps >= self._most_steps or (self.best and lowest <= self.best.fit):
                return
            self.steps += 1
            self._chosen[number] = device_id
            self._held.take(claim, device_id)
            self.go(at + 1, lowest, min(room_bytes, left_bytes))
            self._held.take(claim, device_id, sign=-1)

    def _options(self, claim: PlacedClaim) -> dict[tuple[Fit, int, int, int], DeviceId]:
        """The devices that a claim could be on, the best first; of those that are alike one."""
        found: dict[tuple[Fit, int, int, int], DeviceId] = {}
        more_bytes, more_cores = _size(claim)
        for device_id in self._here:
            if is_called(device_id, claim.device_id):
                account = self._broker.devices[device_id]
                size_bytes = self._held.memory[device_id] + more_bytes
                cores = self._held.cores[device_id] + more_cores
                fit = _fit(self._broker, device_id, size_bytes, cores)
                left = account.free_bytes - size_bytes, account.free_cores - cores, account.capacity_bytes
                found.setdefault((fit, *left), device_id)
        return dict(sorted(found.items(), reverse=True))


def _size(claim: PlacedClaim) -> tuple[int, int]:
    return (claim.memory_bytes, 0) if isinstance(claim, MemoryClaim) else (0, claim.cores)


def _fit(broker: Broker, device_id: DeviceId, size_bytes: int, cores: int) -> Fit:
    account = broker.devices[device_id]
    if size_bytes > account.capacity_bytes or cores > account.cores:
        return Fit.NEVER
    if not account.open:
        return Fit.CLOSED
    if cores > account.free_cores:
        return Fit.LATER
    if size_bytes <= account.free_bytes:
        return Fit.NOW
    return Fit.LATER if broker.evictions(device_id, size_bytes) is None else Fit.IDLE
