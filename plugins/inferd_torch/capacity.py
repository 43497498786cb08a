"""How much a session can hold and what it takes: from a model's settings and what may be given of its device."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inferd.plugin import LoadError, MemoryNeed, TokenLimits

DEFAULT_CONTEXT_TOKENS = 8192
GATHERED_TOKENS = 32768  # most keys that the single rows of one group gather together


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What the kind of a device decides.

    Attributes:
        sequence_tokens: Of the KV pool by default, for each sequence.
        pool_bytes: Most that the pool takes by default.
        pool_share: Most that it takes by default of what is left beside the weights.
        library_bytes: What the libraries take when they are loaded and used: measured, with a margin.
    """

    sequence_tokens: int
    pool_bytes: int
    pool_share: float
    library_bytes: int


PROCESSOR = Room(sequence_tokens=512, pool_bytes=1 << 30, pool_share=0.25, library_bytes=384 << 20)
CUDA = Room(sequence_tokens=2048, pool_bytes=1 << 62, pool_share=0.8, library_bytes=768 << 20)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Of a network.

    Attributes:
        context_tokens: Most tokens of a sequence that it was made for.
        weights_bytes: Its weights, as they are held.
        kv_token_bytes: Keys and values of one token, over all layers.
        layer_token_bytes: Those of the layer that has most.
        number_bytes: One number of those that it computes with.
        vocabulary_size: Logits of one row.
        width: Of the hidden states; 0 when it does not show them.
    """

    context_tokens: int
    weights_bytes: int
    kv_token_bytes: int
    layer_token_bytes: int
    number_bytes: int
    vocabulary_size: int
    width: int


def derive_limits(
    path: Path, settings: Mapping[str, Any], sizes: Sizes, *, room: Room, capacity_bytes: int
) -> TokenLimits:
    """Choose the sizes that are not set. They depend on nothing that changes from one load to the next.

    Raises:
        LoadError: A setting contradicts the model or another setting.
    """
    wanted: int | None = settings["context_tokens"]
    if wanted is not None and wanted > sizes.context_tokens:
        raise LoadError(
            f"{path}: setting 'context_tokens' is {wanted}, but the model serves {sizes.context_tokens}: lower the"
            " setting (of one with LongRoPE it is what the model saw at first; the backend 'cpu' serves all)"
        )
    context_tokens = wanted or min(sizes.context_tokens, DEFAULT_CONTEXT_TOKENS)
    block_tokens, max_sequences = settings["block_tokens"], settings["max_sequences"]
    kv_tokens: int | None = settings["kv_tokens"]
    if kv_tokens is None:
        left_bytes = max(capacity_bytes - sizes.weights_bytes - room.library_bytes, 0)
        affordable = int(min(room.pool_bytes, left_bytes * room.pool_share)) // sizes.kv_token_bytes
        kv_tokens = min(max(max_sequences * room.sequence_tokens, context_tokens), affordable)
    elif wanted is not None and wanted > kv_tokens:
        raise LoadError(
            f"{path}: setting 'context_tokens' is {wanted}, but the KV pool has room for {kv_tokens} tokens: raise"
            " 'kv_tokens' or lower 'context_tokens'"
        )
    kv_tokens = max(kv_tokens, wanted or block_tokens)
    blocks = -(-kv_tokens // block_tokens)
    return TokenLimits(
        vocabulary_size=sizes.vocabulary_size,
        context_tokens=min(context_tokens, blocks * block_tokens),
        block_tokens=block_tokens,
        blocks=blocks,
        max_sequences=max_sequences,
        max_step_tokens=settings["max_step_tokens"],
        embedding_size=sizes.width,
        samples=True,
    )


def derive_need(sizes: Sizes, limits: TokenLimits, *, room: Room) -> MemoryNeed:
    """What a session with these limits takes.

    The buffers of a step are estimated: some 32 numbers of the width for each token, logits thrice (of the network, in
    fp32, and sorted), and the keys and values that the rows of a group gather.
    """
    tokens_bytes = limits.max_step_tokens * 32 * sizes.width * sizes.number_bytes
    logits_bytes = limits.max_sequences * sizes.vocabulary_size * (2 * sizes.number_bytes + 12)
    gathered_bytes = min(GATHERED_TOKENS, limits.blocks * limits.block_tokens) * sizes.layer_token_bytes
    return MemoryNeed(
        weights_bytes=sizes.weights_bytes,
        kv_bytes=(limits.blocks + 1) * limits.block_tokens * sizes.kv_token_bytes,
        workspace_bytes=room.library_bytes + tokens_bytes + logits_bytes + gathered_bytes,
    )


def times(need: MemoryNeed, count: int) -> MemoryNeed:
    """What so many processes need of one device."""
    return MemoryNeed(
        weights_bytes=count * need.weights_bytes,
        kv_bytes=count * need.kv_bytes,
        workspace_bytes=count * need.workspace_bytes,
    )


def check_need(path: Path, need: MemoryNeed, limits: TokenLimits, *, capacity_bytes: int) -> None:
    """Check that a session fits, before memory is taken.

    Raises:
        LoadError: It does not.
    """
    if need.total_bytes <= capacity_bytes:
        return
    if need.weights_bytes >= capacity_bytes:
        fix = "give more, take a smaller model or a smaller 'dtype'"
    else:
        fix = f"lower the setting 'kv_tokens' (now {limits.blocks * limits.block_tokens}), or give more"
    raise LoadError(
        f"{path}: needs {need.total_bytes} bytes of memory (weights {need.weights_bytes}, KV pool {need.kv_bytes},"
        f" workspace {need.workspace_bytes}), but {capacity_bytes} may be given: {fix}"
    )
