"""Folders of small networks with weights of 4 bits, as three programs write them; and the same weights, unpacked.

Numbers are put into words one place at a time, as those programs' own code does it: AutoGPTQ's `pack`, AutoAWQ's
`WQLinear_GEMM.from_linear`, compressed-tensors' `pack_to_int32`. What a weight is worth is worked out before.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tiny_networks as tiny
import torch
from safetensors.torch import save_file

Array = np.ndarray[Any, Any]
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # the column that is put into each place of a word


@dataclass(frozen=True)
class Numbers:
    """Of one linear module.

    Attributes:
        whole: From 0 to 15, shape (N, K).
        zeros: Shape (N, G), from 0 to 15.
        scales: Shape (N, G), float16.
        groups: Of each input, shape (K,).
    """

    whole: Array
    zeros: Array
    scales: Array
    groups: Array

    @property
    def worth(self) -> Array:
        """The weights, shape (N, K), float32."""
        own = self.whole.astype(np.float32) - self.zeros[:, self.groups]
        worth: Array = own * self.scales.astype(np.float32)[:, self.groups]
        return worth


def draw(outputs: int, inputs: int, group: int, *, symmetric: bool, ordered: bool, seed: int) -> Numbers:
    """Random ones; those of as many inputs have the same order, if any."""
    generator = np.random.default_rng(seed)
    size = group if group > 0 else inputs
    count = -(-inputs // size)
    groups = np.arange(inputs) // size
    return Numbers(
        whole=generator.integers(0, 16, (outputs, inputs)),
        zeros=np.full((outputs, count), 8) if symmetric else generator.integers(0, 16, (outputs, count)),
        scales=generator.uniform(0.02, 0.08, (outputs, count)).astype(np.float16),
        groups=np.random.default_rng(inputs).permutation(groups) if ordered else groups,
    )


def put(numbers: Array, order: tuple[int, ...] = tuple(range(8))) -> Array:
    """Eight columns in a word: (R, C) -> (R, C / 8)."""
    words = np.zeros((len(numbers), numbers.shape[1] // 8), np.uint32)
    for place, column in enumerate(order):
        words |= (numbers[:, column::8].astype(np.uint32) & 15) << np.uint32(4 * place)
    return words.view(np.int32)


def gptq(numbers: Numbers, offset: int = 1) -> dict[str, Array]:
    """As AutoGPTQ writes it; with offset 0 as its second version."""
    return {
        "qweight": put(numbers.whole).T,
        "qzeros": put(numbers.zeros.T - offset),
        "scales": numbers.scales.T,
        "g_idx": numbers.groups.astype(np.int32),
    }


def awq(numbers: Numbers) -> dict[str, Array]:
    """As AutoAWQ writes it for its kernel `gemm`."""
    return {
        "qweight": put(numbers.whole.T, AWQ_ORDER),
        "qzeros": put(numbers.zeros.T, AWQ_ORDER),
        "scales": numbers.scales.T,
    }


def compressed(numbers: Numbers, *, symmetric: bool, ordered: bool) -> dict[str, Array]:
    """As llm-compressor writes it: signed numbers, 8 more so that none is below 0."""
    given = {
        "weight_packed": put(numbers.whole),
        "weight_scale": numbers.scales,
        "weight_shape": np.array(numbers.whole.shape, np.int64),
    }
    if not symmetric:
        given["weight_zero_point"] = put(numbers.zeros.T).T
    if ordered:
        given["weight_g_idx"] = numbers.groups.astype(np.int32)
    return given


def gptq_config(group: int, **more: Any) -> dict[str, Any]:
    """Its `quantization_config`."""
    return {"quant_method": "gptq", "bits": 4, "group_size": group, "desc_act": False, "sym": True, **more}


def awq_config(group: int, **more: Any) -> dict[str, Any]:
    """Its `quantization_config`."""
    return {"quant_method": "awq", "bits": 4, "group_size": group, "version": "gemm", "zero_point": True, **more}


def compressed_config(group: int, *, symmetric: bool = True, ordered: bool = False, **more: Any) -> dict[str, Any]:
    """Its `quantization_config`."""
    weights = {
        "num_bits": 4,
        "type": "int",
        "symmetric": symmetric,
        "strategy": "group" if group > 0 else "channel",
        "group_size": group if group > 0 else None,
        "actorder": "group" if ordered else None,
        "dynamic": False,
        "observer": "minmax",
        "observer_kwargs": {},
        "block_structure": None,
    }
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": weights,
                "input_activations": None,
                "output_activations": None,
            }
        },
        "ignore": ["lm_head"],
        "kv_cache_scheme": None,
        **more,
    }


KINDS: dict[str, tuple[dict[str, Any], Callable[[Numbers], dict[str, Array]], bool, bool]] = {
    # how it is said, how it is packed, whether it is symmetric, whether inputs have an order of their own
    "gptq": (gptq_config(32), gptq, True, False),
    "gptq_order": (gptq_config(32, desc_act=True, sym=False), gptq, False, True),
    "gptq_rows": (gptq_config(-1), gptq, True, False),
    "gptq_v2": (gptq_config(64, checkpoint_format="gptq_v2", sym=False), lambda n: gptq(n, 0), False, False),
    "awq": (awq_config(32), awq, False, False),
    "compressed": (compressed_config(32), lambda n: compressed(n, symmetric=True, ordered=False), True, False),
    "compressed_rows": (compressed_config(-1), lambda n: compressed(n, symmetric=True, ordered=False), True, False),
    "compressed_zeros": (
        compressed_config(64, symmetric=False, ordered=True),
        lambda n: compressed(n, symmetric=False, ordered=True),
        False,
        True,
    ),
}


def group_of(config: dict[str, Any]) -> int:
    """The size of groups that a configuration says."""
    if "config_groups" in config:
        return config["config_groups"]["group_0"]["weights"]["group_size"] or -1
    return int(config["group_size"])


def write_packed(kind: str, folder: Path, name: str = "qwen2", **changes: Any) -> Any:
    """Write a folder; the network with the same weights in float32."""
    config, pack, symmetric, ordered = KINDS[kind]
    network = tiny.write_network(name, folder, **changes)
    weights = dict(network.state_dict())
    for number, (place, module) in enumerate(network.named_modules()):
        if not isinstance(module, torch.nn.Linear) or place == "lm_head":
            continue
        outputs, inputs = module.weight.shape
        numbers = draw(outputs, inputs, group_of(config), symmetric=symmetric, ordered=ordered, seed=number)
        del weights[f"{place}.weight"]
        weights |= {f"{place}.{part}": torch.from_numpy(each.copy()) for part, each in pack(numbers).items()}
        with torch.no_grad():
            module.weight.copy_(torch.from_numpy(numbers.worth))
    if network.config.tie_word_embeddings:
        weights.pop("lm_head.weight")
    save_file({place: each.contiguous() for place, each in weights.items()}, folder / "model.safetensors")
    change_config(folder, quantization_config=config)
    return network


def change_config(folder: Path, **values: Any) -> None:
    """Have config.json say something else."""
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))
