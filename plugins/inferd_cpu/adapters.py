"""Adapters (LoRA, arXiv:2106.09685): products of two thin matrices that are added to weights as they are loaded."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from inferd.plugin import LoadError, UnsupportedModelError, read_hf_json
from inferd_cpu.families import FAMILIES
from inferd_cpu.hf_folder import HfFolder, rename
from inferd_cpu.hf_types import TYPES
from inferd_cpu.shapes import Architecture, DeltaNet
from inferd_cpu.weights import order_halves
from inferd_weights.gguf import GgufFile
from inferd_weights.model_file import ModelFile, Tensor
from inferd_weights.quants import FORMATS
from inferd_weights.safetensors import OTHERS, read_safetensors

Floats = NDArray[np.float32]
SETTINGS, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_LARGEST: Final = 1e30  # of what changes are multiplied with
_MIXED: Final = ("falcon", "starcoder")  # queries, keys and values of a group of heads may be together
_PEFT: Final = re.compile(r"base_model\.model\.(.+)\.lora_([AB])(?:\.default)?\.weight")
_PLAIN: Final[Mapping[str, tuple[Any, ...]]] = {
    "peft_type": ("LORA",),
    "bias": ("none",),
    "use_dora": (False, None),
    "fan_in_fan_out": (False, None),
    "lora_bias": (False, None),
    "rank_pattern": ({}, None),
    "alpha_pattern": ({}, None),
    "modules_to_save": ([], None),
    "layer_replication": ([], None),
    "trainable_token_indices": ([], None),
    "init_lora_weights": (True, False, None, "gaussian", "eva", "orthogonal"),  # others change the model, too
    "target_parameters": ([], None),
    "alora_invocation_tokens": ([], None),
}
"""Settings of an adapter, and the values that are supported."""
_HARMLESS: Final = frozenset(
    {
        *("auto_mapping", "base_model_name_or_path", "revision", "inference_mode", "lora_dropout", "task_type"),
        *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "peft_version", "r"),
        *("lora_alpha", "use_rslora", "loftq_config", "eva_config", "corda_config", "megatron_config"),
        *("megatron_core", "runtime_config", "qalora_group_size", "ensure_weight_tying"),
    }
)
"""Settings that are read, that tell of the training, or that count only with one that is refused."""
_TASK: Final = "adapter.lora.task_name"  # changes nothing


@dataclass(frozen=True, slots=True)
class Change:
    """What is added to a tensor of shape (outputs, inputs): `up` (outputs, rank) times `down` (rank, inputs)."""

    down: Floats
    up: Floats


class AdaptedFile(ModelFile):
    """A model file of which some tensors are changed; these are in fp32 then, whatever they are stored in."""

    def __init__(self, file: ModelFile, changes: Mapping[str, Change]) -> None:
        self.path, self.metadata = file.path, file.metadata
        self._file, self._changes = file, changes
        self.tensors = {
            name: replace(tensor, format=FORMATS[0]) if name in changes else tensor
            for name, tensor in file.tensors.items()
        }

    def blocks(self, tensor: Tensor) -> NDArray[np.uint8]:
        """The stored blocks of a tensor, shape (blocks, block bytes); of a changed one its numbers."""
        change = self._changes.get(tensor.name)
        if change is None:
            return self._file.blocks(tensor)
        stored = self._file.tensors[tensor.name]
        numbers = stored.format.decode(self._file.blocks(stored)).reshape(tensor.shape) + change.up @ change.down
        return np.ascontiguousarray(numbers, np.float32).view(np.uint8).reshape(-1, 4)

    def release(self, tensor: Tensor) -> None:
        """Let the memory of a tensor go that reading it took."""
        self._file.release(self._file.tensors[tensor.name])


def adapt(file: ModelFile, a: Architecture, path: Path, scale: float) -> ModelFile:
    """The file with an adapter, a GGUF file or a folder of the `peft` package, times `scale`.

    Raises:
        LoadError: It cannot be read, is for another model, or does more than adding to matrices.
    """
    if not path.is_absolute():
        raise LoadError(f"{path}: setting 'adapter' must be an absolute path: it is read by another process")
    in_file_order = not isinstance(file, HfFolder)
    pairs, factor, own_order = _read_folder(path, a) if path.is_dir() else _read_gguf(path, a)
    changes: dict[str, Change] = {}
    for name, (down, up) in pairs.items():
        base = file.tensors.get(name)
        shape = (up.shape[0], down.shape[1])
        if base is None or name == "token_embd.weight" or base.shape != shape or up.shape[1] != down.shape[0]:
            found = "has none" if base is None else f"has {list(base.shape)}"
            raise LoadError(
                f"{path}: changes {name!r} by matrices of shapes {list(up.shape)} and {list(down.shape)}; {file.path}"
                f" {found}: the adapter is for another model, or for a part that cannot be changed"
            )
        columns, rows = _reorder(a, name, down, up, own_order, in_file_order)
        changes[name] = Change(columns, rows * np.float32(scale if factor is None else scale * factor / len(down)))
    return AdaptedFile(file, changes)


def _reorder(  # noqa: PLR0917 - of one change
    a: Architecture,
    name: str,
    down: Floats,
    up: Floats,
    given: bool,  # noqa: FBT001 - as GGUF
    wanted: bool,  # noqa: FBT001
) -> tuple[Floats, Floats]:
    """Both matrices in the order of the file: some GGUF files have other orders of rows or columns than folders."""
    part = re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", name)
    if given == wanted or part is None or int(part[1]) >= len(a.layers):
        return down, up
    layer, delta = a.layers[int(part[1])], a.delta
    if delta is not None and layer.recurrent and FAMILIES[a.name].delta == "tiled":
        if part[2] == "ssm_out":
            return _turn(down.T, _order_tiles(delta, delta.value_width, 0), back=given).T, up
        width = {"attn_qkv": delta.value_width, "attn_gate": delta.value_width, "ssm_beta": 1, "ssm_alpha": 1}
        if part[2] in width:
            before = 2 * delta.keys_width if part[2] == "attn_qkv" else 0
            return down, _turn(up, _order_tiles(delta, width[part[2]], before), back=given)
    halves = any(known.halves for known in TYPES.values() if known.architecture == a.name)
    if halves and part[2] in ("attn_q", "attn_k"):
        return down, _turn(up, order_halves(layer.key_width, a.ropes[0].width, len(up)), back=not given)
    return down, up


def _turn(rows: Floats, order: NDArray[np.intp], *, back: bool) -> Floats:
    """The rows in this order, or, `back`, those that are in it as they were before."""
    if not back:
        return rows[order]
    turned = np.empty_like(rows)
    turned[order] = rows
    return turned


def _order_tiles(delta: DeltaNet, width: int, before: int) -> NDArray[np.intp]:
    """Rows of value heads, `width` of each, behind `before` others: grouped in folders by key head, tiled in files."""
    heads = np.arange(delta.value_heads).reshape(delta.key_heads, -1).T.reshape(-1)
    rows = (heads[:, None] * width + np.arange(width)).reshape(-1)
    return np.concatenate([np.arange(before), before + rows])


def _pair_up(path: Path, halves: Mapping[str, dict[str, Floats]]) -> dict[str, tuple[Floats, Floats]]:
    """Both matrices of each tensor, from those by their letters."""
    pairs = {}
    for name, found in halves.items():
        if found.keys() != {"a", "b"} or any(each.ndim != 2 or not each.size for each in found.values()):  # noqa: PLR2004
            shapes = {key: list(each.shape) for key, each in found.items()}
            raise LoadError(f"{path}: of {name!r} there must be two matrices, a and b; there are {shapes}")
        if not all(np.isfinite(each).all() for each in found.values()):
            raise LoadError(f"{path}: of {name!r} there are numbers that are not finite: the file is damaged")
        pairs[name] = (found["a"], found["b"])
    if not pairs:
        raise LoadError(f"{path}: it changes nothing; it is no adapter")
    return pairs


def _read_gguf(path: Path, a: Architecture) -> tuple[dict[str, tuple[Floats, Floats]], float | None, bool]:
    """The matrices of a GGUF file, what they are multiplied with times their rank, and that rows are as in GGUF."""
    file = GgufFile(path)
    metadata = file.metadata
    for key, wanted in (("general.type", "adapter"), ("adapter.type", "lora"), ("general.architecture", a.name)):
        if (given := metadata.text(key, "")) != wanted:
            raise metadata.error(key, f"is {given!r}; of an adapter for this model it must be {wanted!r}")
    halves: dict[str, dict[str, Floats]] = {}
    for name, tensor in file.tensors.items():
        base, _, letter = name.rpartition(".lora_")
        if letter not in ("a", "b"):
            raise LoadError(f"{path}: tensor {name!r} is no adapter's: its name must end with .lora_a or .lora_b")
        numbers = tensor.format.decode(file.blocks(tensor)).reshape(tensor.shape)
        halves.setdefault(base, {})[letter] = numbers.astype(np.float32)
    alpha = metadata.positive("adapter.lora.alpha") if "adapter.lora.alpha" in metadata else None
    for key in metadata:
        if key.startswith(("adapter.", f"{a.name}.")) and key not in metadata.used and key != _TASK:
            raise metadata.error(key, f"is {str(metadata[key].content)[:80]}, which may change results")
    return _pair_up(path, halves), alpha, True


def _read_folder(path: Path, a: Architecture) -> tuple[dict[str, tuple[Floats, Floats]], float | None, bool]:
    """The same of a folder of the `peft` package, whose rows are as in Hugging Face folders."""
    settings = read_hf_json(path / SETTINGS)
    _check_settings(path / SETTINGS, settings)
    rank: Any = settings.get("r")
    alpha: Any = settings.get("lora_alpha")
    sound = type(rank) is int and rank > 0 and type(alpha) in (int, float) and 0 < alpha < _LARGEST
    if not sound:
        raise LoadError(f"{path / SETTINGS}: r is {rank!r} and lora_alpha {alpha!r}; both must be numbers above 0")
    known = next((each for each in TYPES.values() if each.architecture == a.name), None)
    if known is None:
        raise UnsupportedModelError(f"{path}: adapters of peft are not supported for {a.name!r}; convert it to GGUF")
    mapping, tensors = read_safetensors(path / WEIGHTS, 0)
    halves: dict[str, dict[str, Floats]] = {}
    for name, tensor in tensors.items():
        match = _PEFT.fullmatch(name)
        if match is None or tensor.format.name in OTHERS:
            raise LoadError(
                f"{path / WEIGHTS}: tensor {name!r} ({tensor.format.name}) is none that an adapter has here"
            )
        _check_target(path / SETTINGS, settings, match[1])
        if len(tensor.shape) == 2 and tensor.shape[0 if match[2] == "A" else 1] != rank:  # noqa: PLR2004 - a matrix
            raise LoadError(f"{path / WEIGHTS}: tensor {name!r} has shape {list(tensor.shape)}, but r is {rank}")
        raw = np.frombuffer(mapping, np.uint8, tensor.size_bytes, tensor.offset).copy()
        numbers = tensor.format.decode(raw.reshape(-1, tensor.format.block_bytes)).reshape(tensor.shape)
        base = rename(known, f"{match[1]}.weight")
        if a.name in _MIXED and base.endswith(".attn_qkv.weight"):
            raise UnsupportedModelError(
                f"{path / WEIGHTS}: changes {match[1]!r}, whose heads folders of {a.name!r} may have in another order"
                " than they are loaded in; convert the adapter to GGUF"
            )
        halves.setdefault(base, {})[match[2].lower()] = numbers.astype(np.float32)
    factor = alpha * math.sqrt(rank) if settings.get("use_rslora") else float(alpha)
    return _pair_up(path, halves), factor, False


def _check_target(path: Path, settings: Mapping[str, Any], module: str) -> None:
    """A matrix of a module that the settings leave out would be dropped by the package."""
    named, layers = settings.get("target_modules"), settings.get("layers_to_transform")
    if isinstance(named, list) and not any(module == each or module.endswith(f".{each}") for each in named):
        raise LoadError(f"{path}: 'target_modules' lacks {module!r}, of which there are matrices")
    layer, chosen = re.search(r"\.(\d+)\.", module), layers if isinstance(layers, list) else [layers]
    if layers is not None and layers != [] and (layer is None or int(layer[1]) not in chosen):
        raise LoadError(f"{path}: 'layers_to_transform' is {str(layers)[:80]}; there are matrices of {module!r}")


def _check_settings(path: Path, settings: Mapping[str, Any]) -> None:
    """A setting that nobody has looked at may change results, unless it says nothing or no."""
    for key, values in _PLAIN.items():
        if settings.get(key, values[0]) not in values:
            shown = str(settings[key])[:80]
            raise UnsupportedModelError(f"{path}: {key!r} is {shown}, which is not supported")
    for key, value in settings.items():
        if key not in _PLAIN and key not in _HARMLESS and value is not None and value is not False:
            shown = str(value)[:80]
            raise UnsupportedModelError(f"{path}: {key!r} is {shown}, which may change results")
