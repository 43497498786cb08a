"""Files of GGUF that the usual converter would make of a tiny network that sees: the decoder, and its projector."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from tiny_pictures import TEMPLATES, make_processor

CONTROL, NORMAL, UNUSED = 3, 1, 5
BLOCK = {
    "layer_norm1": "ln1",
    "layer_norm2": "ln2",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.out_proj": "attn_out",
    "mlp.fc1": "ffn_up",
    "mlp.fc2": "ffn_down",
}
VISION = "model.vision_model."
OTHERS = {
    f"{VISION}embeddings.patch_embedding": "v.patch_embd",
    f"{VISION}embeddings.position_embedding": "v.position_embd",
    f"{VISION}post_layernorm": "v.post_ln",
    "model.connector.modality_projection.proj": "mm.model.fc",
}


def write_decoder(network: Any, folder: Path, path: Path) -> None:
    """Write the text part of an Idefics3 whose decoder is a Llama, with the tokenizer of its folder."""
    config = network.config.text_config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    _add_vocabulary(writer, folder, config)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for key, weight in network.state_dict().items():
        if not key.startswith(("model.text_model.", "lm_head.")):
            continue
        numbers = weight.numpy()
        for part, heads in (("q_proj", config.num_attention_heads), ("k_proj", config.num_key_value_heads)):
            if part in key:  # rotary pairs become neighbours
                halves = numbers.reshape(heads, 2, -1, numbers.shape[-1])
                numbers = halves.swapaxes(1, 2).reshape(numbers.shape)
        name = names.get_name(key.replace("model.text_model.", "model."), try_suffixes=(".weight",))
        assert name is not None, key
        writer.add_tensor(name, np.ascontiguousarray(numbers, np.float32))
    _finish(writer)


def _add_vocabulary(writer: gguf.GGUFWriter, folder: Path, config: Any) -> None:
    told = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = told["model"]["vocab"] | {each["content"]: each["id"] for each in told["added_tokens"]}
    control = {each["id"] for each in told["added_tokens"]}
    tokens = [f"[UNUSED{number}]" for number in range(config.vocab_size)]
    kinds = [UNUSED] * len(tokens)
    for token, number in vocabulary.items():
        tokens[number], kinds[number] = token, CONTROL if number in control else NORMAL
    first, second = list(told["model"]["vocab"])[-2:]
    tokens[-1] = first + second  # a file must have a merge; this one comes in no text here
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([f"{first} {second}"])
    writer.add_bos_token_id(tokens.index("<start>"))
    writer.add_eos_token_id(tokens.index("<end>"))
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATES["idefics3"])


def write_projector(
    network: Any,
    path: Path,
    *,
    more: Mapping[str, Any] | None = None,
    without: str = "",
    architecture: str = "clip",
    deviation: Sequence[float] = (),
) -> None:
    """Write its tower and projector.

    Args:
        network: An Idefics3.
        path: Where to.
        more: Metadata besides, or instead: texts and whole numbers.
        without: A tensor that is left out.
        architecture: As which the file describes itself.
        deviation: Of the colours, instead of what the network was made with.
    """
    config, processor = network.config.vision_config, make_processor("idefics3")
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_type("mmproj")
    writer.add_clip_has_vision_encoder(True)
    given: dict[str, Any] = {"clip.projector_type": "idefics3", **(more or {})}
    for key, value in given.items():
        (writer.add_string if isinstance(value, str) else writer.add_uint32)(key, value)
    writer.add_vision_image_size(config.image_size)
    writer.add_vision_patch_size(config.patch_size)
    writer.add_vision_embedding_length(config.hidden_size)
    writer.add_vision_feed_forward_length(config.intermediate_size)
    writer.add_vision_block_count(config.num_hidden_layers)
    writer.add_vision_head_count(config.num_attention_heads)
    writer.add_vision_attention_layernorm_eps(config.layer_norm_eps)
    writer.add_vision_projection_dim(network.config.text_config.hidden_size)
    writer.add_vision_projector_scale_factor(network.config.scale_factor)
    writer.add_vision_preproc_image_size(int(processor.size["longest_edge"]))
    writer.add_vision_image_mean(list(processor.image_mean))
    writer.add_vision_image_std(list(deviation or processor.image_std))
    writer.add_vision_use_gelu(True)
    for key, weight in network.state_dict().items():
        name = _rename(key)
        if name and name != without:
            writer.add_tensor(name, np.ascontiguousarray(weight.numpy(), np.float32))
    _finish(writer)


def _rename(key: str) -> str:
    """The name of a weight in a file; "" where it is none of the tower's."""
    stem, _, ending = key.rpartition(".")
    if stem in OTHERS:
        return f"{OTHERS[stem]}.{ending}"
    layers = f"{VISION}encoder.layers."
    if not stem.startswith(layers):
        return ""
    layer, _, part = stem.removeprefix(layers).partition(".")
    return f"v.blk.{layer}.{BLOCK[part]}.{ending}"


def _finish(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
