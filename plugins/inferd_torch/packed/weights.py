"""Packed weights of a folder in the modules of a network."""

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from inferd.plugin import LoadError, UnsupportedModelError, list_hf_weights
from inferd_torch.artifact import Artifact
from inferd_torch.packed.layouts import pack, read_zeros
from inferd_torch.packed.linear import PackedLinear
from inferd_torch.packed.rounded import RoundedLinear, round_rows
from inferd_torch.packed.schemes import GROUPS, SCALES, WORDS, ZEROS, Module, Packing

LAYER = re.compile(r".*\.(?:layers|h|blocks)\.\d+\..+")
TYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def replace_modules(network: nn.Module, artifact: Artifact) -> None:
    """Put modules of packed weights where a folder has such, or rounded ones where it is to be so; without numbers yet.

    Raises:
        UnsupportedModelError: The network has no linear module of that name, or it is of other sizes.
    """
    known = dict(network.named_modules())
    made: dict[str, nn.Module] = {}
    if artifact.packing is not None:
        made = {
            name: _make_packed(artifact, artifact.packing, name, known.get(name)) for name in artifact.packing.modules
        }
    elif artifact.rounded:
        made = {name: _make_rounded(artifact, name, known[name]) for name in find_rounded(network)}
        if not made:
            raise UnsupportedModelError(
                f"{artifact.path}: setting 'weights' is 'fp8', and the layers have no linear modules: leave it out"
            )
    for name, module in made.items():
        above, _, last = name.rpartition(".")
        setattr(known[above] if above else network, last, module.train(known[name].training))


def find_rounded(network: nn.Module) -> list[str]:
    """The linear modules of layers, which are rounded where that is set; what makes logits is not."""
    return [name for name, module in network.named_modules() if type(module) is nn.Linear and LAYER.fullmatch(name)]


def _make_packed(artifact: Artifact, packing: Packing, name: str, plain: nn.Module | None) -> PackedLinear:
    stored = packing.modules[name]
    if type(plain) is not nn.Linear:
        found = "none" if plain is None else f"a {type(plain).__name__}"
        raise UnsupportedModelError(
            f"{artifact.path}: weights of 4 bits are stored for {name}, and the network has {found} of that name;"
            " supported are those of linear modules alone, take plain safetensors"
        )
    if (plain.in_features, plain.out_features) != (stored.inputs, stored.outputs):
        raise LoadError(
            f"{artifact.path}: {name} is stored with {stored.inputs} inputs and {stored.outputs} outputs, and"
            f" config.json says {plain.in_features} and {plain.out_features}; fetch the folder again"
        )
    if stored.scales not in TYPES:
        raise UnsupportedModelError(
            f"{artifact.path}: the scales of {name} are {stored.scales}; supported are {', '.join(TYPES)}"
        )
    with plain.weight.device:
        return PackedLinear(
            stored.inputs,
            stored.outputs,
            group=packing.group,
            zeros=packing.zeros,
            ordered=packing.ordered,
            scales=TYPES[stored.scales],
            bias=plain.bias,
        )


def _make_rounded(artifact: Artifact, name: str, plain: Any) -> RoundedLinear:
    if f"{name}.weight" not in artifact.names:
        raise UnsupportedModelError(
            f"{artifact.path}: setting 'weights' is 'fp8', and the files have no {name}.weight: they name it otherwise;"
            " leave the setting out"
        )
    with plain.weight.device:
        return RoundedLinear(plain.in_features, plain.out_features, bias=plain.bias)


@dataclass(frozen=True, slots=True)
class _Part:
    """One of the tensors of a packed module, made when transformers asks for it, on one of its threads."""

    files: dict[str, Any]
    packing: Packing
    name: str
    module: Module
    kind: str

    def __getitem__(self, _: Any) -> Tensor:
        method = self.packing.method
        if self.kind == "scales":
            scales = self._read(SCALES[method])
            return scales if method == "compressed-tensors" else scales.T.contiguous()
        if self.kind == "zeros":
            return read_zeros(method, self._read(ZEROS[method]), self.packing.offset)
        order = self._order()
        if self.kind == "order" and order is not None:
            return order.int()
        return pack(method, self._read(WORDS[method]), self.module.inputs, self.module.outputs, order)

    def _read(self, kind: str) -> Tensor:
        whole: Tensor = self.files[f"{self.name}.{kind}"][...]
        return whole

    def _order(self) -> Tensor | None:
        """The inputs by their groups; None where they are in that order.

        Raises:
            LoadError: Groups are not of the size that the folder says.
        """
        kind, size = GROUPS.get(self.packing.method), self.packing.group or self.module.inputs
        if kind is None or f"{self.name}.{kind}" not in self.files:
            return None
        groups = self._read(kind).long()
        usual = torch.arange(len(groups)) // size
        if not self.packing.ordered:
            if not torch.equal(groups, usual):
                raise LoadError(
                    f"{self.name}.{kind} groups inputs in another order than theirs, and config.json does not say so"
                    " ('desc_act', 'actorder')"
                )
            return None
        ranked, order = groups.sort(stable=True)
        if not torch.equal(ranked, usual):
            raise LoadError(f"{self.name}.{kind} has groups of other sizes than {size}, which config.json says")
        return order


@dataclass(frozen=True, slots=True)
class _Rounded:
    """A weight that is rounded when it is asked for, or its scales."""

    whole: Any
    kind: str

    def __getitem__(self, _: Any) -> Tensor:
        numbers, scales = round_rows(self.whole[...])
        return numbers if self.kind == "numbers" else scales[:, 0]


@contextmanager
def packed_weights(artifact: Artifact, network: nn.Module) -> Iterator[dict[str, Any]]:
    """The weights of a folder by the names of a network's; the files are open in this.

    Args:
        artifact: Of the folder.
        network: Whose modules were replaced.
    """
    packing = artifact.packing
    with ExitStack() as stack:
        files: dict[str, Any] = {}
        for file in list_hf_weights(artifact.path):
            tensors = stack.enter_context(safe_open(file, framework="pt", device="cpu"))
            files |= {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118 - no mapping
        weights = dict(files)
        if packing is not None:
            weights = {name: part for name, part in files.items() if name not in packing.names}
            kinds = ["words", "scales", *(["zeros"] if packing.zeros else []), *(["order"] if packing.ordered else [])]
            for name, stored in packing.modules.items():
                weights |= {f"{name}.{kind}": _Part(files, packing, name, stored, kind) for kind in kinds}
        for name, module in network.named_modules():
            if isinstance(module, RoundedLinear):
                whole = weights.pop(f"{name}.weight")
                weights |= {f"{name}.{kind}": _Rounded(whole, kind) for kind in ("numbers", "scales")}
        yield weights
