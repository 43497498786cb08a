"""Writes the GGUF file that the usual converter would make of a BERT or Nomic BERT of transformers, in fp32."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch

BEGIN = "\N{LOWER ONE EIGHTH BLOCK}"
MEAN = 1
LEFT_OUT = ("pooler.", "embeddings.position_ids")
HEAD = {"bert.pooler.dense": "cls", "classifier": "cls.output"}


def write_bert(network: Any, tokens: Sequence[str], path: Path, *, pooling: int = MEAN) -> None:
    """Write a network whose vocabulary is `tokens`, as BERT's own list has them; one with a head gives scores."""
    config = network.config
    nomic = config.model_type == "nomic_bert"
    architecture = gguf.MODEL_ARCH.NOMIC_BERT if nomic else gguf.MODEL_ARCH.BERT
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[architecture])
    if nomic:
        writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_layer_norm_eps(config.layer_norm_eps)
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType(pooling))
    controls = {token for token in tokens if token in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")}
    writer.add_tokenizer_model("bert")
    writer.add_token_list([_write(token, control=token in controls) for token in tokens])
    writer.add_token_types([3 if token in controls else 1 for token in tokens])
    writer.add_token_type_count(config.type_vocab_size)
    for name, add in (
        ("[CLS]", writer.add_bos_token_id),
        ("[SEP]", writer.add_sep_token_id),
        ("[UNK]", writer.add_unk_token_id),
        ("[PAD]", writer.add_pad_token_id),
    ):
        add(tokens.index(name))
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    weights = network.state_dict()
    for part in HEAD if "classifier.weight" in weights else ():
        for kind in ("weight", "bias"):
            writer.add_tensor(f"{HEAD[part]}.{kind}", weights.pop(f"{part}.{kind}").numpy())
    for key, weight in _join({key.removeprefix("bert."): weight for key, weight in weights.items()}).items():
        if not key.startswith(LEFT_OUT):
            name = key if key.startswith("blk.") else names.get_name(key, try_suffixes=(".weight", ".bias"))
            assert name is not None, key
            writer.add_tensor(name, np.ascontiguousarray(weight.numpy(), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _join(weights: dict[str, Any]) -> dict[str, Any]:
    """With the queries, keys and values of Nomic BERT as one, and its norms under the names of the file."""
    joined = {}
    for key, weight in weights.items():
        match = re.match(
            r"layers\.(\d+)\.(self_attn\.([qkv])_proj|post_attention_layernorm|post_mlp_layernorm)(.*)", key
        )
        if match is None:
            joined[key] = weight
        elif match[3] is None:
            name = {"post_attention_layernorm": "attn_output_norm", "post_mlp_layernorm": "layer_output_norm"}[match[2]]
            joined[f"blk.{match[1]}.{name}{match[4]}"] = weight
        elif match[3] == "q":
            parts = [weights[key.replace("q_proj", f"{x}_proj")] for x in "qkv"]
            joined[f"blk.{match[1]}.attn_qkv.weight"] = torch.cat(parts)
    return joined


def _write(token: str, *, control: bool) -> str:
    if control:
        return token
    return token.removeprefix("##") if token.startswith("##") else f"{BEGIN}{token}"
