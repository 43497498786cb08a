"""What is known of a type of Hugging Face models: what tells its folders from GGUF files."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from inferd_weights.row_orders import PAIRED

Renames = dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class HfType:
    """One type of model.

    Attributes:
        architecture: Its name in `FAMILIES`.
        names: Names of weights in a layer beside `LAYER_NAMES`, each as in a GGUF file.
        one_more: Norms are stored one less than they are.
        tied: The embedding is the head, unless the configuration says it.
        partial: How much of a head is rotated, unless it says that.
        offset: Positions are counted from here: the embeddings before it belong to none.
        activations: What it may call its activation, beside the usual names of that of its family.
        aliases: Its own names of settings, each with the usual one.
        defaults: Of settings that it need not say.
        four: Feed-forward parts are four times as wide as the hidden state, unless it says how wide they are.
        keys: Its own settings, by the keys of a GGUF file.
        only: The one value of a setting that is supported, where it is given.
        ignored: Settings that its reference does not read, either.
        gating: The number that a GGUF file has for how its experts are weighed; 0 for that of the architecture.
    """

    architecture: str
    names: Renames = field(default_factory=dict)
    one_more: bool = False
    tied: bool = False
    partial: float = 1.0
    offset: int = 0
    activations: tuple[str, ...] = ()
    aliases: Renames = field(default_factory=dict)
    defaults: Mapping[str, int] = field(default_factory=dict)
    four: bool = False
    keys: Renames = field(default_factory=dict)
    only: Mapping[str, Any] = field(default_factory=dict)
    ignored: frozenset[str] = frozenset()
    gating: int = 0

    @property
    def halves(self) -> bool:
        """Whether rotary pairs are (i, i + half), though those of its GGUF files are neighbours."""
        return self.architecture in PAIRED
