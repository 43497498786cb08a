"""What holds of a model whichever version of it serves: by which other names it is found, and when it stays loaded."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from inferd.core.adapter import Adapter
from inferd.core.ids import ModelName


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """What somebody has said of a model besides what it is.

    Attributes:
        pin: Whether its last instance stays loaded once it is: it is evicted for no other, nor for idleness.
        warm: Whether it is loaded at the start of the kernel.
        labels: For whoever looks for models.
        aliases: Other names of it, sorted.
        probe: What its new versions have to answer, as it is written; "" for nothing.
        adapters: What tasks may be computed with.
    """

    pin: bool = False
    warm: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()
    probe: str = ""
    adapters: tuple[Adapter, ...] = ()


NO_TRAITS = Traits()


@dataclass(frozen=True, slots=True, kw_only=True)
class TraitsChange:
    """What is to be otherwise; None, or nothing, where it stays.

    Attributes:
        labels: Those that change; an empty value takes one away.
        aliases: Names that stand for the model from now on, wherever they stood before.
        dropped: Aliases of it that stand for nothing from now on.
        moves: Whether aliases of other models come over.
        probe: A new one; "" for none from now on.
        adapters: All that it is to have.
    """

    pin: bool | None = None
    warm: bool | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    moves: bool = True
    probe: str | None = None
    adapters: tuple[Adapter, ...] | None = None

    def __bool__(self) -> bool:
        return self != TraitsChange(moves=self.moves)

    def of(self, before: Traits) -> Traits:
        """What comes of traits by it."""
        labels = {**before.labels, **self.labels}
        return Traits(
            pin=before.pin if self.pin is None else self.pin,
            warm=before.warm if self.warm is None else self.warm,
            labels={key: labels[key] for key in sorted(labels) if labels[key]},
            aliases=tuple(sorted({*before.aliases, *self.aliases} - {*self.dropped})),
            probe=before.probe if self.probe is None else self.probe,
            adapters=before.adapters if self.adapters is None else self.adapters,
        )


def whole(traits: Traits, before: Traits = NO_TRAITS, *, moves: bool = False) -> TraitsChange:
    """The change that makes a model have these traits and no others; adapters stay where it has some and these none."""
    return TraitsChange(
        pin=traits.pin,
        warm=traits.warm,
        labels={**dict.fromkeys(before.labels, ""), **traits.labels},
        aliases=traits.aliases,
        dropped=tuple(alias for alias in before.aliases if alias not in traits.aliases),
        moves=moves,
        probe=traits.probe,
        adapters=traits.adapters or None,
    )


class TraitsStep(Enum):
    """How far a change of traits is to go."""

    HOLD = "hold"  # its aliases are kept free for the model, and are none yet
    GIVE = "give"
    LET_GO = "let go"  # what was held is so no longer


@dataclass(frozen=True, slots=True)
class SetTraits:
    """A client wants something of a model to be otherwise that is of no version: its aliases, its labels, its pin."""

    name: ModelName
    change: TraitsChange
    step: TraitsStep = TraitsStep.GIVE


Aliases = Mapping[str, ModelName]
"""The models by their aliases."""
