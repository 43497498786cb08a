"""Writes the GGUF file that the usual converter would make of an encoder of transformers, in fp32."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from tiny_family import rope, windows
from transformers import AutoConfig, AutoModel

VOCABULARY = 96
WINDOW = 10
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_hidden_layers": 4,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
ENCODERS: Mapping[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "jina-bert-v3": ("jina_embeddings_v3", {}, {"rope.freq_base": 20000.0}),
    "eurobert": (
        "eurobert",
        {"num_key_value_heads": 2, "rope_parameters": rope(rope_theta=250000.0)},
        {"rope.freq_base": 250000.0, "attention.head_count_kv": 2},
    ),
    "modern-bert": (
        "modernbert",
        {
            "local_attention": WINDOW,
            "initializer_cutoff_factor": 3.0,
            "cls_token_id": 1,
            "sep_token_id": 2,
            "rope_parameters": {"full_attention": rope(rope_theta=160000.0), "sliding_attention": rope()},
        },
        {
            "rope.freq_base": 160000.0,
            "rope.freq_base_swa": 10000.0,
            "attention.sliding_window": WINDOW,
            "attention.sliding_window_pattern": 3,
        },
    ),
    "gemma-embedding": (
        "gemma3_text",
        {
            "head_dim": 16,
            "query_pre_attn_scalar": 16,
            "num_key_value_heads": 1,
            "use_bidirectional_attention": True,
            "sliding_window": WINDOW,
            "num_hidden_layers": 7,
            "layer_types": windows(1, 1, 1, 1, 1, 0, 1),
            "rope_parameters": {"sliding_attention": rope(), "full_attention": rope(rope_theta=1000000.0)},
        },
        {
            "rope.freq_base": 1000000.0,
            "attention.sliding_window": WINDOW,
            "attention.head_count_kv": 1,
            "attention.key_length": 16,
            "attention.value_length": 16,
        },
    ),
}
"""By the name in a file: the type in transformers, its settings beside `SIZES`, and the file's metadata."""


def write_encoder(name: str, path: Path) -> Any:
    """Write one of `ENCODERS`; the network."""
    model_type, settings, metadata = ENCODERS[name]
    config = AutoConfig.for_model(model_type, **(SIZES | settings))
    torch.manual_seed(11)
    network = AutoModel.from_config(config, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        for key, weight in network.named_parameters():
            if weight.dim() == 1 or "norm" in key:
                weight.add_(torch.randn_like(weight) * 0.2)
    writer = gguf.GGUFWriter(path, name)
    _add_metadata(writer, name, config, metadata)
    architecture = next(key for key, known in gguf.MODEL_ARCH_NAMES.items() if known == name)
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    one_more = "norm.weight" if name == "gemma-embedding" else "nothing"
    for key, weight in _join(network.state_dict()).items():
        if not key.startswith("pooler."):
            stored = weight.numpy() + (1 if key.endswith(one_more) else 0)
            writer.add_tensor(_rename(names, key), np.ascontiguousarray(stored, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return network


def _rename(names: Any, key: str) -> str:
    found = key if key.startswith("blk.") else None
    for prefix in ("", "model."):
        found = found or names.get_name(prefix + key, try_suffixes=(".weight", ".bias"))
    assert found is not None, key
    return str(found)


def _join(weights: dict[str, Any]) -> dict[str, Any]:
    """With the queries, keys and values of Jina's BERT as one, and its norms under the names of the file."""
    if not any(key.startswith("embeddings.LayerNorm") for key in weights):
        return weights
    norms = {"post_attention_layernorm": "attn_output_norm", "post_mlp_layernorm": "layer_output_norm"}
    joined = {}
    for key, weight in weights.items():
        match = re.match(r"layers\.(\d+)\.(.*)\.(weight|bias)", key)
        if match is None:
            joined[key] = weight
            continue
        layer, name, ending = match.groups()
        if name in norms:
            joined[f"blk.{layer}.{norms[name]}.{ending}"] = weight
        elif name == "self_attn.q_proj":
            parts = [weights[key.replace("q_proj", f"{x}_proj")] for x in "qkv"]
            joined[f"blk.{layer}.attn_qkv.{ending}"] = torch.cat(parts)
        elif not name.startswith("self_attn.") or name == "self_attn.o_proj":
            short = {"self_attn.o_proj": "attn_output", "mlp.fc1": "ffn_up", "mlp.fc2": "ffn_down"}[name]
            joined[f"blk.{layer}.{short}.{ending}"] = weight
    return joined


def _add_metadata(writer: gguf.GGUFWriter, name: str, config: Any, metadata: dict[str, Any]) -> None:
    rms = name in ("eurobert", "gemma-embedding")
    epsilon = next(
        getattr(config, key) for key in ("rms_norm_eps", "layer_norm_eps", "norm_eps") if hasattr(config, key)
    )
    keys = {
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        f"attention.layer_norm_{'rms_' if rms else ''}epsilon": epsilon,
        "attention.causal": False,
        "pooling_type": 1,
    }
    for key, value in (keys | metadata).items():
        writer.add_key_value(f"{name}.{key}", value, gguf.GGUFValueType.get_type(value))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([f"token{i}" for i in range(VOCABULARY)])
    writer.add_token_types([1] * VOCABULARY)
    writer.add_token_merges(["t o", "to k"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(True)
    writer.add_add_sep_token(True)
