"""The shape of a network from metadata."""

from pathlib import Path
from typing import Any

import pytest

from inferd.plugin import LoadError
from inferd_cpu.architecture import FAMILIES, Architecture, read_architecture
from inferd_cpu.metadata import Kind, Metadata, Value


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
    return Value({int: Kind.U32, float: Kind.F32, str: Kind.STRING, bool: Kind.BOOL}[type(value)], value)


@pytest.mark.parametrize("name", FAMILIES)
def test_defaults(name: str) -> None:
    """Keys that a file may leave out are derived as ggml does."""
    a = read(name)
    assert (a.kv_heads, a.key_width, a.value_width, a.rope_width) == (4, 16, 16, 16)
    assert (a.rope_base, a.rope_factor) == (10000.0, 1.0)
    assert (a.qk_width, a.qkv_width, a.mixed_width) == (128, 192, 64)
    assert a.kv_token_bytes == 4 * 2 * 4 * (16 + 16)


def test_given_sizes() -> None:
    """Key and value widths need not follow from the model's width, and heads can share keys."""
    a = read("qwen3", attention__key_length=24, attention__value_length=8, attention__head_count_kv=2)
    assert (a.key_width, a.value_width, a.rope_width) == (24, 8, 24)
    assert (a.qk_width, a.qkv_width, a.mixed_width) == (144, 160, 32)


def test_linear_scaling() -> None:
    """A factor scales linearly unless the type says none; the older key still counts."""
    assert read(rope__scaling__factor=4.0).rope_factor == 4.0
    assert read(rope__scale_linear=2.0).rope_factor == 2.0
    assert read(rope__scaling__type="none", rope__scaling__factor=4.0).rope_factor == 1.0


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("lama", {}, "'lama', which is not supported; did you mean 'llama'[?] Supported: llama, qwen2, qwen3"),
        ("bert", {}, "'bert', which is not supported. Supported: llama, qwen2, qwen3"),
        ("llama", {"expert_count": 8}, "'llama.expert_count' is 8; mixtures of experts"),
        ("llama", {"block_count": None}, "'llama.block_count' is missing"),
        ("llama", {"block_count": 2.5}, "'llama.block_count' is of type F32; it must be a whole number"),
        ("llama", {"block_count": 0}, "'llama.block_count' is 0; it must be from 1"),
        ("llama", {"embedding_length": 1 << 40}, "'llama.embedding_length' is 1099511627776; it must be from 1"),
        ("llama", {"attention__head_count_kv": 3}, "'llama.attention.head_count_kv' is 3, which does not divide the 4"),
        ("llama", {"rope__dimension_count": 18}, "is 18; it must be even and at most 16"),
        ("llama", {"rope__dimension_count": 7}, "is 7; it must be even and at most 16"),
        ("llama", {"rope__freq_base": -1.0}, "'llama.rope.freq_base' is -1.0; it must be a finite number above 0"),
        ("qwen2", {"rope__scaling__type": "yarn"}, "is 'yarn', which is not supported; supported are 'none', 'linear'"),
    ],
)
def test_refuses_what_it_cannot_compute(name: str, overrides: dict[str, Any], message: str) -> None:
    """What is not supported or makes no sense is a LoadError that names the key, the value and what is possible."""
    with pytest.raises(LoadError, match=message):
        read(name, **overrides)


def test_refuses_one_part_of_a_split_model() -> None:
    """One file of several is refused, with what to do."""
    values = {"general.architecture": typed("llama"), "split.count": typed(3)}
    with pytest.raises(LoadError, match=r"'split\.count' is 3; join the parts"):
        read_architecture(Metadata(Path("model.gguf"), values))
