"""What the inhabitants of a simulation know of it."""

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from mirror import Mirror
from scale import Scale

from inferd.core import events
from inferd.core.ids import DeviceId, ModelName
from inferd.core.machine import KernelMachine
from inferd.core.model import InstanceFacts, ModelSpec
from inferd.core.resources import DeviceCapacity, MemoryNeed


@dataclass(frozen=True, slots=True)
class FakeModel:
    """What the workers of a model tell of it."""

    needs: dict[DeviceId, MemoryNeed]  # by the devices that it may use
    facts: InstanceFacts
    broken: bool = False  # it never loads


class World(Protocol):
    """A simulation, as seen from within."""

    random: random.Random
    scale: Scale
    machine: KernelMachine
    mirror: Mirror
    devices: list[DeviceCapacity]
    models: dict[ModelName, FakeModel]
    fakes: dict[str, FakeModel]
    now: float
    quiet: bool  # no new clients and no faults any more
    seen: Counter[str]
    refusals: Counter[str]

    def later(self, mean_s: float, action: Callable[[], object]) -> None:
        """Have something happen after a random time, `mean_s` in the mean."""

    def tell(self, event: events.Event) -> bool:
        """Tell the machine of an event; whether it was accepted. Never from within what it asks for."""

    def fake_of(self, spec: ModelSpec) -> FakeModel:
        """What the workers of a version tell of it."""

    def number(self) -> int:
        """A new number."""
