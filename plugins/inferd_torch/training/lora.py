"""Adapters beside the linear layers of a network (LoRA, arXiv:2106.09685), and their folder as peft writes it.

Small enough to be our own: so all that decides their numbers is drawn from the seed of a recipe, in one order.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import dropout

from inferd.plugin import TrainError, TrainingRecipe

_LAYER: Final = re.compile(r".*\.(?:layers?|h|blocks)\.\d+\..+")


class LoraLinear(nn.Module):
    """A linear layer that stays as it is, and two thin matrices whose product is added to it.

    Args:
        inner: The layer.
        rank: Of the product.
        factor: What it is multiplied with.
        dropped: Share of the inputs that the product does not see while it is trained.
    """

    def __init__(self, inner: nn.Linear, *, rank: int, factor: float, dropped: float) -> None:
        super().__init__()
        device = inner.weight.device
        self.inner, self.factor, self.dropped = inner, factor, dropped
        self.lora_A = nn.Parameter(torch.zeros(rank, inner.in_features, dtype=torch.float32, device=device))
        self.lora_B = nn.Parameter(torch.zeros(inner.out_features, rank, dtype=torch.float32, device=device))

    def forward(self, given: Tensor) -> Tensor:
        """Of inputs (…, in) the outputs (…, out)."""
        output: Tensor = self.inner(given)
        seen = dropout(given, self.dropped, self.training) if self.dropped else given
        low = (seen.to(self.lora_A.dtype) @ self.lora_A.T) @ self.lora_B.T
        return output + (low * self.factor).to(output.dtype)

    def draw(self, generator: torch.Generator) -> None:
        """Begin: the first matrix as Kaiming et al. (arXiv:1502.01852) draw them, the second one zero."""
        bound = 1 / math.sqrt(self.inner.in_features)
        drawn = torch.rand(self.lora_A.shape, generator=generator) * (2 * bound) - bound
        with torch.no_grad():
            self.lora_A.copy_(drawn)
            self.lora_B.zero_()


def find_targets(network: Any, recipe: TrainingRecipe) -> list[str]:
    """Names of the linear layers that adapters are beside.

    Raises:
        TrainError: There are none, or one that the recipe names is not there.
    """
    found = [name for name, module in network.named_modules() if type(module) is nn.Linear and _LAYER.fullmatch(name)]
    known = sorted({name.rpartition(".")[2] for name in found})
    if not found:
        raise TrainError(f"{network.config.model_type}: its layers have no linear modules that LoRA could be beside")
    if missing := sorted(set(recipe.targets) - set(known)):
        raise TrainError(f"'targets' names {missing[0]!r}, which no layer has; there are {', '.join(known)}")
    return [name for name in found if not recipe.targets or name.rpartition(".")[2] in recipe.targets]


def add_lora(network: Any, recipe: TrainingRecipe) -> dict[str, LoraLinear]:
    """Put adapters beside layers; nothing else of the network is trained from now on.

    Returns:
        The adapters, by the names of the layers.

    Raises:
        TrainError: As `find_targets`.
    """
    network.requires_grad_(False)
    made = {}
    generator = torch.Generator().manual_seed(recipe.seed)
    for name in find_targets(network, recipe):
        parent, _, last = name.rpartition(".")
        holder = network.get_submodule(parent)
        layer = LoraLinear(
            getattr(holder, last), rank=recipe.rank, factor=recipe.alpha / recipe.rank, dropped=recipe.dropout
        )
        if not _is_fake(layer.lora_A):
            layer.draw(generator)
        setattr(holder, last, layer)
        made[name] = layer
    return made


def _is_fake(tensor: Tensor) -> bool:
    """Whether it has no numbers, see `memory`."""
    return isinstance(tensor, torch._subclasses.FakeTensor)  # noqa: SLF001 - it has no public name


def merged(network: Any, adapters: Mapping[str, LoraLinear]) -> dict[str, Tensor]:
    """The weights of a network with adapters added to the layers that they are beside, by the names that it had."""
    made: dict[str, Tensor] = {}
    for name, weight in network.state_dict().items():
        holder, _, last = name.rpartition(".")
        layer = adapters.get(holder.removesuffix(".inner"))
        if layer is None:
            made[name] = weight.detach()
        elif holder.endswith(".inner"):
            kept = weight.detach()
            if last == "weight":
                product = layer.lora_B.detach() @ layer.lora_A.detach() * layer.factor
                kept = kept + product.to(kept.dtype)
            made[f"{holder.removesuffix('.inner')}.{last}"] = kept
    return made


@contextmanager
def unwrapped(network: Any, adapters: Mapping[str, LoraLinear]) -> Iterator[None]:
    """In this, a network has its own layers, without the adapters beside them."""
    places = [(network.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2]) for name in adapters]
    for (holder, last), layer in zip(places, adapters.values(), strict=True):
        setattr(holder, last, layer.inner)
    try:
        yield
    finally:
        for (holder, last), layer in zip(places, adapters.values(), strict=True):
            setattr(holder, last, layer)


def write_adapter(adapters: dict[str, LoraLinear], recipe: TrainingRecipe, folder: Path) -> None:
    """Write the folder that peft would, for the network that the adapters are beside."""
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": recipe.rank,
        "lora_alpha": recipe.alpha,
        "lora_dropout": recipe.dropout,
        "bias": "none",
        "target_modules": sorted({name.rpartition(".")[2] for name in adapters}),
    }
    tensors = {}
    for name, layer in adapters.items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = layer.lora_A.detach().cpu().contiguous()
        tensors[f"base_model.model.{name}.lora_B.weight"] = layer.lora_B.detach().cpu().contiguous()
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    (folder / "adapter_config.json").write_text(json.dumps(settings, indent=1), encoding="utf-8")
