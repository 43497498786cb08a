"""Tiny models with made-up weights: one for each architecture and each kind of rotary scaling.

The weights come from a counter-based generator whose stream numpy guarantees, so both the tests and the script that
asks Hugging Face transformers for the expected logits make the same ones, and none are committed.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

VOCABULARY_SIZE = 96
LAYERS = 3
WIDTH = 48
HIDDEN = 80
HEADS = 4
KV_HEADS = 2
HEAD_WIDTH = 16  # 4 * 16 is not the width
CONTEXT_TOKENS = 256
EPSILON = 1e-5
LLAMA3_SCALING = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
PROMPT = [(7 * i * i + 3 * i + 11) % VOCABULARY_SIZE for i in range(40)]


@dataclass(frozen=True, slots=True, kw_only=True)
class TinyModel:
    """What tells one tiny model from another; `scaling` is "default", "linear" (by 2) or "llama3"."""

    architecture: str
    seed: int
    tied: bool = True
    biased: bool = False
    head_norms: bool = False
    rope_base: float = 10000.0
    scaling: str = "default"


MODELS = {
    "llama": TinyModel(architecture="llama", seed=1),
    "llama_linear": TinyModel(architecture="llama", seed=2, tied=False, rope_base=500.0, scaling="linear"),
    "llama3": TinyModel(architecture="llama", seed=3, rope_base=500000.0, scaling="llama3"),
    "qwen2": TinyModel(architecture="qwen2", seed=4, biased=True, rope_base=1000000.0),
    "qwen3": TinyModel(architecture="qwen3", seed=5, tied=False, head_norms=True, rope_base=1000000.0),
}


def make_weights(model: TinyModel) -> dict[str, Floats]:
    """All weights under their names in transformers, as (outputs, inputs)."""
    stream = np.random.Philox(model.seed)

    def draw(*shape: int, middle: float = 0.0, spread: float = 0.25) -> Floats:
        raw = stream.random_raw(math.prod(shape)) >> np.uint64(40)
        return (middle + spread * (raw.astype(np.float32) / np.float32(1 << 23) - 1)).reshape(shape).astype(np.float32)

    weights = {"model.embed_tokens.weight": draw(VOCABULARY_SIZE, WIDTH, spread=1.0)}
    for index in range(LAYERS):
        block = f"model.layers.{index}."
        rows = {"q": HEADS * HEAD_WIDTH, "k": KV_HEADS * HEAD_WIDTH, "v": KV_HEADS * HEAD_WIDTH}
        for x, count in rows.items():
            weights[f"{block}self_attn.{x}_proj.weight"] = draw(count, WIDTH)
            if model.biased:
                weights[f"{block}self_attn.{x}_proj.bias"] = draw(count)
        if model.head_norms:
            weights[f"{block}self_attn.q_norm.weight"] = draw(HEAD_WIDTH, middle=1.0)
            weights[f"{block}self_attn.k_norm.weight"] = draw(HEAD_WIDTH, middle=1.0)
        weights[f"{block}self_attn.o_proj.weight"] = draw(WIDTH, HEADS * HEAD_WIDTH)
        weights[f"{block}mlp.gate_proj.weight"] = draw(HIDDEN, WIDTH)
        weights[f"{block}mlp.up_proj.weight"] = draw(HIDDEN, WIDTH)
        weights[f"{block}mlp.down_proj.weight"] = draw(WIDTH, HIDDEN)
        weights[f"{block}input_layernorm.weight"] = draw(WIDTH, middle=1.0)
        weights[f"{block}post_attention_layernorm.weight"] = draw(WIDTH, middle=1.0)
    weights["model.norm.weight"] = draw(WIDTH, middle=1.0)
    if not model.tied:
        weights["lm_head.weight"] = draw(VOCABULARY_SIZE, WIDTH)
    return weights


def write_model(
    model: TinyModel,
    path: Path,
    more: Mapping[str, Any] | None = None,
    *,
    tensors: Mapping[str, Floats] | None = None,
) -> Path:
    """Write the model as the GGUF file that the usual converter would make.

    Args:
        model: What it is.
        path: Where.
        more: Metadata beside that; None takes a key out.
        tensors: Tensors beside those of the model.
    """
    writer = gguf.GGUFWriter(path, model.architecture)
    _add_metadata(writer, model)
    for key, value in (more or {}).items():
        writer.kv_data[0].pop(key, None)
        if value is not None:
            writer.add_key_value(key, value, gguf.GGUFValueType.get_type(value))
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[model.architecture.upper()], LAYERS)
    for name, weight in make_weights(model).items():
        stored = weight
        if model.architecture == "llama" and (".q_proj" in name or ".k_proj" in name):
            # The converter moves the two halves of each head between each other: rotary pairs become neighbours.
            heads = HEADS if ".q_proj" in name else KV_HEADS
            stored = weight.reshape(heads, 2, HEAD_WIDTH // 2, -1).swapaxes(1, 2).reshape(weight.shape)
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight", ".bias")), stored)
    if model.scaling == "llama3":
        writer.add_tensor("rope_freqs.weight", make_llama3_divisors(model.rope_base))
    for name, numbers in (tensors or {}).items():
        writer.add_tensor(name, numbers)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def make_llama3_divisors(base: float) -> Floats:
    """What llama3's scaling divides each rotary frequency by: long waves by the factor, short ones by 1."""
    factor, low, high = (LLAMA3_SCALING[key] for key in ("factor", "low_freq_factor", "high_freq_factor"))
    original = LLAMA3_SCALING["original_max_position_embeddings"]
    divisors = []
    for pair in range(HEAD_WIDTH // 2):
        turns = original * base ** (-2 * pair / HEAD_WIDTH) / (2 * math.pi)  # within the original context
        smooth = min(max((turns - low) / (high - low), 0.0), 1.0)
        divisors.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(divisors, np.float32)


def _add_metadata(writer: gguf.GGUFWriter, model: TinyModel) -> None:
    writer.add_context_length(CONTEXT_TOKENS)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_key_length(HEAD_WIDTH)
    writer.add_value_length(HEAD_WIDTH)
    writer.add_rope_dimension_count(HEAD_WIDTH)
    writer.add_layer_norm_rms_eps(EPSILON)
    writer.add_rope_freq_base(model.rope_base)
    if model.scaling == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(2.0)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([f"token{i}" for i in range(VOCABULARY_SIZE - 2)] + ["<|im_start|>", "<|im_end|>"])
    writer.add_token_types([1] * (VOCABULARY_SIZE - 2) + [3, 3])
    writer.add_token_merges(["t o", "to k"])
    writer.add_bos_token_id(VOCABULARY_SIZE - 2)
    writer.add_eos_token_id(VOCABULARY_SIZE - 1)
