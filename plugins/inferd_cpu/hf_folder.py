"""A Hugging Face folder as a model file: its weights under the names of GGUF, in the formats that they have."""

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from inferd.plugin import LoadError, UnsupportedModelError, list_hf_weights, read_hf_json
from inferd_cpu.expert_files import order_experts
from inferd_cpu.families import FAMILIES
from inferd_cpu.hf_config import HfConfig
from inferd_cpu.hf_remade import HfRemade
from inferd_cpu.hf_types import BARE_NAMES, ENCODER_HEADS, EXPERT_NAMES, LAYER_NAMES, MODEL_NAMES, PICTURES, HfType
from inferd_weights.model_file import Tensor
from inferd_weights.safetensors import OTHERS

CONFIG: Final = "config.json"
_LAYER: Final = re.compile(r"(?:encoder\.layers?|layers|h|blocks)\.(\d+)\.(.+)\.(weight|bias)")
_PREFIX: Final = re.compile(r"(?:model|transformer|gpt_neox|(?:nomic_)?bert|roberta)\.")  # of a network with a head
_EXPERT: Final = re.compile(
    r"model\.layers\.(\d+)\.(?:mlp|block_sparse_moe|feed_forward)\.experts\.(\d+)\.(\w+)\.weight"
)
_EXPERTS: Final = re.compile(
    r"model\.layers\.(\d+)\.(?:(?:mlp|block_sparse_moe)\.)?"
    r"(?:experts\.((?:gate_up|down)_proj(?:_bias|_blocks|_scales)?)|(input|output)_linear\.weight)"
)
_SHARED: Final = re.compile(r"model\.layers\.(\d+)\.shared_mlp\.input_linear\.weight")
_HEAD_NORMS: Final = re.compile(r"model\.layers\.(\d+)\.self_attn\.([qk])_layernorm\.norms\.(\d+)\.weight")
_TURNED: Final = re.compile(r"blk\.\d+\.(?:attn_qkv|attn_output|ffn_up|ffn_down)\.weight")  # of GPT-2
_STREAMS: Final = re.compile(r"model\.altup_(unembed_)?projections\.(\d+)\.weight")
_WRAP: Final = re.compile(r"^(?:(model\.)language_model\.|language_model\.(?=model\.|lm_head\.))")  # of a text's part
_BARE: Final = re.compile(r"layers\.(\d+)\.(.+)")
_LEFT_OUT: Final = re.compile(  # worked out again; tokens farther ahead; masks
    r".*\.rotary_emb\.inv_freq|(?:model\.)?mtp[._].*|(?:\w+\.)?(?:h|layers)\.\d+\.(?:attn|attention)\.(?:masked_)?bias"
)
_PACKED: Final = ("_blocks", "_scales")
_FARTHER: Final = re.compile(r"model\.layers\.(\d+)\..*")
_COMPARED_BYTES: Final = 1 << 24  # at once
_SAID: Final[Mapping[str, str]] = {
    "attention_bias": r"blk\.\d+\.attn_(?:q|k|v|qkv)\.bias",
    "attention_out_bias": r"blk\.\d+\.attn_output\.bias",
    "mlp_bias": r"blk\.\d+\.ffn_(?:gate|up|down)\.bias",
    "use_bias": r"blk\.\d+\.(?:attn_(?:q|k|v|output)|ffn_(?:gate|up|down))\.bias",
    "use_qkv_bias": r"blk\.\d+\.attn_[qkv]\.bias",
    "qk_layernorm": r"blk\.\d+\.attn_[qk]_norm\.weight",
    "use_qk_norm": r"blk\.\d+\.attn_[qk]_norm\.weight",
}
"""Weights that there are only where a setting is true."""


class HfFolder(HfRemade):
    """An open folder.

    Attributes:
        config: What its configuration says.
        heads: Weights of encoders that no embedding is made with, under their own names.

    Raises:
        LoadError: A file is missing or contradicts itself, or a setting is not supported.
    """

    def __init__(self, path: Path) -> None:
        settings = read_hf_json(path / CONFIG)
        packed = settings.get("quantization_config")
        mxfp4 = isinstance(packed, dict) and packed.get("quant_method") == "mxfp4"
        if packed and not (mxfp4 and settings.get("model_type") == "gpt_oss"):
            raise UnsupportedModelError(f"{path / CONFIG}: 'quantization_config' is not supported; take plain weights")
        self.config = HfConfig(path / CONFIG, settings)
        self.metadata = self.config.metadata
        super().__init__(path, list_hf_weights(path))
        found = self.tensors
        self.heads = {name: tensor for name, tensor in found.items() if re.fullmatch(ENCODER_HEADS, name)}
        self.tensors = self._name(found)

    def _name(self, found: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors under the names of GGUF; what has no name there keeps its own, and is refused later."""
        tensors: dict[str, Tensor] = {}
        several: defaultdict[str, dict[int, Tensor]] = defaultdict(dict)  # that become one
        usual = {_WRAP.sub(r"\1", each): found[each] for each in found}
        for name, tensor in ((_WRAP.sub(r"\1", each), found[each]) for each in found):
            fused, shared = _EXPERTS.fullmatch(name), _SHARED.fullmatch(name)
            if self._is_left_out(name):
                continue
            if tensor.format.name in OTHERS and not (fused and name.endswith(_PACKED)):
                raise LoadError(f"{self.path}: tensor {name!r} is {tensor.format.name}, which no weight may be")
            if (place := _find_place(name)) is not None:
                several[place[0]][place[1]] = tensor
            elif fused is not None:
                part = fused[2] or {"input": "gate_up_proj", "output": "down_proj"}[fused[3]]
                tensors |= self._place_experts(f"blk.{fused[1]}.", part, replace(tensor, name=name), usual)
            elif shared is not None:
                names = [f"blk.{shared[1]}.ffn_{x}_shexp.weight" for x in ("gate", "up")]
                tensors |= self._split_rows(tensor, names)
            elif (short := rename(self.config.type, name)) in tensors:
                raise LoadError(f"{self.path}: tensor {name!r} is there twice, once under another prefix")
            else:
                stored = self._store(short, tensor)
                tensors[stored.name] = stored
        for name, parts in several.items():
            tensors[name] = self._stack(name, parts)
        for name, numbers in self.config.divisors.items():
            tensors[name] = self._keep(name, numbers)
        self._check_head(tensors)
        self._check_said(tensors)
        return tensors

    def _is_left_out(self, name: str) -> bool:
        """Whether a weight is of no use for texts, or predicts tokens farther ahead."""
        if (layer := _FARTHER.fullmatch(name)) is not None and 0 <= int(
            layer[1]
        ) - self.config.layers < self.config.farther:
            return True
        encodes = FAMILIES[self.config.type.architecture].encodes
        others = re.fullmatch(PICTURES, name) or (encodes and re.fullmatch(ENCODER_HEADS, name))
        return bool(_LEFT_OUT.fullmatch(name) or others)

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
        if self.config.type.architecture == "gpt2" and _TURNED.fullmatch(name):
            return self._turn(name, tensor)
        if ".attn_qkv_heads." in name:
            return self._join_heads(name.replace("_heads.", "."), tensor, *self.config.heads)
        kept = self._change(name, tensor)
        return replace(tensor, name=name) if kept is None else self._keep(name, kept)

    def _change(self, name: str, tensor: Tensor) -> NDArray[np.float32] | None:
        """Numbers that are not stored as they are wanted; None where they are."""
        if name.endswith(".exp_probs_b.bias"):
            return self._read_numbers(tensor).reshape(-1)
        if name.endswith(".ssm_a"):
            return np.asarray(-np.exp(self._read_numbers(tensor)))
        return self._read_numbers(tensor) + np.float32(1) if self._is_one_less(name) else None

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

    def _stack(self, name: str, parts: Mapping[int, Tensor]) -> Tensor:
        """The experts of a layer, one behind the other."""
        ordered = order_experts(self.path, name, parts)
        first = ordered[0]
        shape, count = (len(ordered), *first.shape), len(ordered)
        return self._remake(name, shape, first.format, ordered, lambda index: self._read_stored(ordered[index]), count)

    def _place_experts(self, at: str, part: str, tensor: Tensor, found: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Experts that are stored as one: gates and ups of each are one below the other, or take turns."""
        field, _, kind = part.removeprefix("experts.").partition("_proj")
        names = [f"{at}ffn_{x}_exps" for x in (("down",) if field == "down" else ("gate", "up"))]
        weights = [f"{name}.weight" for name in names]
        if kind == "_bias":
            numbers = self._read_numbers(tensor)
            if numbers.ndim != 2 or numbers.shape[1] % len(names):  # noqa: PLR2004 - experts and outputs
                raise self._misshapen(tensor, f"experts, and outputs of {len(names)} matrices")
            return {
                f"{name}.bias": self._keep(f"{name}.bias", numbers[:, i :: len(names)]) for i, name in enumerate(names)
            }
        if kind == "_scales":
            return {}
        if kind == "_blocks":
            scales = found.get(tensor.name.removesuffix("blocks") + "scales")
            if scales is None:
                raise LoadError(f"{self.path}: tensor {tensor.name!r} has no scales beside it")
            return self._split_packed(tensor, scales, weights)
        if self.config.type.architecture == "gpt-oss":
            return self._split_turned(tensor, weights)
        return {weights[0]: replace(tensor, name=weights[0])} if field == "down" else self._split_rows(tensor, weights)


def _find_place(name: str) -> tuple[str, int] | None:
    """Of which tensor this is a part, and which: experts, streams and norms of heads are one each."""
    if (expert := _EXPERT.fullmatch(name)) is not None and expert[3] in EXPERT_NAMES:
        return f"blk.{expert[1]}.{EXPERT_NAMES[expert[3]]}.weight", int(expert[2])
    if (norm := _HEAD_NORMS.fullmatch(name)) is not None:
        return f"blk.{norm[1]}.attn_{norm[2]}_norm.weight", int(norm[3])
    if (stream := _STREAMS.fullmatch(name)) is not None:
        return "altup_unembd_proj.weight" if stream[1] else "altup_proj.weight", int(stream[2])
    return None


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
