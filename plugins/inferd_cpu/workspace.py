"""Arrays that a session writes in every step, taken once."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inferd.plugin import TokenLimits
from inferd_cpu.architecture import Architecture

Floats = NDArray[np.float32]

MIN_GATHERED_TOKENS = 4096  # attended to at once, over all sequences of a group
SCORES = 1 << 19  # attention scores computed at once: 2 MiB stay in the cache


@dataclass(frozen=True, slots=True, kw_only=True)
class Workspace:
    """T is the most tokens of a step, W the width, Q that of queries, keys and values, F the feed-forward width."""

    residual: Floats  # (T, W)
    normed: Floats  # (T, W)
    qkv: Floats  # (T, Q)
    rotated: Floats  # (2, T, query and key heads, rope width / 2)
    mixed: Floats  # (T, heads * value width)
    gate_up: Floats  # (T, 2F)
    gated: Floats  # (T, F)
    logits: Floats  # (max_sequences, V)
    keys: Floats  # (blocks gathered, numbers in a block)
    values: Floats  # (blocks gathered, numbers in a block)
    scores: Floats  # flat


def compute_shapes(a: Architecture, limits: TokenLimits) -> Mapping[str, tuple[int, ...]]:
    """The shape of each array of the workspace."""
    tokens, block_tokens = limits.max_step_tokens, limits.block_tokens
    blocks = -(-max(limits.context_tokens, MIN_GATHERED_TOKENS) // block_tokens)
    return {
        "residual": (tokens, a.width),
        "normed": (tokens, a.width),
        "qkv": (tokens, a.qkv_width),
        "rotated": (2, tokens, a.heads + a.kv_heads, a.rope_width // 2),
        "mixed": (tokens, a.mixed_width),
        "gate_up": (tokens, 2 * a.feed_width),
        "gated": (tokens, a.feed_width),
        "logits": (limits.max_sequences, limits.vocabulary_size),
        "keys": (blocks, block_tokens * a.kv_heads * a.key_width),
        "values": (blocks, block_tokens * a.kv_heads * a.value_width),
        "scores": (max(SCORES, a.heads * blocks * block_tokens),),
    }


def make_workspace(a: Architecture, limits: TokenLimits) -> Workspace:
    """Take the memory."""
    return Workspace(**{name: np.empty(shape, np.float32) for name, shape in compute_shapes(a, limits).items()})
