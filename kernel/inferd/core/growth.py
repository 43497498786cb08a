"""Workers that take far more memory than their backend measured: they are told of, and ended where that harms others.

Only what a worker takes of the host is seen from outside. A worker that grows by itself is held to what was measured
for it; a little more is booked as far as there is room (`Broker.measured`), and nobody is told.
"""

from dataclasses import dataclass

from inferd.core.broker import Broker
from inferd.core.commands import EndWorker, Reply, TellGrowth
from inferd.core.fleet import Fleet
from inferd.core.model import Instance
from inferd.core.resources import GIB, MIB, size_text


@dataclass(frozen=True, slots=True, kw_only=True)
class GrowthLimits:
    """By how much a worker may exceed its need: a part of that, and so many bytes; see `inferd.config.Workers`."""

    told: float = 0.25
    told_bytes: int = 256 * MIB
    ended: float = 1.0
    ended_bytes: int = GIB


class Growth:
    """Judges what workers take. One writer: the kernel machine."""

    def __init__(self, limits: GrowthLimits, broker: Broker, fleet: Fleet, out: list[Reply]) -> None:
        self._limits = limits
        self._broker = broker
        self._fleet = fleet
        self._out = out

    def measured(self, instance: Instance, memory_bytes: int) -> None:
        """The worker of an instance takes so much."""
        instance.peak_bytes = max(instance.peak_bytes, memory_bytes)
        self._broker.measured(instance.instance_id, memory_bytes)
        if instance.need is None:
            return
        limits, need_bytes = self._limits, instance.need.total_bytes
        grown_bytes = memory_bytes - need_bytes
        was_told = bool(instance.grown_bytes)
        too_much = grown_bytes > need_bytes * limits.told + limits.told_bytes
        self._fleet.grown(instance, grown_bytes if too_much else 0)
        if too_much is not was_told:
            self._out.append(TellGrowth(instance.instance_id, memory_bytes, need_bytes))
        if why := self._why_ended(instance, memory_bytes):
            figures = f"its worker takes {size_text(memory_bytes)} and {size_text(need_bytes)} was measured"
            self._out.append(EndWorker(instance.instance_id, f"{figures}; {why}"))

    def _why_ended(self, instance: Instance, memory_bytes: int) -> str:
        """Why a worker that takes so much may not go on; "" when it may."""
        if not instance.grown_bytes or instance.need is None:
            return ""
        need_bytes = instance.need.total_bytes
        most_bytes = need_bytes + int(need_bytes * self._limits.ended) + self._limits.ended_bytes
        if memory_bytes > most_bytes:
            return f"at most {size_text(most_bytes)} is borne (workers.growth_ended, growth_ended_bytes)"
        lacking_bytes = self._broker.lacking_bytes(instance.instance_id, memory_bytes)
        if lacking_bytes > 0:
            return f"{size_text(lacking_bytes)} of that is held by others or not there on {instance.device_id}"
        return ""
