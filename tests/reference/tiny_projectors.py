"""Files of GGUF that the usual converter would make of a tiny network that sees: the decoder, and its projector."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from tiny_pictures import TEMPLATES, make_processor

CONTROL, NORMAL, UNUSED = 3, 1, 5
EPSILON = 1e-6  # of the towers of Qwen2.5-VL, whatever its configuration says
BLOCK = {
    "layer_norm1": "ln1",
    "layer_norm2": "ln2",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.out_proj": "attn_out",
    "mlp.fc1": "ffn_up",
    "mlp.fc2": "ffn_down",
    "norm1": "ln1",
    "norm2": "ln2",
    "attn.proj": "attn_out",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
TOWERS = {
    "idefics3": "model.vision_model.",
    "gemma3": "model.vision_tower.",
    "qwen2_5_vl": "model.visual.",
}
OTHERS = {
    "embeddings.patch_embedding": "v.patch_embd",
    "embeddings.position_embedding": "v.position_embd",
    "post_layernorm": "v.post_ln",
    "model.connector.modality_projection.proj": "mm.model.fc",
    "merger.ln_q": "v.post_ln",
    "merger.mlp.0": "mm.0",
    "merger.mlp.2": "mm.2",
}
PROJECTORS = {"idefics3": "idefics3", "gemma3": "gemma3", "qwen2_5_vl": "qwen2.5vl_merger"}
DECODERS = {
    "idefics3": (gguf.MODEL_ARCH.LLAMA, "model.text_model."),
    "gemma3": (gguf.MODEL_ARCH.GEMMA3, "model.language_model."),
    "qwen2_5_vl": (gguf.MODEL_ARCH.QWEN2VL, "model.language_model."),
}


def write_decoder(network: Any, folder: Path, path: Path, *, without: str = "") -> None:
    """Write the text part of a network that sees, with the tokenizer of its folder.

    Args:
        network: An Idefics3 whose decoder is a Llama, a Gemma 3 or a Qwen2.5-VL.
        folder: Of its tokenizer.
        path: Where to.
        without: A key, behind the architecture's name, that is left out.
    """
    config, kind = network.config.text_config, network.config.model_type
    architecture, prefix = DECODERS[kind]
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[architecture])
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    if kind == "gemma3":
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)
        writer.add_attention_scale(config.query_pre_attn_scalar**-0.5)
        writer.add_sliding_window(config.sliding_window)
        writer.add_array("gemma3.attention.sliding_window_pattern", [x != "full_attention" for x in config.layer_types])
        writer.add_rope_freq_base(config.rope_parameters["full_attention"]["rope_theta"])
    else:
        writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    if kind == "qwen2_5_vl" and without != "rope.dimension_sections":
        writer.add_rope_dimension_sections([*config.rope_parameters["mrope_section"], 0])
    _add_vocabulary(writer, folder, config, TEMPLATES[kind])
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    for key, weight in network.state_dict().items():
        if not key.startswith((prefix, "lm_head.")):
            continue
        numbers = weight.numpy()
        if kind == "gemma3" and "norm.weight" in key:
            numbers = numbers + 1
        for part, heads in (("q_proj", config.num_attention_heads), ("k_proj", config.num_key_value_heads)):
            if part in key and kind == "idefics3":  # rotary pairs become neighbours
                halves = numbers.reshape(heads, 2, -1, numbers.shape[-1])
                numbers = halves.swapaxes(1, 2).reshape(numbers.shape)
        name = names.get_name(key.replace(prefix, "model."), try_suffixes=(".weight", ".bias"))
        assert name is not None, key
        writer.add_tensor(name, np.ascontiguousarray(numbers, np.float32))
    _finish(writer)


def _add_vocabulary(writer: gguf.GGUFWriter, folder: Path, config: Any, template: str) -> None:
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
    writer.add_chat_template(template)


def write_projector(
    network: Any,
    path: Path,
    *,
    more: Mapping[str, Any] | None = None,
    without: str = "",
    architecture: str = "clip",
    deviation: Sequence[float] = (),
    scaled: Mapping[str, float] | None = None,
    swapped: bool = False,
) -> None:
    """Write its tower and projector.

    Args:
        network: As of `write_decoder`.
        path: Where to.
        more: Metadata besides, or instead: texts and whole numbers.
        without: A tensor that is left out, or the key `image_max_pixels`.
        architecture: As which the file describes itself.
        deviation: Of the colours, instead of what the network was made with.
        scaled: By what tensors are multiplied.
        swapped: What goes up is called down, and down up, as older converters did.
    """
    kind, config = network.config.model_type, network.config.vision_config
    processor = make_processor(kind)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_type("mmproj")
    writer.add_clip_has_vision_encoder(True)
    given: dict[str, Any] = {"clip.projector_type": PROJECTORS[kind], **(more or {})}
    for key, value in given.items():
        (writer.add_string if isinstance(value, str) else writer.add_uint32)(key, value)
    writer.add_vision_patch_size(config.patch_size)
    writer.add_vision_embedding_length(config.hidden_size)
    writer.add_vision_feed_forward_length(config.intermediate_size)
    writer.add_vision_projection_dim(network.config.text_config.hidden_size)
    writer.add_vision_image_mean(list(processor.image_mean))
    writer.add_vision_image_std(list(deviation or processor.image_std))
    if kind == "qwen2_5_vl":
        writer.add_vision_image_size(560)
        writer.add_vision_block_count(config.depth)
        writer.add_vision_head_count(config.num_heads)
        writer.add_vision_attention_layernorm_eps(EPSILON)
        writer.add_vision_n_wa_pattern(config.fullatt_block_indexes[0] + 1)
        if "clip.vision.window_size" not in given:
            writer.add_vision_window_size(config.window_size)
        writer.add_vision_min_pixels(processor.size["shortest_edge"])
        if without != "image_max_pixels":
            writer.add_vision_max_pixels(processor.size["longest_edge"])
        writer.add_vision_use_silu(True)
    else:
        writer.add_vision_image_size(config.image_size)
        writer.add_vision_block_count(config.num_hidden_layers)
        writer.add_vision_head_count(config.num_attention_heads)
        writer.add_vision_attention_layernorm_eps(config.layer_norm_eps)
        writer.add_vision_use_gelu(True)
    if kind == "idefics3":
        writer.add_vision_projector_scale_factor(network.config.scale_factor)
        writer.add_vision_preproc_image_size(int(processor.size["longest_edge"]))
    elif kind == "gemma3":
        side = config.image_size // config.patch_size
        writer.add_vision_projector_scale_factor(side // int(network.config.mm_tokens_per_image**0.5))
    for name, numbers in _tensors(network).items():
        if name == without:
            continue
        stored = numbers * np.float32((scaled or {}).get(name, 1))
        up, down = ".ffn_up.", ".ffn_down."
        if swapped:
            name = name.replace(up, down) if up in name else name.replace(down, up)  # noqa: PLW2901
        writer.add_tensor(name, np.ascontiguousarray(stored, np.float32))
    _finish(writer)


def _tensors(network: Any) -> dict[str, Any]:
    """The weights of its tower, by their names in a file."""
    kind, found = network.config.model_type, {}
    for key, weight in network.state_dict().items():
        numbers = weight.numpy()
        if key.endswith("mm_input_projection_weight"):
            found["mm.input_projection.weight"] = numbers
        elif key.endswith("mm_soft_emb_norm.weight"):
            found["mm.soft_emb_norm.weight"] = numbers + 1
        elif key.endswith("patch_embed.proj.weight"):
            found["v.patch_embd.weight"], found["v.patch_embd.weight.1"] = numbers[:, :, 0], numbers[:, :, 1]
        elif ".attn.qkv." in key:
            for each, third in zip("qkv", np.split(numbers, 3), strict=True):
                found[_rename(kind, key).replace("attn_qkv", f"attn_{each}")] = third
        elif name := _rename(kind, key):
            found[name] = numbers
    return found


def _rename(kind: str, key: str) -> str:
    """The name of a weight in a file; "" where it is none of the tower's."""
    stem, _, ending = key.removeprefix(TOWERS[kind]).rpartition(".")
    if stem in OTHERS:
        return f"{OTHERS[stem]}.{ending}"
    layers = "blocks." if kind == "qwen2_5_vl" else "encoder.layers."
    if not key.startswith(TOWERS[kind]) or not stem.startswith(layers):
        return ""
    layer, _, part = stem.removeprefix(layers).partition(".")
    return f"v.blk.{layer}.{(BLOCK | {'attn.qkv': 'attn_qkv'})[part]}.{ending}"


def _finish(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
