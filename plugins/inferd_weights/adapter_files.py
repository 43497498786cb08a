"""Files of adapters (LoRA, arXiv:2106.09685): two thin matrices for each weight that is changed, and a factor.

A folder of the `peft` package has its settings in one file and its matrices in another; a GGUF file has both. What a
file asks for besides adding such products to weights is refused by name: it would change results.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from inferd.plugin import LoadError, UnsupportedModelError, read_hf_json
from inferd_weights.gguf import GgufFile
from inferd_weights.safetensors import OTHERS, read_safetensors

Floats = NDArray[np.float32]
SETTINGS, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_LARGEST: Final = 1e30  # of what changes are multiplied with
_PEFT: Final = re.compile(r"base_model\.model\.(.+)\.lora_([AB])(?:\.default)?\.weight")
_PLAIN: Final[Mapping[str, tuple[Any, ...]]] = {
    "peft_type": ("LORA",),
    "bias": ("none",),
    "use_dora": (False, None),
    "fan_in_fan_out": (False, None),
    "lora_bias": (False, None),
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
        *("rank_pattern", "alpha_pattern"),
        *("lora_alpha", "use_rslora", "loftq_config", "eva_config", "corda_config", "megatron_config"),
        *("megatron_core", "runtime_config", "qalora_group_size", "ensure_weight_tying"),
    }
)
"""Settings that are read, that tell of the training, or that count only with one that is refused."""
_TASK: Final = "adapter.lora.task_name"  # changes nothing


class Pair(NamedTuple):
    """What is added to a weight of shape (outputs, inputs): `factor` times `up` times `down`.

    Attributes:
        down: Shape (rank, inputs).
        up: Shape (outputs, rank).
        factor: What the product is multiplied with.
    """

    down: Floats
    up: Floats
    factor: float


def read_gguf_adapter(path: Path, architecture: str, *, most_rank: int | None = None) -> dict[str, Pair]:
    """The pairs of a GGUF file, by the names of the tensors that they are for; rows are as in GGUF.

    Args:
        path: The file.
        architecture: What it must be for, as `general.architecture` names it.
        most_rank: Of its matrices; None for any. What has more is not decoded.

    Raises:
        LoadError: It is damaged, no adapter, or for another architecture; or says what may change results.
    """
    file = GgufFile(path)
    metadata = file.metadata
    for key, wanted in (("general.type", "adapter"), ("adapter.type", "lora"), ("general.architecture", architecture)):
        if (given := metadata.text(key, "")) != wanted:
            raise metadata.error(key, f"is {given!r}; of an adapter for this model it must be {wanted!r}")
    halves: dict[str, dict[str, Floats]] = {}
    for name, tensor in file.tensors.items():
        base, _, letter = name.rpartition(".lora_")
        if letter not in ("a", "b"):
            raise LoadError(f"{path}: tensor {name!r} is no adapter's: its name must end with .lora_a or .lora_b")
        _check_rank(path, name, tensor.shape, letter, most_rank)
        numbers = tensor.format.decode(file.blocks(tensor)).reshape(tensor.shape)
        halves.setdefault(base, {})[letter] = numbers.astype(np.float32)
    alpha = metadata.positive("adapter.lora.alpha") if "adapter.lora.alpha" in metadata else None
    for key in metadata:
        if key.startswith(("adapter.", f"{architecture}.")) and key not in metadata.used and key != _TASK:
            raise metadata.error(key, f"is {str(metadata[key].content)[:80]}, which may change results")
    return {
        name: Pair(down, up, 1.0 if alpha is None else alpha / len(down))
        for name, (down, up) in _pair_up(path, halves).items()
    }


def read_peft(path: Path, *, most_rank: int | None = None) -> dict[str, Pair]:
    """The pairs of a folder of the `peft` package, by the names of the modules that they are for.

    Args:
        path: The folder.
        most_rank: Of its matrices; None for any. What has more is not decoded.

    Raises:
        LoadError: It is damaged, or asks for more than adding products.
    """
    settings = read_hf_json(path / SETTINGS)
    _check_settings(path / SETTINGS, settings)
    mapping, tensors = read_safetensors(path / WEIGHTS, 0)
    halves: dict[str, dict[str, Floats]] = {}
    factors: dict[str, float] = {}
    for name, tensor in tensors.items():
        match = _PEFT.fullmatch(name)
        if match is None or tensor.format.name in OTHERS:
            raise LoadError(
                f"{path / WEIGHTS}: tensor {name!r} ({tensor.format.name}) is none that an adapter has here"
            )
        module = match[1]
        _check_target(path / SETTINGS, settings, module)
        rank, factors[module] = _read_scale(path / SETTINGS, settings, module)
        if len(tensor.shape) == 2 and tensor.shape[0 if match[2] == "A" else 1] != rank:  # noqa: PLR2004 - a matrix
            raise LoadError(f"{path / WEIGHTS}: tensor {name!r} has shape {list(tensor.shape)}, but r is {rank}")
        _check_rank(path / WEIGHTS, name, tensor.shape, match[2].lower(), most_rank)
        raw = np.frombuffer(mapping, np.uint8, tensor.size_bytes, tensor.offset).copy()
        numbers = tensor.format.decode(raw.reshape(-1, tensor.format.block_bytes)).reshape(tensor.shape)
        halves.setdefault(module, {})[match[2].lower()] = numbers.astype(np.float32)
    return {name: Pair(down, up, factors[name]) for name, (down, up) in _pair_up(path, halves).items()}


def _check_rank(path: Path, name: str, shape: tuple[int, ...], letter: str, most_rank: int | None) -> None:
    """Refuse what is no thin matrix by its shape, before memory is taken for its numbers."""
    if len(shape) != 2:  # noqa: PLR2004 - a matrix
        raise LoadError(f"{path}: tensor {name!r} has shape {list(shape)}; of an adapter all are matrices")
    rank = shape[0 if letter == "a" else 1]
    if most_rank is not None and rank > most_rank:
        raise LoadError(f"{path}: tensor {name!r} of shape {list(shape)} has rank {rank}; at most {most_rank} is taken")


def _pair_up(path: Path, halves: Mapping[str, dict[str, Floats]]) -> dict[str, tuple[Floats, Floats]]:
    """Both matrices of each weight, from those by their letters."""
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


def _read_scale(path: Path, settings: Mapping[str, Any], module: str) -> tuple[int, float]:
    """The rank of a module's matrices, and what their product is multiplied with; patterns go before `r` and alpha."""
    rank: Any = _of_pattern(path, settings, "rank_pattern", module, settings.get("r"))
    alpha: Any = _of_pattern(path, settings, "alpha_pattern", module, settings.get("lora_alpha"))
    sound = type(rank) is int and rank > 0 and type(alpha) in (int, float) and 0 < alpha < _LARGEST
    if not sound:
        raise LoadError(f"{path}: r is {rank!r} and lora_alpha {alpha!r}; both must be numbers above 0")
    return rank, alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)


def _of_pattern(path: Path, settings: Mapping[str, Any], name: str, module: str, otherwise: Any) -> Any:
    """What the first pattern says that a module's name ends with; of regular expressions names alone are taken."""
    patterns = settings.get(name) or {}
    if not isinstance(patterns, dict):
        raise LoadError(f"{path}: {name!r} is {str(patterns)[:80]}; it must be an object")
    for pattern, value in patterns.items():
        plain = pattern.removeprefix("^").removesuffix("$").replace("\\.", ".")
        if not re.fullmatch(r"[\w.]+", plain):
            raise UnsupportedModelError(f"{path}: {name!r} has {pattern[:80]!r}; only names of modules are supported")
        if module == plain or (not pattern.startswith("^") and module.endswith(f".{plain}")):
            return value
    return otherwise


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
