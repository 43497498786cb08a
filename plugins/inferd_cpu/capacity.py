"""How much a session can hold and what it takes: from a model's settings and what may be given of the host's memory."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from inferd.plugin import LoadError, MemoryNeed, TokenLimits, least_window_blocks
from inferd_cpu.shapes import Architecture
from inferd_cpu.workspace import compute_shapes

DEFAULT_CONTEXT_TOKENS = 8192
DEFAULT_SEQUENCE_TOKENS = 512  # for each sequence of the KV pool
DEFAULT_POOL_BYTES = 1 << 30
DEFAULT_POOL_SHARE = 4  # at most one part in so many of what the weights leave
LEAST_STATE_TOKENS = 64  # in a block, where each has a state of its sequence: there are fewer of those then


@dataclass(frozen=True, slots=True)
class KvBytes:
    """What a token takes in the KV pools.

    Attributes:
        whole: Over the layers that see all tokens.
        windows: Over those that see the last ones only.
    """

    whole: int
    windows: int

    @classmethod
    def of(cls, a: Architecture, block_tokens: int = 1) -> "KvBytes":
        """In fp32. A state of a sequence, one in each block, counts for the tokens of the block."""
        state_bytes = -(-a.state_bytes // block_tokens)
        return cls(a.kv_token_bytes - a.window_token_bytes, a.window_token_bytes + state_bytes)

    def pool(self, limits: TokenLimits) -> int:
        """Bytes of both pools, or of one where all layers are in it."""
        windows = limits.window_blocks or limits.blocks
        return (limits.blocks * self.whole + windows * self.windows) * limits.block_tokens

    def saved(self, limits: TokenLimits) -> int:
        """Bytes that the pool of windows takes less than one that keeps every token."""
        return (limits.blocks - (limits.window_blocks or limits.blocks)) * self.windows * limits.block_tokens

    def afford(self, pool_bytes: int, window_tokens: int) -> int:
        """Tokens that so many bytes hold, where windows take at most `window_tokens` of them; 0 for no bound."""
        affordable = pool_bytes // max(self.whole + self.windows, 1)  # encoders may keep nothing
        if not window_tokens or affordable <= window_tokens:
            return affordable
        return max(affordable, (pool_bytes - window_tokens * self.windows) // max(self.whole, 1))


def derive_limits(
    path: Path,
    architecture: Architecture,
    settings: Mapping[str, Any],
    *,
    vocabulary_size: int,
    weights_bytes: int,
    capacity_bytes: int,
    kv: KvBytes | None = None,
    samples: bool = False,
    border_tokens: int = 0,
) -> TokenLimits:
    """Choose the sizes that are not set. They depend on nothing that changes from one load to the next.

    Args:
        path: The model's file, for messages.
        architecture: Its shape.
        settings: Of the model.
        vocabulary_size: Tokens that it knows.
        weights_bytes: What its weights take.
        capacity_bytes: What may be given of the host's memory.
        kv: What a token takes in the KV pools; None for fp32.
        samples: Whether the session samples.
        border_tokens: Sequences of more tokens rotate in another way; 0 where all rotate alike.

    Raises:
        LoadError: A setting contradicts the model or another setting.
    """
    block_tokens = choose_block_tokens(architecture, settings)
    kv = kv or KvBytes.of(architecture, block_tokens)
    share_bytes = min(DEFAULT_POOL_BYTES, max(capacity_bytes - weights_bytes, 0) // DEFAULT_POOL_SHARE)
    max_sequences = _count_sequences(architecture, settings, share_bytes)
    wanted: int | None = settings["context_tokens"]
    if wanted is not None and wanted > architecture.context_tokens:
        raise LoadError(
            f"{path}: setting 'context_tokens' is {wanted}, but the model was trained for"
            f" {architecture.context_tokens}: lower the setting"
        )
    context_tokens = wanted or min(architecture.context_tokens, DEFAULT_CONTEXT_TOKENS)
    window_blocks = _count_window_blocks(architecture, settings, max_sequences)
    kv_tokens: int | None = settings["kv_tokens"]
    if kv_tokens is None:
        affordable = kv.afford(share_bytes, window_blocks * block_tokens)
        kv_tokens = min(max(max_sequences * DEFAULT_SEQUENCE_TOKENS, context_tokens), affordable)
        kv_tokens = max(kv_tokens, wanted or block_tokens)
    elif wanted is not None and wanted > kv_tokens:
        raise LoadError(
            f"{path}: setting 'context_tokens' is {wanted}, but the KV pool has room for {kv_tokens} tokens: raise"
            " 'kv_tokens' or lower 'context_tokens'"
        )
    blocks = -(-kv_tokens // block_tokens)
    if window_blocks >= blocks:
        window_blocks = 0  # nothing is saved by a pool of their own
    return TokenLimits(
        vocabulary_size=vocabulary_size,
        context_tokens=min(context_tokens, kv_tokens),
        block_tokens=block_tokens,
        blocks=blocks,
        max_sequences=max_sequences,
        max_step_tokens=settings["max_step_tokens"],
        embedding_size=architecture.width,
        samples=samples,
        whole_prompts=architecture.family.encodes,
        forward_only=architecture.state_bytes > 0,
        window_tokens=architecture.window if window_blocks else 0,
        window_blocks=window_blocks,
        border_tokens=border_tokens if min(context_tokens, kv_tokens) > border_tokens else 0,
    )


def choose_block_tokens(a: Architecture, settings: Mapping[str, Any]) -> int:
    """Tokens in a block: as the settings say, unless blocks have states and nothing says how many there are."""
    block_tokens: int = settings["block_tokens"]
    chosen = a.state_bytes and settings["kv_tokens"] is None
    return max(block_tokens, LEAST_STATE_TOKENS) if chosen else block_tokens


def _count_sequences(a: Architecture, settings: Mapping[str, Any], share_bytes: int) -> int:
    """Sequences in a step: where each has a state, so many that all states take half of what the pool may."""
    most: int = settings["max_sequences"]
    if not a.state_bytes or settings["kv_tokens"] is not None:
        return most
    affordable = share_bytes // 2 // a.state_bytes
    return next((n for n in range(most, 1, -1) if _count_window_blocks(a, settings, n) <= affordable), 1)


def _count_window_blocks(a: Architecture, settings: Mapping[str, Any], sequences: int) -> int:
    """Blocks that windows take at most; 0 where no layer has one, or tokens see those behind them."""
    if not a.window or a.family.encodes:
        return 0
    return least_window_blocks(
        window_tokens=a.window,
        block_tokens=choose_block_tokens(a, settings),
        sequences=min(sequences, settings["max_step_tokens"]),
        step_tokens=settings["max_step_tokens"],
    )


def derive_need(a: Architecture, limits: TokenLimits, *, weights_bytes: int) -> MemoryNeed:
    """What a session in fp32 with these limits takes."""
    kv = KvBytes.of(a, limits.block_tokens)
    return MemoryNeed(
        weights_bytes=weights_bytes,
        kv_bytes=kv.pool(limits),
        workspace_bytes=sum(4 * prod(shape) for shape in compute_shapes(a, limits).values()),
        kv_saved_bytes=kv.saved(limits),
    )


def check_need(path: Path, need: MemoryNeed, limits: TokenLimits, *, capacity_bytes: int) -> None:
    """Check that a session fits, before memory is taken.

    Raises:
        LoadError: It does not.
    """
    if need.total_bytes <= capacity_bytes:
        return
    if 0 < need.offloaded_bytes < need.total_bytes:
        fix = f"with expert_offload=true it needs {need.offloaded_bytes}; set that, give more, or take a smaller model"
    elif need.weights_bytes >= capacity_bytes:
        fix = "give more, or take a smaller model"
    else:
        fix = (
            f"lower the settings 'kv_tokens' (now {limits.blocks * limits.block_tokens}), 'max_step_tokens'"
            f" (now {limits.max_step_tokens}) or 'max_sequences' (now {limits.max_sequences}), or give more"
        )
    raise LoadError(
        f"{path}: needs {need.total_bytes} bytes of memory (weights {need.weights_bytes}, KV pool {need.kv_bytes},"
        f" workspace {need.workspace_bytes}), but {capacity_bytes} may be given: {fix}"
    )
