"""How much a session can hold and what it takes: from a model's settings and what may be given of its device."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inferd.plugin import LoadError, MemoryNeed, TokenLimits

DEFAULT_CONTEXT_TOKENS = 8192
GATHERED_TOKENS = 32768  # most keys that the single rows of one group gather together
DRAWN_LOGITS = 1 << 22  # most that are drawn from at a time, but for a row that has more
DRAWN_BYTES = 44  # that a logit takes while it is sorted and drawn from: tests/unit/test_torch_memory.py counts them
SCORED_NUMBERS = 1 << 24  # scores of a group that are held at a time where caps or sinks are asked for
SCORED_BYTES = 14  # of each: as they are, as shares, and once more for a product
CELL_BYTES = 8  # of a row and a key in the mask of a group: whether it is seen, and what is added to its score
WIDTHS = 32  # numbers of the width that a token of a step takes, where they cannot be counted
RECORDED_TOKENS = (64, 128, 256, 512)
RECORDING_BYTES = 16 << 20  # of each recorded step, beside its numbers: an estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What the kind of a device decides.

    Attributes:
        sequence_tokens: Of the KV pool by default, for each sequence.
        pool_bytes: Most that the pool takes by default.
        pool_share: Most that it takes by default of what is left beside the weights.
        library_bytes: What the libraries take when they are loaded and used: measured, with a margin.
        step_tokens: In a step, by default.
        gathers: Whether rows gather their keys and values, instead of reading them by block tables.
        drawn_bytes: That a logit takes while it is drawn from.
        ahead: Whether a step is begun before the tokens of the last one were read, by default.
    """

    sequence_tokens: int
    pool_bytes: int
    pool_share: float
    library_bytes: int
    step_tokens: int
    gathers: bool
    drawn_bytes: int
    ahead: bool


PROCESSOR = Room(
    sequence_tokens=512,
    pool_bytes=1 << 30,
    pool_share=0.25,
    library_bytes=512 << 20,
    step_tokens=512,
    gathers=True,
    drawn_bytes=DRAWN_BYTES,
    ahead=False,
)
CUDA = Room(
    sequence_tokens=2048,
    pool_bytes=1 << 62,
    pool_share=0.8,
    library_bytes=768 << 20,
    step_tokens=2048,
    gathers=False,
    drawn_bytes=0,  # one kernel, which reads the logits as they are
    ahead=True,
)


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
        step_bytes: What the largest step takes, counted; None where it cannot be.
        heads: Of queries; 0 where scores are plain products, of which few are held.
        seeing_bytes: What it takes to see pictures, and what is kept of them.
    """

    context_tokens: int
    weights_bytes: int
    kv_token_bytes: int
    layer_token_bytes: int
    number_bytes: int
    vocabulary_size: int
    width: int
    step_bytes: int | None = None
    heads: int = 0
    seeing_bytes: int = 0


def choose_step(settings: Mapping[str, Any], room: Room) -> tuple[int, int]:
    """The most tokens and the most sequences of a step."""
    return settings["max_step_tokens"] or room.step_tokens, settings["max_sequences"]


def derive_limits(
    path: Path,
    settings: Mapping[str, Any],
    sizes: Sizes,
    *,
    room: Room,
    capacity_bytes: int,
    workspace_bytes: int = 0,
) -> TokenLimits:
    """Choose the sizes that are not set. They depend on nothing that changes from one load to the next.

    The pool leaves room for `workspace_bytes`, what `derive_workspace` gave.

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
    block_tokens, (step_tokens, max_sequences) = settings["block_tokens"], choose_step(settings, room)
    kv_tokens: int | None = settings["kv_tokens"]
    if kv_tokens is None:
        left_bytes = max(capacity_bytes - sizes.weights_bytes - room.library_bytes, 0)
        beside_bytes = workspace_bytes + 2 * block_tokens * sizes.kv_token_bytes  # the spare block, and one begun
        most_bytes = min(room.pool_bytes, left_bytes * room.pool_share, left_bytes + room.library_bytes - beside_bytes)
        affordable = max(int(most_bytes), 0) // sizes.kv_token_bytes
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
        max_step_tokens=step_tokens,
        embedding_size=sizes.width,
        samples=True,
        mixes=True,
        ahead=room.ahead if settings["ahead"] is None else settings["ahead"],
    )


def derive_workspace(sizes: Sizes, *, room: Room, step_tokens: int, max_sequences: int, recordings: int = 0) -> int:
    """What a session takes beside weights and keys and values, in bytes.

    That is: the libraries; the largest step; its logits as float32, and what it takes to draw from some of them; where
    steps are recorded, which keep what they take, those of the most tokens, and the logits of each: of twice as many as
    the most of those that decode, as their numbers are powers of two, and of the most for each of those with prompts.
    """
    row_bytes = sizes.vocabulary_size * sizes.number_bytes
    rows_bytes = min(max_sequences, step_tokens) * row_bytes
    step_bytes = sizes.step_bytes
    if step_bytes is None:
        step_bytes = step_tokens * WIDTHS * sizes.width * sizes.number_bytes + rows_bytes
    logits = max_sequences * sizes.vocabulary_size
    drawn = min(logits, max(sizes.vocabulary_size, DRAWN_LOGITS))
    recorded_bytes = 0
    if recordings:
        buckets = choose_tokens(step_tokens)
        most = max(max_sequences, *buckets) if buckets else max_sequences
        recorded_bytes = step_bytes * most // step_tokens + (3 + len(buckets)) * rows_bytes
        recorded_bytes += recordings * RECORDING_BYTES
    return room.library_bytes + step_bytes + 4 * logits + room.drawn_bytes * drawn + recorded_bytes + sizes.seeing_bytes


def derive_need(sizes: Sizes, limits: TokenLimits, *, room: Room, recordings: int = 0) -> MemoryNeed:
    """What a session with these limits takes; `recordings`: of how many steps."""
    workspace_bytes = derive_workspace(
        sizes,
        room=room,
        step_tokens=limits.max_step_tokens,
        max_sequences=limits.max_sequences,
        recordings=recordings,
    )
    if room.gathers:
        workspace_bytes += min(GATHERED_TOKENS, limits.blocks * limits.block_tokens) * sizes.layer_token_bytes
        workspace_bytes += count_group(limits.max_step_tokens, limits.context_tokens, sizes.heads)
    return MemoryNeed(
        weights_bytes=sizes.weights_bytes,
        kv_bytes=(limits.blocks + 1) * limits.block_tokens * sizes.kv_token_bytes,
        workspace_bytes=workspace_bytes,
    )


def times(need: MemoryNeed, count: int) -> MemoryNeed:
    """What so many processes need of one device."""
    return MemoryNeed(
        weights_bytes=count * need.weights_bytes,
        kv_bytes=count * need.kv_bytes,
        workspace_bytes=count * need.workspace_bytes,
    )


def count_group(rows: int, keys: int, heads: int) -> int:
    """Bytes that rows take which attend together over gathered keys; `heads`: as `Sizes` has them."""
    return rows * keys * CELL_BYTES + SCORED_BYTES * min(SCORED_NUMBERS, rows * keys * heads)


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


def count_recordings(*, step_tokens: int, max_sequences: int) -> int:
    """How many steps are recorded, those that decode and those with prompts."""
    return len(choose_rows(min(max_sequences, step_tokens))) + len(choose_tokens(step_tokens))


def choose_rows(most: int) -> list[int]:
    """Of how many rows decode steps are recorded: powers of two below `most`, and `most`."""
    return [*(1 << power for power in range(most.bit_length()) if 1 << power < most), most]


def choose_tokens(most: int) -> list[int]:
    """Of how many tokens steps with prompts are recorded: powers of two that a step may have, as far as launches count.

    A larger step takes a GPU longer than the host takes to launch it, and would be filled up at a price.
    """
    return [count for count in RECORDED_TOKENS if count <= most]
