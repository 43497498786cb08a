"""Arrays that a session writes in every step, taken once."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inferd.plugin import TokenLimits
from inferd_cpu.shapes import Architecture

Floats = NDArray[np.float32]

MIN_GATHERED_TOKENS = 4096  # attended to at once, over all sequences of a group
SCORES = 1 << 19  # attention scores computed at once: 2 MiB stay in the cache


@dataclass(frozen=True, slots=True, kw_only=True)
class Workspace:
    """T is the most tokens of a step, W the width, Q that of queries, keys and values, F the feed-forward width."""

    residual: Floats  # (T, W)
    normed: Floats  # (T, W)
    delta: Floats  # (T, W)
    qkv: Floats  # flat, of (T, Q)
    rotated: Floats  # flat, of (2, T, query and key heads, rope width / 2)
    mixed: Floats  # flat, of (T, heads * value width)
    gate_up: Floats  # flat, of (T, 2F)
    gated: Floats  # flat, of (T, F)
    logits: Floats  # (max_sequences, V)
    keys: Floats  # flat: the blocks that are gathered
    values: Floats  # flat
    scores: Floats  # flat


def compute_shapes(a: Architecture, limits: TokenLimits) -> Mapping[str, tuple[int, ...]]:
    """The shape of each array of the workspace."""
    tokens, block_tokens = limits.max_step_tokens, limits.block_tokens
    blocks = count_blocks(limits)
    attending = [layer for layer in a.layers if layer.attends]
    feed = max([layer.feed_width for layer in a.layers] + ([a.routing.shared_width] if a.routing else []))
    heads = max(layer.heads for layer in a.layers)
    return {
        "residual": (tokens, a.width),
        "normed": (tokens, a.width),
        "delta": (tokens, a.width),
        "qkv": (tokens * max(layer.qkv_width for layer in attending),),
        "rotated": (tokens * max(x.heads + x.kv_heads for x in attending) * max(rope.width for rope in a.ropes),),
        "mixed": (tokens * max(layer.mixed_width for layer in attending),),
        "gate_up": (tokens * 2 * feed,),
        "gated": (tokens * feed,),
        "logits": (limits.max_sequences, limits.vocabulary_size),
        "keys": (blocks * block_tokens * max(x.kv_heads * x.key_width for x in attending),),
        "values": (blocks * block_tokens * max(x.kv_heads * x.value_width for x in attending),),
        "scores": (max(SCORES, heads * blocks * block_tokens),),
    }


def count_blocks(limits: TokenLimits) -> int:
    """Blocks that are gathered at once."""
    return -(-max(limits.context_tokens, MIN_GATHERED_TOKENS) // limits.block_tokens)


def make_workspace(a: Architecture, limits: TokenLimits) -> Workspace:
    """Take the memory."""
    return Workspace(**{name: np.empty(shape, np.float32) for name, shape in compute_shapes(a, limits).items()})
