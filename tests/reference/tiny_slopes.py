"""Tiny random networks whose scores fall with the distance, and of phimoe: see tiny_families.py."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from tiny_family import EXPERTS, TinyFamily

Floats = NDArray[np.float32]
FAMILIES: dict[str, TinyFamily] = {
    "phimoe": TinyFamily(
        architecture="phimoe",
        model_type="phimoe",
        config={
            "num_local_experts": 6,
            "num_experts_per_tok": 2,
            "intermediate_size": 32,
            "attention_bias": True,
            "lm_head_bias": True,
            "router_jitter_noise": 0.01,
        },
        metadata=EXPERTS | {"feed_forward_length": 32},
    ),
    "mpt": TinyFamily(
        architecture="mpt",
        model_type="mpt",
        config={
            "hidden_size": 72,
            "num_attention_heads": 6,  # of which four have slopes of the series
            "max_seq_len": 256,
            "attn_config": {"alibi": True, "alibi_bias_max": 8, "clip_qkv": 3.0},
            "tie_word_embeddings": True,
            "num_key_value_heads": 6,
        },
        metadata={"attention.max_alibi_bias": 8.0, "attention.clamp_kqv": 3.0, "feed_forward_length": 288},
    ),
    "bloom": TinyFamily(
        architecture="bloom",
        model_type="bloom",
        config={"num_key_value_heads": 4, "tie_word_embeddings": True},
        metadata={"feed_forward_length": 256},
    ),
}


def convert_heads(family: TinyFamily, config: Any, key: str, weight: Floats) -> Floats:
    """Queries, keys and values of bloom, of which it has those of a head one behind the other."""
    if family.architecture != "bloom" or "query_key_value" not in key:
        return weight
    each = weight.reshape(config.num_attention_heads, 3, -1, *weight.shape[1:])
    return np.concatenate([each[:, i].reshape(-1, *weight.shape[1:]) for i in range(3)])
