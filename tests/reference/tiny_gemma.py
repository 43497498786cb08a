"""Tiny random networks of Gemma 3n and 4, and how the usual converter stores them: see tiny_families.py."""

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tiny_family import WINDOW, TinyFamily, windows

Floats = NDArray[np.float32]
TYPES = windows(1, 0, 1, 0, 1, 0)
SHARED: dict[str, Any] = {
    "head_dim": 16,
    "hidden_size_per_layer_input": 8,
    "num_kv_shared_layers": 2,
    "num_hidden_layers": 6,
    "sliding_window": WINDOW,
    "layer_types": TYPES,
    "pad_token_id": 0,
    "tie_word_embeddings": True,
}
SHARED_KEYS: dict[str, Any] = {
    "attention.sliding_window": WINDOW,
    "attention.sliding_window_pattern": [kind == "sliding_attention" for kind in TYPES],
    "attention.shared_kv_layers": 2,
    "embedding_length_per_layer_input": 8,
    "rope.freq_base": 1000000.0,
}
WIDE: dict[str, Any] = {"global_head_dim": 32, "num_global_key_value_heads": 1, "attention_k_eq_v": True}
WIDE_KEYS: dict[str, Any] = {
    "attention.key_length": 32,
    "attention.value_length": 32,
    "attention.key_length_swa": 16,
    "attention.value_length_swa": 16,
    "attention.head_count_kv": [2, 1, 2, 1, 2, 1],
    "rope.dimension_count": 32,
    "rope.dimension_count_swa": 16,
}
FAMILIES: dict[str, TinyFamily] = {
    "gemma3n": TinyFamily(
        architecture="gemma3n",
        model_type="gemma3n_text",
        config=SHARED
        | {
            "laurel_rank": 8,
            "altup_num_inputs": 3,
            "activation_sparsity_pattern": [0.9, 0.6, 0.0, 0.0, 0.0, 0.0],
            "vocab_size_per_layer_input": 60,
            "final_logit_softcapping": 5.0,
        },
        metadata=SHARED_KEYS
        | {
            "altup.active_idx": 0,
            "altup.num_inputs": 3,
            "activation_sparsity_scale": [1.2815516, 0.2533471, *[-np.inf] * 4],
            "final_logit_softcapping": 5.0,
        },
    ),
    "gemma4": TinyFamily(
        architecture="gemma4",
        model_type="gemma4_text",
        config=SHARED | WIDE | {"use_double_wide_mlp": True, "vocab_size_per_layer_input": 96},
        metadata=SHARED_KEYS | WIDE_KEYS | {"feed_forward_length": [96, 96, 96, 96, 192, 192]},
    ),
    "gemma4_moe": TinyFamily(
        architecture="gemma4",
        model_type="gemma4_text",
        config=SHARED
        | WIDE
        | {
            "hidden_size_per_layer_input": 0,
            "num_kv_shared_layers": 0,
            "enable_moe_block": True,
            "num_experts": 6,
            "top_k_experts": 2,
            "moe_intermediate_size": 32,
        },
        metadata=SHARED_KEYS
        | WIDE_KEYS
        | {
            "attention.shared_kv_layers": 0,
            "embedding_length_per_layer_input": 0,
            "expert_count": 6,
            "expert_used_count": 2,
            "expert_feed_forward_length": 32,
        },
    ),
}
_BLOCK = {
    "altup.correct_output_scale": "altup_correct_scale.weight",
    "layer_scalar": "layer_output_scale.weight",
    "router.scale": "ffn_gate_inp.scale",
    "router.proj.weight": "ffn_gate_inp.weight",
    "router.per_expert_scale": "ffn_down_exps.scale",
    "experts.gate_up_proj": "ffn_gate_up_exps.weight",
    "experts.down_proj": "ffn_down_exps.weight",
}


def convert_gemma(family: TinyFamily, config: Any, key: str, weight: Floats) -> list[tuple[str, Floats]] | None:
    """A weight of these architectures that is not only renamed, as a file has it; None for others."""
    if family.architecture not in ("gemma3n", "gemma4"):
        return None
    if re.match(r"model\.altup_\w*projections\.", key):
        return []  # below, all as one
    if key == "model.embed_tokens_per_layer.weight":  # tokens without numbers of their own have those of the first
        rows = np.minimum(np.arange(config.vocab_size), len(weight))
        padded = np.concatenate([weight, weight[:1]])
        return [("per_layer_token_embd.weight", padded[rows])]
    block = re.fullmatch(r"model\.layers\.(\d+)\.(.*)", key)
    if block is not None and block[2] in _BLOCK:
        return [(f"blk.{block[1]}.{_BLOCK[block[2]]}", weight)]
    return None


def stack_streams(weights: dict[str, Floats]) -> dict[str, Floats]:
    """Projections of several hidden states, which a file has as one tensor."""
    found: dict[str, list[Floats]] = {}
    for key, weight in weights.items():
        match = re.match(r"model\.altup_(unembed_)?projections\.", key)
        if match is not None:
            found.setdefault("altup_unembd_proj.weight" if match[1] else "altup_proj.weight", []).append(weight)
    return {key: np.stack(parts) for key, parts in found.items()}
