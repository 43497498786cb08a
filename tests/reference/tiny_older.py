"""Tiny random networks of older architectures, and how the usual converter stores what they keep in one matrix."""

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tiny_family import EXPERTS, TinyFamily, rope

Floats = NDArray[np.float32]

FAMILIES: dict[str, TinyFamily] = {
    "gpt2": TinyFamily(
        architecture="gpt2",
        model_type="gpt2",
        config={"n_inner": 96, "num_key_value_heads": 4},
    ),
    "starcoder": TinyFamily(
        architecture="starcoder",
        model_type="gpt_bigcode",
        config={"n_inner": 96, "num_key_value_heads": 1},
    ),
    "gptneox": TinyFamily(
        architecture="gptneox",
        model_type="gpt_neox",
        config={"num_key_value_heads": 4, "rope_parameters": rope(partial_rotary_factor=0.25)},
        metadata={"rope.dimension_count": 4, "use_parallel_residual": True},
    ),
    "gptneox_serial": TinyFamily(
        architecture="gptneox",
        model_type="gpt_neox",
        config={
            "num_key_value_heads": 4,
            "use_parallel_residual": False,
            "rope_parameters": rope(partial_rotary_factor=0.5),
        },
        metadata={"rope.dimension_count": 8, "use_parallel_residual": False},
    ),
    "falcon": TinyFamily(
        architecture="falcon",
        model_type="falcon",
        config={"ffn_hidden_size": 96, "num_key_value_heads": 1, "num_kv_heads": 1},
    ),
    "falcon_two_norms": TinyFamily(
        architecture="falcon",
        model_type="falcon",
        config={"ffn_hidden_size": 96, "num_kv_heads": 2, "new_decoder_architecture": True},
    ),
    "exaone": TinyFamily(architecture="exaone", model_type="exaone"),
    "qwen2vl": TinyFamily(
        architecture="qwen2vl", model_type="qwen2", metadata={"rope.dimension_sections": [2, 3, 3, 0]}
    ),
    "qwen3vl": TinyFamily(
        architecture="qwen3vl",
        model_type="qwen3",
        config={"head_dim": 16},
        metadata={"rope.dimension_sections": [4, 2, 2, 0], "n_deepstack_layers": 3},
    ),
    "qwen3vlmoe": TinyFamily(
        architecture="qwen3vlmoe",
        model_type="qwen3_moe",
        config={
            "head_dim": 16,
            "num_experts": 6,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "norm_topk_prob": True,
        },
        metadata=EXPERTS | {"rope.dimension_sections": [4, 2, 2, 0]},
    ),
}
_TURNED = re.compile(r"\.(c_attn|c_proj|c_fc)\.weight$")  # inputs come first


def convert_fused(family: TinyFamily, config: Any, key: str, weight: Floats) -> Floats:
    """A weight with queries, keys and values one behind the other, all heads of each."""
    if family.architecture == "gpt2" and _TURNED.search(key):
        return weight.T
    if "query_key_value" not in key:
        return weight
    width, heads = config.hidden_size // config.num_attention_heads, config.num_attention_heads
    if family.architecture == "gptneox":
        each = weight.reshape(heads, 3, width, *weight.shape[1:])
        return np.concatenate([each[:, i].reshape(-1, *weight.shape[1:]) for i in range(3)])
    if family.architecture == "falcon" and config.new_decoder_architecture:
        each = weight.reshape(config.num_kv_heads, -1, width, *weight.shape[1:])
        parts = (each[:, :-2], each[:, -2], each[:, -1])
        return np.concatenate([part.reshape(-1, *weight.shape[1:]) for part in parts])
    return weight
