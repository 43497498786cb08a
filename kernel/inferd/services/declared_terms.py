"""What new versions of models have to show, as the configuration says it, and as models keep it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from inferd.services.rollout_values import kept_probe, read_canary, read_probe, write_probe
from inferd.services.written_terms import canary_of, probe_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from inferd.core.canary import Canary
    from inferd.core.probe import Probe
    from inferd.core.rollouts import RolloutLimits


class DeclaredTerms:
    """Reads them; see `inferd.runtime.terms.Terms`.

    Args:
        limits: Bounds of what they may be.
    """

    def __init__(self, limits: RolloutLimits) -> None:
        self._limits = limits

    def written(self, given: Mapping[str, Any], name: str) -> str:
        """A probe as the model of this name keeps it."""
        probe = probe_of(given)
        if probe.prompts:
            read_probe(probe, self._limits, name)
        return write_probe(probe)

    def probe(self, written: str, name: str) -> Probe | None:
        """A probe that the model of this name keeps."""
        return read_probe(kept_probe(written), self._limits, name) if written else None

    def canary(self, given: Mapping[str, Any] | str) -> Canary | None:
        """By which steps new versions come."""
        return read_canary(canary_of(given), self._limits) if given else None
