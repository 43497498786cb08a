"""Which part of a network each rank holds: a smaller network of the same architecture, with fewer heads.

How layers are divided is the plan for tensor parallelism that transformers has for an architecture: projections by
columns give a rank its heads and its part of the hidden layer, those by rows take these and give a part of a sum. So
the network of a rank is that of a configuration with a part of the heads and of the width, and all that is told of a
network, what it needs, what its keys and values are, holds of that of a rank as well.
"""

import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from inferd.plugin import LoadError, UnsupportedModelError
from inferd_torch.artifact import Artifact

COLUMNS, ROWS = "colwise", "rowwise"
WHOLE = frozenset({"replicated_with_grad_allreduce"})
VOCABULARY = frozenset({"embed_tokens", "lm_head"})
DIVIDED = ("num_key_value_heads", "num_attention_heads", "intermediate_size")
LAYER = re.compile(r"(?<=\.)\d+(?=\.)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What one of so many ranks holds.

    Attributes:
        ranks: How many there are.
        config: Of the network of each.
        styles: How the modules are divided that are, by the ends of their names, "*" for the number of a layer.
    """

    ranks: int
    config: Any
    styles: Mapping[str, str]

    def style(self, module: str) -> str:
        """How a module is divided; "" where each rank has all of it."""
        name = LAYER.sub("*", module)
        return next((style for end, style in self.styles.items() if name == end or name.endswith(f".{end}")), "")

    def axis(self, weight: str, dimensions: int) -> int | None:
        """Along which of its dimensions a weight is divided; None for none."""
        module, _, kind = weight.rpartition(".")
        style = self.style(module)
        if style == COLUMNS:
            return 0
        return 1 if style == ROWS and kind == "weight" and dimensions > 1 else None

    def part(self, weight: str, shape: Sequence[int], rank: int) -> tuple[slice, ...]:
        """Where in a weight of this shape a rank's part of it lies."""
        axis = self.axis(weight, len(shape))
        if axis is None:
            return (slice(None),)
        size = shape[axis] // self.ranks
        return (*(slice(None) for _ in range(axis)), slice(rank * size, (rank + 1) * size))


def divide(artifact: Artifact, config: Any, ranks: int) -> Share:
    """Which part of a network each of so many ranks is to hold.

    Raises:
        LoadError: transformers has no plan for it, or one that is not supported, or heads or widths are no multiples.
    """
    where, kind = artifact.path, config.model_type
    if config.get_text_config(decoder=True) is not config:
        raise UnsupportedModelError(f"{where}: {kind} is more than a decoder of text: it is not divided among ranks")
    plan = getattr(config, "base_model_tp_plan", None) or {}
    styles = {name: style for name, style in plan.items() if name.rpartition(".")[2] not in VOCABULARY}
    if not styles:
        raise UnsupportedModelError(f"{where}: transformers has no plan by which {kind} is divided among ranks")
    for name, style in styles.items():
        if style not in {COLUMNS, ROWS, *WHOLE}:
            raise UnsupportedModelError(
                f"{where}: {name} of {kind} would be divided among ranks as {style!r}; supported are {COLUMNS!r} and"
                f" {ROWS!r}"
            )
    part = deepcopy(config)
    part.head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    for name in DIVIDED:
        whole = getattr(config, name, None)
        if not isinstance(whole, int) or whole % ranks:
            raise LoadError(
                f"{where}: {name} is {whole}, which {ranks} ranks cannot share out evenly: take a number of devices"
                " (or ranks) that divides it"
            )
        setattr(part, name, whole // ranks)
    return Share(ranks=ranks, config=part, styles={name: style for name, style in styles.items() if style not in WHOLE})


def check_share(artifact: Artifact, share: Share, whole: Any, part: Any) -> None:
    """See that the network of a rank has of each weight of the whole one what it is to have.

    Raises:
        LoadError: It has another shape: what is divided is not what the plan says.
    """
    shapes = {name: tuple(weight.shape) for name, weight in part.named_parameters()}
    for name, weight in whole.named_parameters():
        axis = share.axis(name, weight.dim())
        wanted = tuple(size // share.ranks if each == axis else size for each, size in enumerate(weight.shape))
        if (found := shapes.pop(name, None)) != wanted:
            raise UnsupportedModelError(
                f"{artifact.path}: {name} of {share.config.model_type} would have the shape {found} in one of"
                f" {share.ranks} ranks, and its plan says {wanted}: it is not divided among ranks"
            )
    if shapes:
        raise UnsupportedModelError(f"{artifact.path}: {min(shapes)} is in the network of a rank alone")
