"""Tiny random networks with gated delta nets, and how the usual converter stores those: see tiny_families.py."""

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tiny_family import EXPERTS, TinyFamily, rope

Floats = NDArray[np.float32]
KEY_HEADS, VALUE_HEADS, KEY_WIDTH, VALUE_WIDTH = 2, 6, 16, 8
DELTA: dict[str, Any] = {
    "head_dim": 16,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": KEY_WIDTH,
    "linear_value_head_dim": VALUE_WIDTH,
    "linear_num_key_heads": KEY_HEADS,
    "linear_num_value_heads": VALUE_HEADS,
    "rope_parameters": rope(partial_rotary_factor=0.5),
}
DELTA_KEYS: dict[str, Any] = {
    "ssm.conv_kernel": 4,
    "ssm.state_size": KEY_WIDTH,
    "ssm.group_count": KEY_HEADS,
    "ssm.time_step_rank": VALUE_HEADS,
    "ssm.inner_size": VALUE_HEADS * VALUE_WIDTH,
    "full_attention_interval": 4,
    "rope.dimension_count": 8,
}
MOE: dict[str, Any] = {
    "num_experts": 6,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 64,
}
SHARED = EXPERTS | {"expert_shared_feed_forward_length": 64}
SECTIONS = {"rope.dimension_sections": [2, 1, 1, 0]}
FAMILIES: dict[str, TinyFamily] = {
    "qwen3_next": TinyFamily(
        architecture="qwen3next", model_type="qwen3_next", config=DELTA | MOE, metadata=DELTA_KEYS | SHARED
    ),
    "qwen3_5": TinyFamily(
        architecture="qwen35",
        model_type="qwen3_5_text",
        config=DELTA | {"num_hidden_layers": 5},
        metadata=DELTA_KEYS | SECTIONS,
    ),
    "qwen3_5_moe": TinyFamily(
        architecture="qwen35moe",
        model_type="qwen3_5_moe_text",
        config=DELTA | MOE,
        metadata=DELTA_KEYS | SHARED | SECTIONS,
    ),
}


def convert_delta(family: TinyFamily, key: str, weight: Floats) -> list[tuple[str, Floats]] | None:
    """A weight of a gated delta net, as a file has it; None for others."""
    match = re.match(r"model\.layers\.(\d+)\.linear_attn\.(\w+)", key)
    if match is None:
        return None
    at, part = f"blk.{match[1]}.", match[2]
    if part == "in_proj_qkvz":
        return _split(at, weight)
    if part == "A_log":
        weight = -np.exp(weight)
    if part == "conv1d":
        weight = weight.squeeze(1)
    if family.architecture != "qwen3next":
        weight = _tile(part, weight)
    names = {
        "A_log": "ssm_a",
        "dt_bias": "ssm_dt.bias",
        "conv1d": "ssm_conv1d.weight",
        "in_proj_ba": "ssm_ba.weight",
        "in_proj_qkv": "attn_qkv.weight",
        "in_proj_z": "attn_gate.weight",
        "in_proj_b": "ssm_beta.weight",
        "in_proj_a": "ssm_alpha.weight",
        "norm": "ssm_norm.weight",
        "out_proj": "ssm_out.weight",
    }
    return [(at + names[part], weight)]


def _split(at: str, weight: Floats) -> list[tuple[str, Floats]]:
    """Layer 0 is stored as older converters did: each key head with all that belongs to it."""
    if at == "blk.0.":
        return [("blk.0.ssm_in.weight", weight)]
    value = VALUE_HEADS // KEY_HEADS * VALUE_WIDTH
    each = weight.reshape(KEY_HEADS, -1, weight.shape[1])
    parts = np.split(each, np.cumsum([KEY_WIDTH, KEY_WIDTH, value]), axis=1)
    flat = [part.reshape(-1, weight.shape[1]) for part in parts]
    return [(f"{at}attn_qkv.weight", np.concatenate(flat[:3])), (f"{at}attn_gate.weight", flat[3])]


def _tile(part: str, weight: Floats) -> Floats:
    """Value heads that share a key head are as many apart as there are key heads."""

    def tile(values: Floats, width: int) -> Floats:
        each = values.reshape(KEY_HEADS, VALUE_HEADS // KEY_HEADS, width, -1)
        return each.swapaxes(0, 1).reshape(values.shape)

    if part == "out_proj":
        return tile(weight.T.copy(), VALUE_WIDTH).T
    if part in ("in_proj_qkv", "conv1d"):
        first = 2 * KEY_HEADS * KEY_WIDTH
        return np.concatenate([weight[:first], tile(weight[first:], VALUE_WIDTH)])
    return weight if part == "norm" else tile(weight, VALUE_WIDTH if part == "in_proj_z" else 1)
