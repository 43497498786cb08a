"""How much a session can hold: from a model's settings and the host's free memory to its limits."""

from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from typing import Any

from inferd.plugin import LoadError, TokenLimits
from inferd_cpu.architecture import Architecture
from inferd_cpu.workspace import compute_shapes

DEFAULT_CONTEXT_TOKENS = 8192
DEFAULT_SEQUENCE_TOKENS = 512  # for each sequence of the KV pool
DEFAULT_POOL_BYTES = 1 << 30
DEFAULT_POOL_SHARE = 4  # at most one part in so many of the free memory


def derive_limits(
    path: Path,
    architecture: Architecture,
    settings: Mapping[str, Any],
    *,
    vocabulary_size: int,
    weights_bytes: int,
    free_bytes: int,
    kv_token_bytes: int | None = None,
    measure_workspace: Callable[[TokenLimits], int] | None = None,
    samples: bool = False,
) -> TokenLimits:
    """Choose the sizes that are not set, and check that everything fits into `free_bytes`.

    Args:
        path: The model's file, for messages.
        architecture: Its shape.
        settings: Of the model.
        vocabulary_size: Tokens that it knows.
        weights_bytes: What its weights take.
        free_bytes: What may be taken.
        kv_token_bytes: What a token takes in the KV pool; None for fp32.
        measure_workspace: Gives what a session of these limits takes beside weights and pool; None for `CpuSession`.
        samples: Whether the session samples.

    Raises:
        LoadError: A setting contradicts the model or another setting, or the memory does not suffice.
    """
    kv_token_bytes = kv_token_bytes or architecture.kv_token_bytes
    block_tokens: int = settings["block_tokens"]
    max_sequences: int = settings["max_sequences"]
    wanted: int | None = settings["context_tokens"]
    if wanted is not None and wanted > architecture.context_tokens:
        raise LoadError(
            f"{path}: setting 'context_tokens' is {wanted}, but the model was trained for"
            f" {architecture.context_tokens}: lower the setting"
        )
    context_tokens = wanted or min(architecture.context_tokens, DEFAULT_CONTEXT_TOKENS)
    kv_tokens: int | None = settings["kv_tokens"]
    if kv_tokens is None:
        share_bytes = min(DEFAULT_POOL_BYTES, max(free_bytes - weights_bytes, 0) // DEFAULT_POOL_SHARE)
        affordable = share_bytes // kv_token_bytes
        kv_tokens = min(max(max_sequences * DEFAULT_SEQUENCE_TOKENS, context_tokens), affordable)
        kv_tokens = max(kv_tokens, wanted or block_tokens)
    elif wanted is not None and wanted > kv_tokens:
        raise LoadError(
            f"{path}: setting 'context_tokens' is {wanted}, but the KV pool has room for {kv_tokens} tokens: raise"
            " 'kv_tokens' or lower 'context_tokens'"
        )
    limits = TokenLimits(
        vocabulary_size=vocabulary_size,
        context_tokens=min(context_tokens, kv_tokens),
        block_tokens=block_tokens,
        blocks=-(-kv_tokens // block_tokens),
        max_sequences=max_sequences,
        max_step_tokens=settings["max_step_tokens"],
        embedding_size=architecture.width,
        samples=samples,
    )
    pool_bytes = limits.blocks * limits.block_tokens * kv_token_bytes
    if measure_workspace is None:
        workspace_bytes = sum(4 * prod(shape) for shape in compute_shapes(architecture, limits).values())
    else:
        workspace_bytes = measure_workspace(limits)
    _check_memory(path, limits, (weights_bytes, pool_bytes, workspace_bytes), free_bytes=free_bytes)
    return limits


def _check_memory(path: Path, limits: TokenLimits, parts_bytes: tuple[int, int, int], *, free_bytes: int) -> None:
    weights_bytes, pool_bytes, workspace_bytes = parts_bytes
    needed_bytes = weights_bytes + pool_bytes + workspace_bytes
    if needed_bytes <= free_bytes:
        return
    if weights_bytes >= free_bytes:
        fix = "free memory, or take a smaller model"
    else:
        fix = (
            f"lower the settings 'kv_tokens' (now {limits.blocks * limits.block_tokens}), 'max_step_tokens'"
            f" (now {limits.max_step_tokens}) or 'max_sequences' (now {limits.max_sequences}), or free memory"
        )
    raise LoadError(
        f"{path}: needs {needed_bytes} bytes of memory (weights {weights_bytes}, KV pool {pool_bytes}, workspace"
        f" {workspace_bytes}), but {free_bytes} are free: {fix}"
    )
