"""Writes the GGUF file that the usual converter would make of a network of transformers, in fp32.

Names come from the tables of the `gguf` package. What its converter does beside renaming is written down here.
"""

import re
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from numpy.typing import NDArray
from tiny_families import FAMILIES
from tiny_family import BASE, CONTEXT, VOCABULARY, WINDOW, TinyFamily
from tiny_gemma import convert_gemma, stack_streams
from tiny_older import convert_fused
from tiny_recurrent import convert_delta
from tiny_slopes import convert_heads
from transformers import AutoConfig, AutoModelForCausalLM

Floats = NDArray[np.float32]
SEED = 41
SPREAD = 0.3  # wide, so that the best token is rarely a near-tie
LAYERED = (  # their norms are layer norms
    *("mpt", "bloom"),
    *("gpt2", "starcoder", "gptneox", "falcon", "phi2", "starcoder2", "nemotron", "stablelm", "command-r", "cohere2"),
)
ONE_MORE = (
    "gemma",
    "gemma2",
    "gemma3",
    "nemotron",
    "qwen3next",
    "qwen35",
    "qwen35moe",
)  # norms whose weights are stored one less


def make_network(family: TinyFamily, spread: float) -> Any:
    """A network in fp32 with weights that depend on `SEED` only; norms and biases are random, too."""
    config = AutoConfig.for_model(family.model_type, **(BASE | family.config | {"initializer_range": spread}))
    torch.manual_seed(SEED)
    network = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        for key, weight in network.named_parameters():
            if weight.dim() == 1 or "norm" in key:
                weight.add_(torch.randn_like(weight) * 0.2)
        for key, buffer in network.named_buffers():
            if "e_score_correction_bias" in key or key.endswith(("expert_bias", "layer_scalar")):
                buffer.add_(torch.randn_like(buffer) * 0.2)
    return network


def write_network(name: str, path: Path, *, spread: float = SPREAD, window: int = WINDOW) -> Any:
    """Write the file of a network whose weights have this spread, and its windows this length; the network."""
    family = FAMILIES[name]
    if window != WINDOW:
        config = family.config | {"sliding_window": window}
        family = replace(family, config=config, metadata=family.metadata | {"attention.sliding_window": window})
    network = make_network(family, spread)
    writer = gguf.GGUFWriter(path, family.architecture)
    config = network.config
    _add_metadata(writer, family, config)
    architecture = next(key for key, known in gguf.MODEL_ARCH_NAMES.items() if known == family.architecture)
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    weights = {key: weight.numpy() for key, weight in network.state_dict().items()}
    for key, weight in (weights | _stack_head_norms(weights) | stack_streams(weights)).items():
        if key == "lm_head.weight" and config.tie_word_embeddings:
            continue
        for some, stored in _convert(family, config, key, weight):
            writer.add_tensor(_rename(names, some), np.ascontiguousarray(stored, np.float32))
    rope = getattr(config, "rope_parameters", {})
    if family.architecture == "phi3" and rope.get("rope_type") == "longrope":
        writer.add_tensor("rope_factors_long.weight", np.array(rope["long_factor"], np.float32))
        writer.add_tensor("rope_factors_short.weight", np.array(rope["short_factor"], np.float32))
    if family.architecture == "gemma4":  # a quarter of the pairs of the wider heads are rotated
        writer.add_tensor("rope_freqs.weight", np.array([1.0] * 4 + [1e30] * 12, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return network


def _stack_head_norms(weights: dict[str, Floats]) -> dict[str, Floats]:
    """Stablelm has a norm for each head, which the file has one below the other."""
    found: dict[str, list[Floats]] = {}
    for key, weight in weights.items():
        match = re.match(r"(model\.layers\.\d+\.self_attn\.[qk]_layernorm)\.norms\.", key)
        if match is not None:
            found.setdefault(f"{match[1]}.weight", []).append(weight)
    return {key: np.stack(heads) for key, heads in found.items()}


def _rename(names: Any, key: str) -> str:
    if key.startswith(("blk.", "token_embd_norm", "per_layer_", "altup_")):
        return key
    endings = (".weight", ".bias")
    found = names.get_name(key, try_suffixes=endings)
    if found is None:
        found = names.get_name(key.removeprefix("transformer."), try_suffixes=endings)
    assert found is not None, key
    return str(found)


def _convert(family: TinyFamily, config: Any, key: str, weight: Floats) -> list[tuple[str, Floats]]:
    """A weight under its name in transformers, or under that of the file, as the file stores it."""
    made = convert_delta(family, key, weight) or convert_gemma(family, config, key, weight)
    if made is not None:
        return made
    block = re.match(r"model\.layers\.(\d+)\.(.*)", key)
    if block is not None:
        made = _convert_experts(family, f"blk.{block[1]}.", block[2], weight)
        if made is not None:
            return made
    weight = convert_heads(family, config, key, convert_fused(family, config, key, weight))
    if family.permuted and re.search(r"\.[qk]_proj\.", key):
        heads = config.num_attention_heads if ".q_proj" in key else config.num_key_value_heads
        weight = weight.reshape(heads, 2, len(weight) // heads // 2, -1).swapaxes(1, 2).reshape(weight.shape)
    if family.architecture in ONE_MORE and "norm.weight" in key:
        weight = weight + 1
    if family.architecture == "deepseek2" and ".kv_b_proj." in key and family.model_type == "deepseek_v3":
        both = weight.reshape(config.num_attention_heads, -1, config.kv_lora_rank)
        at = f"blk.{block[1] if block else 0}."
        keys, values = both[:, : config.qk_nope_head_dim], both[:, config.qk_nope_head_dim :]
        return [(f"{at}attn_k_b.weight", keys.swapaxes(1, 2)), (f"{at}attn_v_b.weight", values)]
    if re.search(r"\.[qk]_layernorm\.norms\.", key):
        return []
    if family.architecture.startswith("lfm2") and ".conv.conv.weight" in key:
        weight = weight.squeeze(1)
    if family.architecture.startswith("lfm2") and key.startswith("model.embedding_norm"):
        return [("token_embd_norm.weight", weight)]
    key = key.replace("feed_forward.expert_bias", "feed_forward.expert_bias.bias")
    return [(key.replace("e_score_correction_bias", "e_score_correction.bias"), weight)]


RENAMED = {
    "mlp.router.bias": "ffn_gate_inp.bias",
    "mlp.router.weight": "ffn_gate_inp.weight",
    "block_sparse_moe.router.weight": "ffn_gate_inp.weight",
    "self_attn.sinks": "attn_sinks.weight",
}


def _convert_experts(family: TinyFamily, at: str, key: str, weight: Floats) -> list[tuple[str, Floats]] | None:
    """The experts of a layer, which the file has as one tensor for each of their three matrices."""
    ending = "bias" if key.endswith("bias") else "weight"
    turned = family.architecture == "gpt-oss" and ending == "weight"  # inputs come first
    names: tuple[str, ...] = ()
    parts: list[Floats] = [weight]
    if "experts.gate_up_proj" in key:
        names = (f"ffn_gate_exps.{ending}", f"ffn_up_exps.{ending}")
        takes_turns = family.architecture == "gpt-oss"
        parts = [weight[..., ::2], weight[..., 1::2]] if takes_turns else np.split(weight, 2, axis=1)
    elif "experts.down_proj" in key and "shared" not in key:
        names = (f"ffn_down_exps.{ending}",)
    elif key == "shared_mlp.input_linear.weight":
        return [
            (f"{at}ffn_{x}_shexp.weight", half) for x, half in zip(("gate", "up"), np.split(weight, 2), strict=True)
        ]
    elif key in RENAMED:
        return [(f"{at}{RENAMED[key]}", weight)]
    elif key.endswith("moe_statics.e_score_correction_bias"):
        return [(f"{at}exp_probs_b.bias", weight.reshape(-1))]
    stored = [part.swapaxes(1, 2) if turned and names else part for part in parts]
    return [(f"{at}{name}", part) for name, part in zip(names, stored, strict=True)] if names else None


def _find_theta(rope: dict[str, Any]) -> float:
    """The base of the frequencies, of layers that see all where there are two."""
    return float(rope.get("full_attention", rope)["rope_theta"])


def _find_feed(config: Any) -> int:
    size = getattr(config, "intermediate_size", 0)  # others say it in the family's own keys
    return int(size[0]) if isinstance(size, list) else int(size)


def _add_metadata(writer: gguf.GGUFWriter, family: TinyFamily, config: Any) -> None:
    if family.architecture == "gemma4":  # what differs from layer to layer is in the family's own keys
        config = copy(config)
        config.allow_global_per_layer_attribute_access = True
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    epsilon = next(
        getattr(config, name)
        for name in ("rms_norm_eps", "layer_norm_eps", "norm_epsilon", "norm_eps", "layer_norm_epsilon")
        if getattr(config, name, None) is not None
    )
    keys: dict[str, Any] = {
        "context_length": CONTEXT,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": _find_feed(config),
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": head,
        "attention.value_length": head,
    }
    if rope := getattr(config, "rope_parameters", None):
        keys["rope.freq_base"] = _find_theta(rope)
    norm = "layer_norm_epsilon" if family.architecture in LAYERED else "layer_norm_rms_epsilon"
    keys[f"attention.{norm}"] = epsilon
    for key, value in (keys | family.metadata).items():
        name = f"{family.architecture}.{key}"
        if isinstance(value, bool):
            writer.add_bool(name, value)
        elif isinstance(value, int):
            writer.add_uint32(name, value)
        elif isinstance(value, float):
            writer.add_float32(name, value)
        elif isinstance(value, str):
            writer.add_string(name, value)
        else:
            writer.add_array(name, value)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([f"token{i}" for i in range(VOCABULARY)])
    writer.add_token_types([1] * VOCABULARY)
    writer.add_token_merges(["t o", "to k"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
