"""How much a session can hold and what it takes: from a network's sizes, its settings, and what may be given."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from inferd.plugin import LoadError, MemoryNeed, TokenLimits
from inferd_onnx.decoder.area import PAGE_BYTES
from inferd_onnx.decoder.model import MATRICES, DecoderModel
from inferd_onnx.decoder.packing import choose_bits, packed_bytes
from inferd_onnx.decoder.shape import Shape

DEFAULT_CONTEXT_TOKENS = 8192
SEQUENCE_TOKENS = 512  # of the pool by default, for each sequence
POOL_BYTES = 1 << 30  # most that pool and area take by default
POOL_SHARE = 4  # of what is left beside the weights they take at most a part so large by default
LIBRARY_BYTES = 96 << 20  # what the runtime, numpy and their libraries take: measured, with a margin
LAYER_BYTES = 512 << 10  # of the runtime's own structures


@dataclass(frozen=True, slots=True)
class Sizes:
    """What weights take.

    Attributes:
        weights_bytes: As the runtime holds them.
        unpacked_bytes: Of numbers that are there twice while the runtime makes copies of them in its own order.
    """

    weights_bytes: int
    unpacked_bytes: int


def measure_weights(model: DecoderModel, settings: Mapping[str, Any]) -> Sizes:
    """What a network's weights take, the embedding apart, which stays on disk."""
    quantization, head = str(settings["quantization"]), model.head
    if settings["compute"] == "exact":
        outside = 0 if head is model.weights["embedding"] else prod(model.weights["embedding"].sizes)
        numbers_bytes = 4 * (model.parameters - outside)
        return Sizes(numbers_bytes, numbers_bytes)
    total = numbers = 0
    matrices = model.shape.matrices()
    groups = [("q", "k", "v"), *((what,) for what in MATRICES if what not in "qkv")]
    if model.shape.head_norms:
        groups = [(what,) for what in MATRICES]
    parts = [[(f"{n}.{what}", matrices[what]) for what in group] for n in range(model.shape.layers) for group in groups]
    for part in parts:
        bits = choose_bits([model.weights[name] for name, _ in part], quantization)
        total += sum(packed_bytes(*sizes, bits) for _, sizes in part)
        numbers += sum(outputs * inputs * bits // 8 for _, (outputs, inputs) in part)
    bits = choose_bits([head], quantization)
    total += packed_bytes(head.sizes[0], head.sizes[1], bits)
    numbers += head.sizes[0] * head.sizes[1] * bits // 8
    return Sizes(total, numbers)


def derive_limits(
    path: Path, settings: Mapping[str, Any], shape: Shape, sizes: Sizes, capacity_bytes: int
) -> TokenLimits:
    """Choose the sizes that are not set. They depend on nothing that changes from one load to the next.

    Raises:
        LoadError: A setting contradicts the model or another setting.
    """
    wanted: int | None = settings["context_tokens"]
    if wanted is not None and wanted > shape.context_tokens:
        fix = "lower the setting"
        if shape.window == shape.context_tokens:
            fix = (
                f"it has a window of {shape.window} tokens, which the backend 'onnx' takes for its whole context; lower"
                " the setting, or load it with the backend 'cpu', which computes windows"
            )
        raise LoadError(
            f"{path}: setting 'context_tokens' is {wanted}, but the model serves {shape.context_tokens}: {fix}"
        )
    context = wanted or min(shape.context_tokens, DEFAULT_CONTEXT_TOKENS)
    block_tokens, most = settings["block_tokens"], settings["max_sequences"]
    kv_tokens: int | None = settings["kv_tokens"]
    if kv_tokens is None:
        left_bytes = max(capacity_bytes - sizes.weights_bytes - LIBRARY_BYTES, 0)
        affordable = min(POOL_BYTES, left_bytes // POOL_SHARE) // (2 * shape.kv_token_bytes)
        kv_tokens = min(max(most * SEQUENCE_TOKENS, context), affordable)
    elif wanted is not None and wanted > kv_tokens:
        raise LoadError(
            f"{path}: setting 'context_tokens' is {wanted}, but the KV pool has room for {kv_tokens} tokens: raise"
            " 'kv_tokens' or lower 'context_tokens'"
        )
    blocks = -(-max(kv_tokens, wanted or block_tokens) // block_tokens)
    return TokenLimits(
        vocabulary_size=shape.vocabulary_size,
        context_tokens=min(context, blocks * block_tokens),
        block_tokens=block_tokens,
        blocks=blocks,
        max_sequences=most,
        max_step_tokens=settings["max_step_tokens"],
        embedding_size=shape.width,
    )


def derive_need(shape: Shape, sizes: Sizes, limits: TokenLimits) -> MemoryNeed:
    """What a session with these limits takes.

    Keys and values are there twice, in the pool and in the area, whose pages are touched in part at the end of each
    head. The buffers of a step are those of a layer for each token, its scores against the longest sequence, and
    logits.
    """
    pages = shape.layers * 2 * shape.kv_heads * limits.max_sequences * PAGE_BYTES
    kv_bytes = 2 * limits.blocks * limits.block_tokens * shape.kv_token_bytes + pages
    step, context = limits.max_step_tokens, limits.context_tokens
    wide = 8 * shape.width + 4 * shape.inner + 4 * shape.heads * shape.head_width
    scores = shape.heads * context * max(step, limits.max_sequences)
    tables = context * shape.head_width
    logits = 3 * min(step, 8 * limits.max_sequences) * shape.vocabulary_size
    layers = shape.layers * LAYER_BYTES
    return MemoryNeed(
        weights_bytes=sizes.weights_bytes,
        kv_bytes=kv_bytes,
        workspace_bytes=LIBRARY_BYTES + layers + sizes.unpacked_bytes + 4 * (step * wide + scores + tables + logits),
    )


def check_need(path: Path, need: MemoryNeed, limits: TokenLimits, *, capacity_bytes: int) -> None:
    """Check that a session fits, before memory is taken.

    Raises:
        LoadError: It does not.
    """
    if need.total_bytes <= capacity_bytes:
        return
    tokens = limits.blocks * limits.block_tokens
    raise LoadError(
        f"{path}: needs {need.total_bytes} bytes of memory (weights {need.weights_bytes}, keys and values"
        f" {need.kv_bytes}, workspace {need.workspace_bytes}), but {capacity_bytes} may be given: lower the setting"
        f" 'kv_tokens' (now {tokens}) or 'context_tokens' (now {limits.context_tokens}), or give more"
    )
