"""A Hugging Face folder as a model file: its weights under the names of GGUF, in the formats that they have."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from inferd.plugin import LoadError, UnsupportedModelError, list_hf_weights, read_hf_json
from inferd_cpu.expert_files import order_experts
from inferd_cpu.families import FAMILIES
from inferd_cpu.hf_config import HfConfig
from inferd_cpu.hf_types import BARE_NAMES, ENCODER_HEADS, EXPERT_NAMES, LAYER_NAMES, MODEL_NAMES, PICTURES, HfType
from inferd_weights.model_file import Tensor
from inferd_weights.quants import FORMATS
from inferd_weights.safetensors import OTHERS, SafetensorsFiles

Bytes = NDArray[np.uint8]
CONFIG: Final = "config.json"
_LAYER: Final = re.compile(r"(?:encoder\.layers?|layers|h|blocks)\.(\d+)\.(.+)\.(weight|bias)")
_PREFIX: Final = re.compile(r"(?:model|transformer|(?:nomic_)?bert|roberta)\.")  # of a network with a head
_EXPERT: Final = re.compile(r"model\.layers\.(\d+)\.(?:mlp|block_sparse_moe)\.experts\.(\d+)\.(\w+)\.weight")
_EXPERTS: Final = re.compile(r"model\.layers\.(\d+)\.(?:(?:mlp|block_sparse_moe)\.)?experts\.(gate_up_proj|down_proj)")
_STREAMS: Final = re.compile(r"model\.altup_(unembed_)?projections\.(\d+)\.weight")
_WRAP: Final = re.compile(r"^(?:(model\.)language_model\.|language_model\.(?=model\.|lm_head\.))")  # of a text's part
_BARE: Final = re.compile(r"layers\.(\d+)\.(.+)")
_LEFT_OUT: Final = re.compile(r".*\.rotary_emb\.inv_freq|mtp\..*")  # worked out again; tokens farther ahead
_FLOAT: Final = FORMATS[0]
_COMPARED_BYTES: Final = 1 << 24  # at once
_SAID: Final[Mapping[str, str]] = {
    "attention_bias": r"blk\.\d+\.attn_(?:q|k|v|qkv)\.bias",
    "attention_out_bias": r"blk\.\d+\.attn_output\.bias",
    "mlp_bias": r"blk\.\d+\.ffn_(?:gate|up|down)\.bias",
    "use_bias": r"blk\.\d+\.(?:attn_(?:q|k|v|output)|ffn_(?:gate|up|down))\.bias",
    "use_qk_norm": r"blk\.\d+\.attn_[qk]_norm\.weight",
}
"""Weights that there are only where a setting is true."""


class HfFolder(SafetensorsFiles):
    """An open folder.

    Attributes:
        config: What its configuration says.
        heads: Weights of encoders that no embedding is made with, under their own names.

    Raises:
        LoadError: A file is missing or contradicts itself, or a setting is not supported.
    """

    def __init__(self, path: Path) -> None:
        settings = read_hf_json(path / CONFIG)
        if settings.get("quantization_config"):
            raise UnsupportedModelError(f"{path / CONFIG}: 'quantization_config' is not supported; take plain weights")
        self.config = HfConfig(path / CONFIG, settings)
        self.metadata = self.config.metadata
        self._made: dict[str, Callable[[], Bytes]] = {}  # of tensors that lie elsewhere, or in several places
        self._experts: dict[str, Callable[[int], Bytes]] = {}  # of those that are experts, one of them
        self._parts: dict[str, Sequence[Tensor]] = {}  # what is read for them
        super().__init__(path, list_hf_weights(path))
        found = self.tensors
        self.heads = {name: tensor for name, tensor in found.items() if re.fullmatch(ENCODER_HEADS, name)}
        self.tensors = self._name(found)

    def blocks(self, tensor: Tensor) -> Bytes:
        """The stored blocks of a tensor, shape (blocks, block bytes); a copy where they do not lie in one place."""
        made = self._made.get(tensor.name)
        raw = super().blocks(tensor) if made is None else made().reshape(-1, tensor.format.block_bytes)
        return raw.copy() if made is None and tensor.offset % tensor.format.block_bytes else raw

    def shares(self, tensor: Tensor, count: int) -> Iterator[Bytes]:
        """The stored blocks in equal shares; of experts, which lie in several places, no two are in memory at once."""
        take = self._experts.get(tensor.name)
        if take is None:
            yield from super().shares(tensor, count)
            return
        for index in range(count):
            yield take(index).reshape(-1, tensor.format.block_bytes)
            if len(self._parts[tensor.name]) == count:
                super().release(self._parts[tensor.name][index])

    def release(self, tensor: Tensor) -> None:
        """Let the memory of a tensor go that reading it took."""
        if tensor.name not in self._made:
            super().release(tensor)
        for part in self._parts.get(tensor.name, ()):
            super().release(part)

    def _name(self, found: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors under the names of GGUF; what has no name there keeps its own, and is refused later."""
        tensors: dict[str, Tensor] = {}
        experts: defaultdict[str, dict[int, Tensor]] = defaultdict(dict)
        encodes = FAMILIES[self.config.type.architecture].encodes
        for name, tensor in ((_WRAP.sub(r"\1", each), found[each]) for each in found):
            expert, fused, stream = _EXPERT.fullmatch(name), _EXPERTS.fullmatch(name), _STREAMS.fullmatch(name)
            if (
                _LEFT_OUT.fullmatch(name)
                or re.fullmatch(PICTURES, name)
                or (encodes and re.fullmatch(ENCODER_HEADS, name))
            ):
                continue
            if tensor.format.name in OTHERS:
                raise LoadError(f"{self.path}: tensor {name!r} is {tensor.format.name}, which no weight may be")
            if expert is not None and expert[3] in EXPERT_NAMES:
                experts[f"blk.{expert[1]}.{EXPERT_NAMES[expert[3]]}.weight"][int(expert[2])] = tensor
            elif stream is not None:
                experts["altup_unembd_proj.weight" if stream[1] else "altup_proj.weight"][int(stream[2])] = tensor
            elif fused is not None:
                tensors |= self._split_experts(f"blk.{fused[1]}.ffn_", fused[2], tensor)
            elif (short := rename(self.config.type, name)) in tensors:
                raise LoadError(f"{self.path}: tensor {name!r} is there twice, once under another prefix")
            else:
                tensors[short] = self._store(short, tensor)
        for name, parts in experts.items():
            tensors[name] = self._stack(name, parts)
        for name, numbers in self.config.divisors.items():
            tensors[name] = self._keep(name, numbers)
        self._check_head(tensors)
        self._check_said(tensors)
        return tensors

    def _check_head(self, tensors: dict[str, Tensor]) -> None:
        """A head beside the embedding that it is said to be is left out where it is the same, and else it counts."""
        embedding, head = tensors.get("token_embd.weight"), tensors.get("output.weight")
        if self.config.tied and embedding is not None and head is not None and self._are_same(embedding, head):
            del tensors["output.weight"]
        if not self.config.tied and head is None and self.config.generates:
            raise LoadError(f"{self.path}: 'tie_word_embeddings' is false, and there is no 'lm_head.weight'")

    def _are_same(self, one: Tensor, other: Tensor) -> bool:
        if (one.shape, one.format) != (other.shape, other.format):
            return False
        left, right = super().blocks(one), super().blocks(other)
        step = max(1, _COMPARED_BYTES // one.format.block_bytes)
        return all(np.array_equal(left[i : i + step], right[i : i + step]) for i in range(0, len(left), step))

    def _check_said(self, tensors: Mapping[str, Tensor]) -> None:
        """Weights that the configuration says are not used, and the reference drops."""
        for setting, names in _SAID.items():
            found = (name for name in tensors if self.config.denies(setting) and re.fullmatch(names, name))
            if (name := next(found, None)) is not None:
                raise LoadError(f"{self.path}: {setting!r} is false, but there is {name!r}; one of them is wrong")

    def _store(self, name: str, tensor: Tensor) -> Tensor:
        """A tensor under its name in GGUF, as a file has it."""
        if name == "position_embd.weight":
            return self._skip_rows(tensor, self.config.type.offset)
        if name.endswith(".ssm_a"):
            return self._keep(name, -np.exp(self._read_numbers(tensor)))
        if self._is_one_less(name):
            return self._keep(name, self._read_numbers(tensor) + np.float32(1))
        return replace(tensor, name=name)

    def _skip_rows(self, tensor: Tensor, count: int) -> Tensor:
        """Positions, without the first ones."""
        if len(tensor.shape) != 2 or tensor.shape[0] <= count:  # noqa: PLR2004 - positions and their numbers
            raise LoadError(
                f"{self.path}: {tensor.name!r} has shape {list(tensor.shape)}; {count} rows of it are skipped"
            )
        rows, columns = tensor.shape
        offset = tensor.offset + count * columns * tensor.format.block_bytes
        return replace(tensor, name="position_embd.weight", shape=(rows - count, columns), offset=offset)

    def _is_one_less(self, name: str) -> bool:
        return self.config.type.one_more and name.endswith("norm.weight") and not name.endswith(".ssm_norm.weight")

    def _keep(self, name: str, numbers: NDArray[np.float32]) -> Tensor:
        """A tensor that is in memory."""
        self._made[name] = lambda: np.ascontiguousarray(numbers, np.float32).view(np.uint8)
        return Tensor(name=name, shape=numbers.shape, format=_FLOAT, offset=0)

    def _read_numbers(self, tensor: Tensor) -> NDArray[np.float32]:
        return tensor.format.decode(super().blocks(tensor)).reshape(tensor.shape)

    def _stack(self, name: str, parts: Mapping[int, Tensor]) -> Tensor:
        """The experts of a layer, one behind the other."""
        ordered = order_experts(self.path, name, parts)
        first, read = ordered[0], super().blocks
        self._made[name] = lambda: np.concatenate([read(part) for part in ordered])
        self._experts[name] = lambda index: self.blocks(ordered[index])
        self._parts[name] = ordered
        return Tensor(name=name, shape=(len(ordered), *first.shape), format=first.format, offset=first.offset)

    def _split_experts(self, at: str, part: str, tensor: Tensor) -> dict[str, Tensor]:
        """Experts that are stored as one: gates and ups of each are one below the other."""
        if part == "down_proj":
            return {f"{at}down_exps.weight": replace(tensor, name=f"{at}down_exps.weight")}
        if len(tensor.shape) != 3 or tensor.shape[1] % 2:  # noqa: PLR2004 - experts, outputs, inputs
            raise LoadError(f"{self.path}: tensor {tensor.name!r} has shape {list(tensor.shape)}; it needs two halves")
        count, both, inputs = tensor.shape
        read, made = super().blocks, {}
        for half, x in enumerate(("gate", "up")):
            name = f"{at}{x}_exps.weight"

            def take(half: int = half) -> Bytes:
                each: Bytes = read(tensor).reshape(count, 2, -1)[:, half]
                return np.ascontiguousarray(each)

            def take_one(index: int, half: int = half) -> Bytes:
                each: Bytes = self.blocks(tensor).reshape(count, 2, -1)[index, half]
                return each

            self._made[name], self._experts[name], self._parts[name] = take, take_one, (tensor,)
            made[name] = Tensor(name=name, shape=(count, both // 2, inputs), format=tensor.format, offset=tensor.offset)
        return made


def rename(known: HfType, name: str) -> str:
    """The name of a weight in GGUF; its own where it has none there."""
    inner = _PREFIX.sub("", name, count=1) if _PREFIX.match(name) else name
    layer = _LAYER.fullmatch(inner)
    if layer is not None:
        short = (LAYER_NAMES | known.names).get(layer[2])
        return name if short is None else f"blk.{layer[1]}.{short}.{layer[3]}"
    if (bare := _BARE.fullmatch(inner)) is not None and bare[2] in BARE_NAMES:
        return f"blk.{bare[1]}.{BARE_NAMES[bare[2]]}"
    stem, _, ending = inner.rpartition(".")
    return f"{MODEL_NAMES[stem]}.{ending}" if stem in MODEL_NAMES else name
