"""Models of random weights in one format of a file, made block by block: as large as one likes, without fp32 before."""

from dataclasses import dataclass
from math import prod
from pathlib import Path

import gguf
import numpy as np
from native_products import put_scales
from numpy.typing import NDArray

from inferd_weights.quants import FORMATS

VOCABULARY = 512
HEAD_WIDTH = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Of a model; with experts it is a gpt-oss, whose attention has 8 bits, else a llama."""

    layers: int = 2
    width: int = 512
    heads: int = 8
    kv_heads: int = 2
    feed: int = 1024
    experts: int = 0
    used: int = 2


def draw_blocks(form: str, *shape: int, seed: int = 0, size: float = 0.02) -> NDArray[np.uint8]:
    """Blocks of a matrix, shape (rows, bytes), whose numbers are about so large."""
    number = next(number for number, known in FORMATS.items() if known.name == form)
    known, source = FORMATS[number], np.random.default_rng((seed, number))
    count = prod(shape) // known.block_elements
    blocks = source.integers(0, 256, (count, known.block_bytes), dtype=np.uint8)

    def draw(wanted: int, scale: float) -> NDArray[np.float32]:
        return (source.uniform(0.5, 1, wanted) * scale).astype(np.float32)

    few = blocks[:64].copy()
    put_scales(number, few, lambda wanted: draw(wanted, 0.01))
    scale = 0.01 * size / float(np.std(known.decode(few)))
    put_scales(number, blocks, lambda wanted: draw(wanted, scale))
    return blocks.reshape(*shape[:-1], -1)


def write_stored(path: Path, form: str, sizes: Sizes, *, values: str = "") -> Path:
    """Write a file whose matrices are in this format, and those of values perhaps in another.

    Embedding and head are in 8 bits, norms and routers in fp32.
    """
    s, architecture = sizes, "gpt-oss" if sizes.experts else "llama"
    writer = gguf.GGUFWriter(path, architecture)
    _add_metadata(writer, s)
    source = np.random.default_rng(4)

    def add(name: str, kind: str, *shape: int) -> None:
        blocks = draw_blocks(kind, *shape, seed=len(name))
        writer.add_tensor(f"{name}.weight", blocks, raw_dtype=gguf.GGMLQuantizationType[kind])

    def add_floats(name: str, *shape: int, middle: float = 0.0) -> None:
        writer.add_tensor(name, source.normal(middle, 0.02, shape).astype(np.float32))

    add("token_embd", "Q8_0", VOCABULARY, s.width)
    add("output", "Q8_0", VOCABULARY, s.width)
    add_floats("output_norm.weight", s.width, middle=1)
    queries, keys = s.heads * HEAD_WIDTH, s.kv_heads * HEAD_WIDTH
    for at in (f"blk.{layer}." for layer in range(s.layers)):
        for name, rows, columns in (
            *(("attn_q", queries, s.width), ("attn_k", keys, s.width), ("attn_v", keys, s.width)),
            ("attn_output", s.width, queries),
        ):
            kind = "Q8_0" if s.experts else form
            add(at + name, values if values and name == "attn_v" else kind, rows, columns)
            if s.experts:
                add_floats(f"{at}{name}.bias", rows)
        add_floats(f"{at}attn_norm.weight", s.width, middle=1)
        add_floats(f"{at}{'post_attention_norm' if s.experts else 'ffn_norm'}.weight", s.width, middle=1)
        experts, ending = ((s.experts,), "_exps") if s.experts else ((), "")
        for name, rows, columns in (("gate", s.feed, s.width), ("up", s.feed, s.width), ("down", s.width, s.feed)):
            add(f"{at}ffn_{name}{ending}", form, *experts, rows, columns)
            if s.experts:
                add_floats(f"{at}ffn_{name}_exps.bias", *experts, rows)
        if s.experts:
            add_floats(f"{at}attn_sinks.weight", s.heads)
            add_floats(f"{at}ffn_gate_inp.weight", s.experts, s.width)
            add_floats(f"{at}ffn_gate_inp.bias", s.experts)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_metadata(writer: gguf.GGUFWriter, s: Sizes) -> None:
    writer.add_block_count(s.layers)
    writer.add_context_length(2048)
    writer.add_embedding_length(s.width)
    writer.add_feed_forward_length(s.feed)
    writer.add_head_count(s.heads)
    writer.add_head_count_kv(s.kv_heads)
    writer.add_key_length(HEAD_WIDTH)
    writer.add_value_length(HEAD_WIDTH)
    writer.add_rope_dimension_count(HEAD_WIDTH)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    if s.experts:
        writer.add_expert_count(s.experts)
        writer.add_expert_used_count(s.used)
        writer.add_expert_feed_forward_length(s.feed)
        writer.add_sliding_window(128)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([f"token{i}" for i in range(VOCABULARY)])
    writer.add_token_types([1] * VOCABULARY)
    writer.add_token_merges(["t o", "to k"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
