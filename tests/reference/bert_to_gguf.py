"""Writes the GGUF file that the usual converter would make of a BERT of transformers, in fp32."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np

BEGIN = "\N{LOWER ONE EIGHTH BLOCK}"
MEAN = 1
LEFT_OUT = ("pooler.", "embeddings.position_ids")


def write_bert(network: Any, tokens: Sequence[str], path: Path, *, pooling: int = MEAN) -> None:
    """Write a `BertModel` whose vocabulary is `tokens`, as BERT's own list has them."""
    config = network.config
    writer = gguf.GGUFWriter(path, "bert")
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
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.BERT, config.num_hidden_layers)
    for key, weight in network.state_dict().items():
        if not key.startswith(LEFT_OUT):
            name = names.get_name(key, try_suffixes=(".weight", ".bias"))
            assert name is not None, key
            writer.add_tensor(name, np.ascontiguousarray(weight.numpy(), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _write(token: str, *, control: bool) -> str:
    if control:
        return token
    return token.removeprefix("##") if token.startswith("##") else f"{BEGIN}{token}"
