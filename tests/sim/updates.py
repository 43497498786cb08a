"""Operators that give models other versions, good and broken ones, and go back to those that are kept."""

from dataclasses import replace

from world import FakeModel, World

from inferd.core import events
from inferd.core.canary import Canary, CanaryStep
from inferd.core.demand import NO_DEMAND
from inferd.core.ids import DeviceId, ModelName
from inferd.core.probe import Probe, ProbePrompt
from inferd.core.resources import MemoryNeed

HUGE = 100  # times what it needed: more than any device has
UNKNOWN = 999  # a version that no model has
PROBE = Probe((ProbePrompt(work="?", demand=NO_DEMAND, contains=("yes",)),) * 2)
PAUSE_S = 2.0  # between two updates, in the mean


class Updates:
    """Gives models versions. One writer: its world."""

    def __init__(self, world: World) -> None:
        self._world = world

    def begin(self) -> None:
        """Updates are to come, if this world has any."""
        if self._world.scale.rollouts:
            self._world.later(PAUSE_S, self._update_next)

    def _update_next(self) -> None:
        world, rng = self._world, self._world.random
        if world.quiet:
            return
        name = rng.choice([*world.models])
        model, roll = world.machine.fleet.models[name], rng.random()
        if roll < 0.25:
            number = rng.choice([*model.versions]) if rng.random() < 0.9 else UNKNOWN
            world.tell(events.UpdateModel(name, model.spec, number, "", *self._draw_terms()))
        else:
            source = f"file:///{name}/{world.number()}"
            world.fakes[source] = self._draw(name)
            world.tell(events.UpdateModel(name, replace(model.spec, source=source), None, "", *self._draw_terms()))
        world.later(PAUSE_S, self._update_next)

    def _draw_terms(self) -> tuple[Probe | None, Canary | None]:
        """What it has to show: one in three has a probe, and one in three comes by steps."""
        rng = self._world.random
        steps = (CanaryStep(0.3, 3), CanaryStep(rng.choice([0.6, 1.0]), 2, least_s=1.0))
        canary = Canary(steps=steps, failed=rng.choice([0.0, 0.3]))
        return PROBE if rng.random() < 1 / 3 else None, canary if rng.random() < 1 / 3 else None

    def _draw(self, name: ModelName) -> FakeModel:
        """What a new version is: larger or smaller than the first, one in five too large, one in five broken."""
        rng, first = self._world.random, self._world.models[name]
        share = rng.choice([0.5, 1.0, 1.0, 1.5, HUGE])
        return replace(first, needs=_scaled(first.needs, share), broken=rng.random() < 0.2)


def _scaled(needs: dict[DeviceId, MemoryNeed], share: float) -> dict[DeviceId, MemoryNeed]:
    """Needs times something."""
    return {
        device_id: MemoryNeed(
            weights_bytes=int(need.weights_bytes * share),
            kv_bytes=int(need.kv_bytes * share),
            workspace_bytes=need.workspace_bytes,
        )
        for device_id, need in needs.items()
    }
