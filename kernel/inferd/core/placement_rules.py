"""Where a model may be loaded besides what its backend needs: labels of hosts, and how its instances lie on them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum


class PlacementStrategy(Enum):
    """Which of the devices that it fits a start takes; the values are those of `inferd.v1.PlacementStrategy`."""

    SPREAD = 1  # where fewer of its own instances are, then where more is free
    PACK = 2  # where less is free, so that large models find room elsewhere


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementRules:
    """What a model says of where it is loaded.

    Attributes:
        selector: Labels that a host must have, each with its value; every host has `host`, its id, and the kernel's own
            host is `local`.
        strategy: Which of several devices.
        apart: Whether no host may have two of its instances.
    """

    selector: Mapping[str, str] = field(default_factory=dict)
    strategy: PlacementStrategy = PlacementStrategy.SPREAD
    apart: bool = False

    @property
    def words(self) -> str:
        """The selector for people: "gpu=h100 and zone=a"; "" for none."""
        return " and ".join(f"{key}={value}" for key, value in sorted(self.selector.items()))


ANYWHERE = PlacementRules()
