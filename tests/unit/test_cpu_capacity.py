"""Sizes of a session from settings and what may be given of the memory."""

from pathlib import Path
from typing import Any

import pytest

from inferd.plugin import LoadError, MemoryNeed, TokenLimits
from inferd.plugin.backend import read_settings
from inferd_cpu.architecture import FAMILIES, Architecture
from inferd_cpu.capacity import check_need, derive_limits, derive_need
from inferd_cpu.plugin import SPEC
from inferd_cpu.rope import Rope
from inferd_cpu.shapes import LayerShape

GIB = 1 << 30
SMALL = {
    "name": "llama",
    "family": FAMILIES["llama"],
    "layers": (LayerShape(heads=9, kv_heads=3, key_width=64, value_width=64, feed_width=1536),) * 30,
    "width": 576,
    "context_tokens": 32768,
    "epsilon": 1e-5,
    "ropes": (Rope(width=64, base=10000.0),),
    "attention_scale": 0.125,
}
TOKEN_BYTES = 46080


def derive(
    *,
    capacity_bytes: int = 24 * GIB,
    weights_bytes: int = GIB // 2,
    shape: dict[str, Any] | None = None,
    **settings: int,
) -> TokenLimits:
    return derive_limits(
        Path("model.gguf"),
        Architecture(**SMALL | (shape or {})),
        read_settings(SPEC, {name: str(value) for name, value in settings.items()}),
        vocabulary_size=49152,
        weights_bytes=weights_bytes,
        capacity_bytes=capacity_bytes,
    )


def test_defaults() -> None:
    """A small model gets a context of 8192 and a pool of at most 1 GiB."""
    limits = derive()
    assert (limits.context_tokens, limits.block_tokens, limits.max_sequences, limits.max_step_tokens) == (
        8192,
        16,
        64,
        512,
    )
    assert limits.blocks == -(-(GIB // TOKEN_BYTES) // 16)


def test_pool_follows_the_sequences() -> None:
    """The pool has 512 tokens for each sequence, and room for one whole context at least."""
    assert derive(max_sequences=20).blocks * 16 == 20 * 512
    assert derive(max_sequences=1).blocks * 16 == 8192
    assert derive(max_sequences=1, shape={"context_tokens": 1000}).context_tokens == 1000


def test_pool_takes_a_quarter_at_most() -> None:
    """On a small host the pool shrinks to a quarter of what the weights leave, and the context with it."""
    limits = derive(capacity_bytes=GIB)
    tokens = GIB // 2 // 4 // TOKEN_BYTES
    assert limits.context_tokens == tokens
    assert limits.blocks == -(-tokens // 16)


def test_settings_win() -> None:
    """A context or a pool that is asked for is taken beyond the default bounds."""
    limits = derive(context_tokens=32768)
    assert (limits.context_tokens, limits.blocks * 16) == (32768, 32768)
    limits = derive(kv_tokens=1000, block_tokens=32)
    assert (limits.context_tokens, limits.blocks) == (1000, 32)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"context_tokens": 40000},
            "'context_tokens' is 40000, but the model was trained for 32768: lower the setting",
        ),
        (
            {"context_tokens": 2000, "kv_tokens": 1999},
            "is 2000, but the KV pool has room for 1999 .* raise 'kv_tokens'",
        ),
    ],
)
def test_refuses_what_contradicts(options: dict[str, int], message: str) -> None:
    """A setting that contradicts the model or another one is refused with both numbers."""
    with pytest.raises(LoadError, match=message):
        derive(**options)


def need(limits: TokenLimits) -> MemoryNeed:
    return derive_need(Architecture(**SMALL), limits, weights_bytes=GIB // 2)


def test_need() -> None:
    """The need is the weights, the whole pool and the workspace."""
    found = need(derive(kv_tokens=1600))
    assert (found.weights_bytes, found.kv_bytes) == (GIB // 2, 1600 * TOKEN_BYTES)
    assert found.workspace_bytes > 64 * 49152 * 4
    assert found.workspace_bytes < need(derive(kv_tokens=1600, max_step_tokens=1024)).workspace_bytes


@pytest.mark.parametrize(
    ("options", "capacity_bytes", "message"),
    [
        (
            {"kv_tokens": 10**18},
            24 * GIB,
            r"KV pool 46080\d+, .* but 25769803776 may be given: lower the settings 'kv_tokens' \(now 1",
        ),
        (
            {},
            GIB // 2,
            "weights 536870912, .* but 536870912 may be given: give more, or take a smaller model",
        ),
    ],
)
def test_refuses_what_does_not_fit(options: dict[str, int], capacity_bytes: int, message: str) -> None:
    """What does not fit is refused before memory is taken, with both numbers and the setting that mends it."""
    limits = derive(**options)
    with pytest.raises(LoadError, match=message):
        check_need(Path("model.gguf"), need(limits), limits, capacity_bytes=capacity_bytes)
    check_need(Path("model.gguf"), need(limits), limits, capacity_bytes=need(limits).total_bytes)
