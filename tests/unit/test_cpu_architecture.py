"""The shape of a network from metadata."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inferd.plugin import LoadError
from inferd_cpu.architecture import Architecture, read_architecture
from inferd_weights.metadata import Kind, Metadata, Value


def read(name: str = "llama", **overrides: Any) -> Architecture:
    """The architecture of a small model; `overrides` replace keys, `__` standing for a dot, None removing one."""
    keys: dict[str, Any] = {
        "block_count": 2,
        "context_length": 128,
        "embedding_length": 64,
        "feed_forward_length": 96,
        "attention.head_count": 4,
        "attention.layer_norm_rms_epsilon": 1e-5,
    }
    keys |= {key.replace("__", "."): value for key, value in overrides.items()}
    values = {f"{name}.{key}": typed(value) for key, value in keys.items() if value is not None}
    return read_architecture(Metadata(Path("model.gguf"), {"general.architecture": typed(name), **values}))


def typed(value: Any) -> Value:
    if isinstance(value, list):
        item = Kind.BOOL if isinstance(value[0], bool) else Kind.U32
        return Value(Kind.ARRAY, np.array(value), item)
    return Value({int: Kind.U32, float: Kind.F32, str: Kind.STRING, bool: Kind.BOOL}[type(value)], value)


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3"])
def test_defaults(name: str) -> None:
    """Keys that a file may leave out are derived as ggml does."""
    a = read(name)
    (layer, _), (rope,) = a.layers, a.ropes
    assert (layer.kv_heads, layer.key_width, layer.value_width) == (4, 16, 16)
    assert (rope.width, rope.base, rope.scaling, rope.factor) == (16, 10000.0, "linear", 1.0)
    assert (layer.qk_width, layer.qkv_width, layer.mixed_width) == (128, 192, 64)
    assert a.kv_token_bytes == 4 * 2 * 4 * (16 + 16)
    assert a.attention_scale == 0.25


def test_given_sizes() -> None:
    """Key and value widths need not follow from the model's width, and heads can share keys."""
    layer = read("qwen3", attention__key_length=24, attention__value_length=8, attention__head_count_kv=2).layers[0]
    assert (layer.key_width, layer.value_width) == (24, 8)
    assert (layer.qk_width, layer.qkv_width, layer.mixed_width) == (144, 160, 32)


def test_sizes_of_each_layer() -> None:
    """Heads, key heads and feed-forward widths may be arrays, one number for each layer."""
    a = read(attention__head_count=[4, 2], attention__head_count_kv=[2, 1], feed_forward_length=[96, 32])
    shapes = [(layer.heads, layer.kv_heads, layer.feed_width) for layer in a.layers]
    assert shapes == [(4, 2, 96), (2, 1, 32)]
    assert a.kv_token_bytes == 4 * 3 * (16 + 16)


def test_windows_come_in_a_pattern() -> None:
    """Which layers have a window says the file, as a number or one by one, or else the architecture."""

    def windows(name: str, **overrides: Any) -> list[int]:
        overrides |= {"block_count": 6, "attention__sliding_window": 9}
        return [layer.window for layer in read(name, **overrides).layers]

    assert windows("gemma3") == [9, 9, 9, 9, 9, 0]
    assert windows("gemma2") == [9, 0, 9, 0, 9, 0]
    assert windows("llama") == [9] * 6
    assert windows("gemma3", attention__sliding_window_pattern=3) == [9, 9, 0, 9, 9, 0]
    assert windows("gemma3", attention__sliding_window_pattern=[True, False] * 3) == [9, 0, 9, 0, 9, 0]


def test_layers_with_a_window_may_rotate_otherwise() -> None:
    """gemma3: a base of their own and no scaling; cohere2: those without a window do not rotate; smollm3: every 4th."""
    gemma = read("gemma3", block_count=6, attention__sliding_window=9, rope__freq_base=1e6, rope__scaling__factor=8.0)
    assert [(rope.base, rope.factor) for rope in gemma.ropes] == [(1e6, 8.0), (10000.0, 1.0)]
    assert [layer.rope for layer in gemma.layers] == [1, 1, 1, 1, 1, 0]
    layered = {"attention__layer_norm_rms_epsilon": None, "attention__layer_norm_epsilon": 1e-5}
    cohere = read("cohere2", block_count=4, attention__sliding_window=9, **layered)
    assert [layer.rope for layer in cohere.layers] == [0, 0, 0, -1]
    assert [layer.rope for layer in read("smollm3", block_count=4).layers] == [0, 0, 0, -1]


def test_linear_scaling() -> None:
    """A factor scales linearly unless the type says none; the older key still counts."""
    assert read(rope__scaling__factor=4.0).ropes[0].factor == 4.0
    assert read(rope__scale_linear=2.0).ropes[0].factor == 2.0
    assert read(rope__scaling__type="none", rope__scaling__factor=4.0).ropes[0].factor == 1.0


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("lama", {}, "'lama', which is not supported; did you mean 'llama'[?] Supported: llama, "),
        ("jina-bert-v2", {}, "'jina-bert-v2', whose results could not be compared: no package that is maintained "),
        ("rwkv6", {}, "'rwkv6', which is not supported. Supported: llama, "),
        ("qwen2", {"expert_count": 8}, "'qwen2.expert_count' is 8; experts are not supported in 'qwen2'"),
        ("llama", {"expert_count": 8}, "'llama.expert_used_count' is missing"),
        (
            "llama",
            {"expert_count": 8, "expert_used_count": 9},
            "'llama.expert_used_count' is 9; it must be from 1 to 8",
        ),
        ("llama", {"feed_forward_length": [96]}, "'llama.feed_forward_length' has 1 numbers for 2 layers"),
        ("llama", {"feed_forward_length": [96, 0]}, "'llama.feed_forward_length' is 0 in layer 1"),
        ("llama", {"block_count": None}, "'llama.block_count' is missing"),
        ("llama", {"block_count": 2.5}, "'llama.block_count' is of type F32; it must be a whole number"),
        ("llama", {"block_count": 0}, "'llama.block_count' is 0; it must be from 1"),
        ("llama", {"embedding_length": 1 << 40}, "'llama.embedding_length' is 1099511627776; it must be from 1"),
        ("llama", {"attention__head_count_kv": 3}, "'llama.attention.head_count_kv' is 3, which does not divide the 4"),
        ("llama", {"rope__dimension_count": 18}, "is 18; it must be even and at most 16"),
        ("llama", {"rope__dimension_count": 7}, "is 7; it must be even and at most 16"),
        ("llama", {"rope__freq_base": -1.0}, "'llama.rope.freq_base' is -1.0; it must be a finite number above 0"),
        ("qwen2", {"rope__scaling__type": "ntk"}, "is 'ntk', which is not supported; supported are 'none', 'linear', "),
        ("qwen2", {"rope__scaling__type": "yarn"}, "'qwen2.rope.scaling.original_context_length' is missing"),
    ],
)
def test_refuses_what_it_cannot_compute(name: str, overrides: dict[str, Any], message: str) -> None:
    """What is not supported or makes no sense is a LoadError that names the key, the value and what is possible."""
    with pytest.raises(LoadError, match=message):
        read(name, **overrides)
