"""Adapters (LoRA) that a network of transformers computes with: what they add to the outputs of its linear modules."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from inferd.plugin import LoadError, ReadAdapter, TokenBatch
from inferd_torch.packed.linear import PackedLinear
from inferd_torch.packed.rounded import RoundedLinear
from inferd_weights.adapter_files import Pair, read_gguf_adapter, read_peft
from inferd_weights.row_orders import PAIRED, SAME

_MOST_RANK: Final = 512  # as `adapters.rank` may be
_LAYER: Final = re.compile(r".*\.(?:layers|h|blocks)\.\d+\..+")
_NAMES: Final = {"mistral": "llama", "gemma3_text": "gemma3"}
"""Architectures of GGUF that have another name than the type of the network."""

Matrices = dict[str, tuple[Tensor, Tensor]]


class Adapting:
    """Has a network computed with adapters, several in one step. Rows of one adapter are multiplied together.

    What computes the vectors of pictures is never changed: its rows are none of the step, and are kept for all tenants.

    Args:
        network: Of transformers.
        device: Where it is.

    Attributes:
        rows: Of the step that is under way: the rows of each slot, with its number; none where no row has an adapter,
            and while pictures are computed.
    """

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        self.rows: list[tuple[int, Tensor]] = []
        whole: Any = network
        self._config = whole.config.get_text_config(decoder=True)
        self._device = device
        texts = set(whole.get_decoder().modules())
        self._targets = {
            name: module
            for name, module in network.named_modules()
            if type(module) in {nn.Linear, PackedLinear, RoundedLinear} and _LAYER.fullmatch(name) and module in texts
        }
        self._held: dict[int, Matrices] = {}  # by slot
        self._hooked: set[str] = set()

    def read(self, path: Path) -> ReadAdapter:
        """Read one; its matrices are on the host still.

        Raises:
            LoadError: It cannot be read, is for another model, or changes more than linear modules of layers.
        """
        pairs = read_peft(path, most_rank=_MOST_RANK) if path.is_dir() else self._read_gguf(path)
        matrices = {name: self._check(path, name, pair) for name, pair in pairs.items()}
        return ReadAdapter(
            content=matrices,
            rank=max(len(down) for down, _ in matrices.values()),
            targets=tuple(sorted({name.rpartition(".")[2] for name in matrices})),
            memory_bytes=sum(each.nbytes for both in matrices.values() for each in both),
        )

    def add(self, slot: int, adapter: ReadAdapter) -> None:
        """Have rows of a slot computed with it.

        Raises:
            MemoryError: The device has none.
        """
        matrices: Matrices = adapter.content
        try:
            self._held[slot] = {n: (a.to(self._device), b.to(self._device)) for n, (a, b) in matrices.items()}
        except torch.OutOfMemoryError as error:
            raise MemoryError(str(error).splitlines()[0]) from error
        for name in matrices.keys() - self._hooked:
            self._targets[name].register_forward_hook(self._hook(name))
            self._hooked.add(name)

    def remove(self, slot: int) -> None:
        """No row has it any more."""
        del self._held[slot]

    def begin(self, batch: TokenBatch) -> None:
        """A step begins.

        Raises:
            ValueError: A sequence has a slot that is free.
        """
        self.rows = []
        if batch.adapters is None:
            return
        slots = np.repeat(batch.adapters, np.diff(batch.starts))
        for slot in np.unique(slots[slots >= 0]).tolist():
            if slot not in self._held:
                raise ValueError(f"bad batch: there is no adapter in slot {slot}")
            self.rows.append((slot, torch.from_numpy(np.flatnonzero(slots == slot)).to(self._device)))

    def _hook(self, name: str) -> Callable[[nn.Module, tuple[Any, ...], Tensor], None]:
        def add(_: nn.Module, given: tuple[Any, ...], output: Tensor) -> None:
            for slot, rows in self.rows:
                if (both := self._held[slot].get(name)) is not None:
                    flat, out = given[0].reshape(-1, given[0].shape[-1]), output.view(-1, output.shape[-1])
                    low = flat[rows].to(both[0].dtype) @ both[0].T
                    out.index_add_(0, rows, (low @ both[1].T).to(out.dtype))

        return add

    def _check(self, path: Path, name: str, pair: Pair) -> tuple[Tensor, Tensor]:
        module, (down, up, factor) = self._targets.get(name), pair
        if module is None:
            known = ", ".join(sorted({each.rpartition(".")[2] for each in self._targets}))
            raise LoadError(
                f"{path}: changes {name!r}, and the torch backend adds to linear modules of layers for texts alone"
                f" ({known}); the adapter is for another model, or leave that part out"
            )
        if (module.out_features, module.in_features) != (up.shape[0], down.shape[1]) or up.shape[1] != len(down):
            raise LoadError(
                f"{path}: changes {name!r} by matrices of shapes {list(up.shape)} and {list(down.shape)}; the model's"
                f" has {[module.out_features, module.in_features]}: the adapter is for another model"
            )
        return torch.from_numpy(down), torch.from_numpy(up * np.float32(factor))

    def _read_gguf(self, path: Path) -> Mapping[str, Pair]:
        """The pairs of a GGUF file by the names of modules, rows in the order of those."""
        from gguf import MODEL_ARCH_NAMES, get_tensor_name_map  # noqa: PLC0415 - folders do without

        architecture = _NAMES.get(self._config.model_type, self._config.model_type)
        kind = next((kind for kind, name in MODEL_ARCH_NAMES.items() if name == architecture), None)
        if kind is None:
            raise LoadError(
                f"{path}: GGUF has no name for a network of type {self._config.model_type!r}; take a folder"
            )
        if architecture not in PAIRED | SAME:
            raise LoadError(
                f"{path}: how GGUF files of {architecture!r} order the rows of adapters is not known to the torch"
                " backend; take a folder of the peft package"
            )
        names = get_tensor_name_map(kind, self._config.num_hidden_layers)
        modules = {f"{names.get_name(module)}.weight": module for module in self._targets}
        found = {}
        for name, pair in read_gguf_adapter(path, architecture, most_rank=_MOST_RANK).items():
            module = modules.get(name, name)
            if architecture in PAIRED and module.endswith((".q_proj", ".k_proj")):
                pair = pair._replace(up=self._parted(module, pair.up))  # noqa: PLW2901 - the same, in another order
            found[module] = pair
        return found

    def _parted(self, module: str, up: Any) -> Any:
        """Rows of heads as halves, which are neighbours by pairs."""
        config = self._config
        heads = config.num_attention_heads if module.endswith(".q_proj") else config.num_key_value_heads
        if len(up) % (2 * heads):
            return up  # and its shape is refused
        return up.reshape(heads, len(up) // heads // 2, 2, -1).swapaxes(1, 2).reshape(up.shape)
