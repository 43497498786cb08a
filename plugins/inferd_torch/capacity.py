"""How much a session can hold: from a model's settings and the device's free memory to its limits."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from inferd.plugin import LoadError, TokenLimits

DEFAULT_CONTEXT_TOKENS = 8192
DEFAULT_SEQUENCE_TOKENS = 512  # for each sequence of the KV pool, on the processor
DEFAULT_POOL_BYTES = 1 << 30  # on the processor
CPU_POOL_SHARE = 0.25  # of the free memory
CUDA_POOL_SHARE = 0.8  # the rest is for what a step computes


def check_weights(path: Path, *, weights_bytes: int, free_bytes: int) -> None:
    """Check that the weights fit, before they are read.

    Raises:
        LoadError: They do not.
    """
    if weights_bytes > free_bytes:
        raise LoadError(
            f"{path}: the weights need {weights_bytes} bytes of memory, but {free_bytes} are free: free memory, take"
            " a smaller model or a smaller 'dtype'"
        )


def derive_limits(
    path: Path,
    settings: Mapping[str, Any],
    *,
    model_tokens: int,
    kv_token_bytes: int,
    vocabulary_size: int,
    embedding_size: int,
    free_bytes: int,
    cuda: bool,
) -> TokenLimits:
    """Choose the sizes that are not set, and check that the pool fits into `free_bytes`.

    Raises:
        LoadError: A setting contradicts the model or another setting, or the memory does not suffice.
    """
    wanted: int | None = settings["context_tokens"]
    if wanted is not None and wanted > model_tokens:
        raise LoadError(
            f"{path}: setting 'context_tokens' is {wanted}, but the model serves {model_tokens}: lower the setting"
        )
    context_tokens = wanted or min(model_tokens, DEFAULT_CONTEXT_TOKENS)
    block_tokens, max_sequences = settings["block_tokens"], settings["max_sequences"]
    kv_tokens: int | None = settings["kv_tokens"]
    if kv_tokens is None and cuda:
        kv_tokens = min(int(free_bytes * CUDA_POOL_SHARE) // kv_token_bytes, max_sequences * context_tokens)
    elif kv_tokens is None:
        affordable = int(min(DEFAULT_POOL_BYTES, free_bytes * CPU_POOL_SHARE)) // kv_token_bytes
        kv_tokens = min(max(max_sequences * DEFAULT_SEQUENCE_TOKENS, context_tokens), affordable)
    elif wanted is not None and wanted > kv_tokens:
        raise LoadError(
            f"{path}: setting 'context_tokens' is {wanted}, but the KV pool has room for {kv_tokens} tokens: raise"
            " 'kv_tokens' or lower 'context_tokens'"
        )
    kv_tokens = max(kv_tokens, wanted or block_tokens)
    blocks = -(-kv_tokens // block_tokens)
    pool_bytes = (blocks + 1) * block_tokens * kv_token_bytes
    if pool_bytes > free_bytes:
        raise LoadError(
            f"{path}: the KV pool of {blocks * block_tokens} tokens needs {pool_bytes} bytes of memory, but"
            f" {free_bytes} are free beside the weights: lower the setting 'kv_tokens' or free memory"
        )
    return TokenLimits(
        vocabulary_size=vocabulary_size,
        context_tokens=min(context_tokens, blocks * block_tokens),
        block_tokens=block_tokens,
        blocks=blocks,
        max_sequences=max_sequences,
        max_step_tokens=settings["max_step_tokens"],
        embedding_size=embedding_size,
        samples=True,
    )
