"""Packed weights of a folder in the modules of a network."""

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
from inferd_torch.packed.schemes import GROUPS, SCALES, WORDS, ZEROS, Module, Packing

TYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def replace_modules(network: nn.Module, artifact: Artifact) -> None:
    """Put modules of packed weights where a folder has such; their numbers are not there yet.

    Raises:
        UnsupportedModelError: The network has no linear module of that name, or it is of other sizes.
    """
    packing = artifact.packing
    if packing is None:
        return
    known = dict(network.named_modules())
    for name, stored in packing.modules.items():
        plain = known.get(name)
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
        above, _, last = name.rpartition(".")
        with plain.weight.device:
            packed = PackedLinear(
                stored.inputs,
                stored.outputs,
                group=packing.group,
                zeros=packing.zeros,
                ordered=packing.ordered,
                scales=TYPES[stored.scales],
                bias=plain.bias,
            )
        setattr(known[above] if above else network, last, packed.train(plain.training))


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


@contextmanager
def packed_weights(artifact: Artifact) -> Iterator[dict[str, Any]]:
    """The weights of a folder by the names of the network's; the files are open in this."""
    packing = artifact.packing
    if packing is None:
        raise ValueError(f"{artifact.path}: nothing is packed")
    with ExitStack() as stack:
        files: dict[str, Any] = {}
        for file in list_hf_weights(artifact.path):
            tensors = stack.enter_context(safe_open(file, framework="pt", device="cpu"))
            files |= {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118 - no mapping
        weights = {name: part for name, part in files.items() if name not in packing.names}
        kinds = ["words", "scales", *(["zeros"] if packing.zeros else []), *(["order"] if packing.ordered else [])]
        for name, module in packing.modules.items():
            weights |= {f"{name}.{kind}": _Part(files, packing, name, module, kind) for kind in kinds}
        yield weights
