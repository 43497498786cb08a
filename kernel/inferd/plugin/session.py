"""The token session: what a language-model backend computes. Everything else is supplied by the engine.

The engine owns all state of sequences. A session owns weights and a pool of KV blocks; it is told in each step which
tokens to compute, where their keys and values go, and which blocks hold what came before.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

if TYPE_CHECKING:  # the kernel process reads this module and must not load numpy
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from inferd.plugin.pictures import PlacedPicture

    Float64Array: TypeAlias = NDArray[np.float64]
    Int64Array: TypeAlias = NDArray[np.int64]
    Int32Array: TypeAlias = NDArray[np.int32]
    BoolArray: TypeAlias = NDArray[np.bool_]
    Float32Array: TypeAlias = NDArray[np.float32]
    UInt8Array: TypeAlias = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLimits:
    """What a session can do; fixed for its life.

    Attributes:
        vocabulary_size: Number of logits in a row.
        context_tokens: Most tokens of one sequence, prompt and output.
        block_tokens: Tokens in a KV block.
        blocks: KV blocks in the pool.
        max_sequences: Most sequences in one step.
        max_step_tokens: Most tokens in one step.
        embedding_size: Width of the hidden states that it can return; 0 when it cannot.
        samples: Whether it can choose tokens itself, on its device; see `DeviceSampling`.
        whole_prompts: Its tokens see those behind them, too: a sequence is computed in one step, none is gone on with,
            and only hidden states are of use; its logits may be zeros.
        forward_only: What it keeps of a sequence is behind its last token: of a block that was begun no token is
            computed again, and none is taken back. A block's state is copied with it.
        window_tokens: A token sees so many in layers with a window, itself among them; of use with `window_blocks`.
        window_blocks: KV blocks of a pool of their own for layers with a window, at least `least_window_blocks`; 0
            where those are in the pool of all layers.
        border_tokens: A sequence of more tokens is computed in another way from its first token on: what was kept of it
            while it was shorter is computed again, see `TokenBatch.beyond`. 0 where all are computed alike.
        whole_pictures: The tokens of a picture see each other: no step ends between two of them.
        mixes: Whether it can choose the tokens of some rows and give the logits of others in one step; of use with
            `samples`, see `TokenBatch.shown`.
        ahead: Whether it can begin a step before anybody has read the tokens of the last one: it is an `AheadSession`
            then, and `samples`.
    """

    vocabulary_size: int
    context_tokens: int
    block_tokens: int
    blocks: int
    max_sequences: int
    max_step_tokens: int
    embedding_size: int = 0
    samples: bool = False
    whole_prompts: bool = False
    forward_only: bool = False
    window_tokens: int = 0
    window_blocks: int = 0
    border_tokens: int = 0
    whole_pictures: bool = False
    mixes: bool = False
    ahead: bool = False


def least_window_blocks(*, window_tokens: int, block_tokens: int, sequences: int, step_tokens: int) -> int:
    """Blocks in which so many sequences have their windows while a step of so many tokens is computed."""
    windows = -(-(window_tokens - 1) // block_tokens) + 2  # a window and new tokens, neither at a border
    return sequences * windows + -(-step_tokens // block_tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceSampling:
    """How a session that samples on its device chooses the token of each row of logits.

    Temperature, top-k, top-p and min-p apply in this order, each to what the one before left. The token is the first
    one whose running sum of probabilities exceeds the point, in the order of ids in rows without top-k and top-p, in
    the order of falling probability in the others. The points are the engine's random numbers, so that a task's tokens
    do not depend on where they are sampled.

    Attributes:
        temperatures: Shape (R,); 0 is greedy.
        top_k: Shape (R,); 0 keeps all.
        top_p: Shape (R,); 1 keeps all.
        min_p: Shape (R,); relative to the likeliest token; 0 keeps all.
        points: Shape (R,), in [0, 1).
    """

    temperatures: Float32Array
    top_k: Int64Array
    top_p: Float64Array
    min_p: Float64Array
    points: Float64Array


def _tell_nobody() -> None:
    """Of a step that nobody watches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenBatch:
    """The tokens of one step: S sequences with T tokens in all, one after the other.

    Sequence s owns rows `starts[s]:starts[s + 1]` of `token_ids` and `positions`. Its positions are consecutive, and
    the last one is `lengths[s] - 1`. The key and value of position p belong into block `block_tables[s, p // B]` at
    offset `p % B`, where B is `TokenLimits.block_tokens`; those of earlier positions are there already. Entries of a
    block table behind the last block in use are -1. A block may be shared between sequences for reading; the block
    that a token is written to is never shared.

    Where `TokenLimits.window_blocks` is not 0, layers with a window have a pool of their own, whose blocks stand in
    `window_tables`: for a position the entry is at the same place as in `block_tables`. It is -1 where no token of the
    step sees the block: what is there may be another sequence's.

    Attributes:
        token_ids: Shape (T,).
        positions: Shape (T,).
        starts: Shape (S + 1,); `starts[0]` is 0 and `starts[S]` is T.
        lengths: Shape (S,); tokens of the sequence whose KV exists after this step.
        block_tables: Shape (S, W).
        logit_rows: Shape (R,), ascending; the rows of `token_ids` whose logits are wanted. May be empty.
        hidden_rows: Shape (H,), ascending; the rows whose hidden states behind the last norm are wanted. None for
            none, and always None where `TokenLimits.embedding_size` is 0.
        sampling: How to choose the tokens of `logit_rows`; None when their logits are wanted, and always None where
            `TokenLimits.samples` is False.
        shown: Shape (L,), ascending; the places in `logit_rows` whose logits are wanted beside the tokens that
            `sampling` asks for, whose own do not matter. None for none, and always None where `sampling` is, or
            `TokenLimits.mixes` is False.
        origins: Shape (T,); for a token that nobody has read yet its place in the `logit_rows` of the batch that was
            launched last, -1 for the others. Where that row has no token, any may be computed. None where all are
            known, and always None in `TokenSession.step`; see `AheadSession`.
        window_tables: Shape (S, W); None where `TokenLimits.window_blocks` is 0.
        sources: Shape (S,); what each sequence is written of, by the numbers of `SourcedSession.read`. None for other
            sessions.
        beyond: Which sequences have more than `TokenLimits.border_tokens` tokens when all that is known of them is
            computed, shape (S,). What is kept of a sequence was computed with the same. None where that is 0.
        adapters: Shape (S,); the slot of each sequence's adapter, -1 for none. None where no sequence has one, and for
            sessions that are no `AdaptingSession`.
        pictures: Those of each sequence, S tuples, whether the step has tokens of them or not. None where no sequence
            has any.
        advance: Call it now and then in what may take longer than its tokens tell, as a tower for pictures: a step
            that lasts too long without it is taken for one that hangs, and its worker is ended.
    """

    token_ids: Int32Array
    positions: Int32Array
    starts: Int32Array
    lengths: Int32Array
    block_tables: Int32Array
    logit_rows: Int32Array
    hidden_rows: Int32Array | None = None
    sampling: DeviceSampling | None = None
    shown: Int32Array | None = None
    origins: Int32Array | None = None
    window_tables: Int32Array | None = None
    sources: Int64Array | None = None
    beyond: BoolArray | None = None
    adapters: Int32Array | None = None
    pictures: Sequence[tuple[PlacedPicture, ...]] | None = None
    advance: Callable[[], None] = _tell_nobody


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """What a step computed.

    Attributes:
        logits: Shape (R, V), in the order of `TokenBatch.logit_rows`; where tokens were asked for those of
            `TokenBatch.shown` alone, shape (L, V), or None. Valid until the next step.
        hidden: Shape (H, `embedding_size`), in the order of `TokenBatch.hidden_rows`; None when none were asked for.
            Valid until the next step.
        token_ids: Shape (R,), the tokens that `TokenBatch.sampling` asked for; -1 for a row whose logits are not
            finite. None when logits were asked for.
        pictures_computed: Pictures of which the step computed the vectors.
        pictures_kept: Those whose first vector was in the step and had been kept since it was computed.
    """

    logits: Float32Array | None = None
    hidden: Float32Array | None = None
    token_ids: Int32Array | None = None
    pictures_computed: int = 0
    pictures_kept: int = 0


@runtime_checkable
class TokenSession(Protocol):
    """One loaded language model. Called from one thread."""

    @property
    def limits(self) -> TokenLimits:
        """What it can do."""
        ...

    def step(self, batch: TokenBatch) -> StepResult:
        """Compute one step. Long computations release the GIL.

        A ValueError refuses the batch: each task of it is then computed alone, from what was computed before, and
        fails where that is refused, too. Another exception fails all tasks that have a place; the session must stay
        usable. A state that cannot be trusted any more is shown by ending the process.
        """
        ...

    def copy_blocks(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Copy KV blocks, each pair from its first to its second; in order.

        Blocks of the pool of layers with a window are numbered from `TokenLimits.blocks` on.
        """
        ...

    def close(self) -> None:
        """Give the memory back. Nothing is called afterwards."""
        ...


@runtime_checkable
class AheadSession(TokenSession, Protocol):
    """A session whose device goes on with the next step before the tokens of the last one have come to the host.

    Of use where `TokenLimits.ahead` is set. A batch that is launched behind one that was not read yet has
    `TokenBatch.origins`. What ends with the first of them is computed in vain in the second: nobody reads its row, and
    blocks that it gives back are written by later steps only. Other methods are called when all has been read.
    """

    def launch(self, batch: TokenBatch) -> Callable[[], StepResult]:
        """Begin a step with `sampling`, and neither `shown` nor `hidden_rows`; what is given waits for its tokens.

        Steps are computed in the order of their launches, and read in that order, each once. A second one may be
        launched before the first is read, a third may not. The arrays of the batch are the caller's again when this has
        returned. A ValueError refuses the batch, as for `step`; what is given raises whatever else went wrong.
        """
        ...


@runtime_checkable
class SourcedSession(TokenSession, Protocol):
    """A decoder that writes what an encoder has read: what its sequences are written of is read once for each."""

    @property
    def source(self) -> tuple[str, tuple[int, ...]]:
        """The name and the shape, without rows, of what `read` takes."""
        ...

    def read(self, number: int, array: Float32Array) -> None:
        """Read something, of one row. Sequences of this number are written of it, from the next step on.

        As many are kept as there are sequences in a step (`TokenLimits.max_sequences`), at most.

        Raises:
            Exception: Whatever; the task that it is for fails, and no other.
        """
        ...

    def forget(self, number: int) -> None:
        """Keep it no longer; nothing to do for one that was not read."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadAdapter:
    """An adapter as a session has read it.

    Attributes:
        content: What the session holds of it; nobody else looks into it.
        rank: The largest of its matrices.
        targets: What it changes, for people.
        memory_bytes: What it takes.
    """

    content: Any
    rank: int
    targets: tuple[str, ...]
    memory_bytes: int


@runtime_checkable
class AdaptingSession(TokenSession, Protocol):
    """A session that computes sequences with adapters (LoRA), several in one step: `TokenBatch.adapters`.

    Each row is computed as if it were alone: as with the weights of its adapter added, or with none.
    """

    def read_adapter(self, path: Path) -> ReadAdapter:
        """Read one, a GGUF file or a folder of the `peft` package. Called from another thread, beside steps.

        What is at the path is gone when this has returned.

        Raises:
            LoadError: It cannot be read, is for another model, or does what is not added here.
        """
        ...

    def add_adapter(self, slot: int, adapter: ReadAdapter) -> None:
        """Have sequences of this slot, which is free, computed with it from the next step on. Called between steps.

        Slots are numbered from 0 on; the lowest that are free are taken.

        Raises:
            MemoryError: There is none.
        """
        ...

    def remove_adapter(self, slot: int) -> None:
        """No sequence has it any more; its slot is free. Called between steps."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class KvLayout:
    """What a KV block is outside of its session.

    A session takes a block that another one gave where both are of the same backend, files, settings but `sizes`,
    `TokenLimits.block_tokens`, `window_tokens` and `border_tokens`, and of equal layouts.

    Attributes:
        form: What else decides the bytes of a block: the format of numbers, say, and the instructions that made them.
        block_bytes: How many a block has, over all layers of the pool.
        window_block_bytes: How many one of layers with a window has; 0 where they have no pool of their own.
        sizes: Names of the backend's settings that change no byte of a block, but how many there are, or how fast.
    """

    form: str
    block_bytes: int
    window_block_bytes: int = 0
    sizes: frozenset[str] = frozenset()


@runtime_checkable
class KeepingSession(TokenSession, Protocol):
    """A session whose KV blocks can be taken out and put into another one: its prefix cache outlives it.

    Blocks of the pool of layers with a window are numbered from `TokenLimits.blocks` on. Called between steps.
    """

    @property
    def kv_layout(self) -> KvLayout:
        """What a block is outside of it; does not change."""
        ...

    def export_block(self, block: int) -> bytes | memoryview:
        """The bytes of a block; valid until the next call of any method."""
        ...

    def import_block(self, block: int, data: bytes) -> None:
        """Have a block hold what `export_block` gave for one of the same pool."""
        ...


class Attribution(Enum):
    """How a session tells what tokens are worth; the values are those of `inferd.v1.ExplanationMethod`."""

    GRADIENTS = 3
    ATTENTION = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class AttributionPass:
    """A sequence of T tokens, of which it is asked what those before its last `told` ones are worth for these.

    Attributes:
        method: How.
        token_ids: Shape (T,).
        told: How many of the last ones are explained; at least 1, and less than T.
        places: Of GRADIENTS: the tokens that are worth something, ascending; the others are as they are all the way.
        baseline_id: Of GRADIENTS: the token that the way begins with, in each of these places.
        at: Of GRADIENTS: how far on the way, 0 to 1.
        advance: As `TokenBatch.advance`.
    """

    method: Attribution
    token_ids: Int32Array
    told: int
    places: Int64Array
    baseline_id: int = 0
    at: float = 1.0
    advance: Callable[[], None] = _tell_nobody


@runtime_checkable
class AttributingSession(TokenSession, Protocol):
    """A session that looks into its network: what the tokens of a prompt are worth for those behind it.

    GRADIENTS: with embeddings `b + at * (x - b)` in `places`, the gradient of the logarithm of the probability of the
    last tokens, times `x - b`, summed over each token's numbers; 0 elsewhere. The mean over `at` is their part in what
    the last tokens are likelier by than with `baseline_id` in all of these places. ATTENTION: shares of attention, 0 or
    more.
    """

    @property
    def attributions(self) -> frozenset[Attribution]:
        """By what it can; does not change."""
        ...

    def attribute(self, asked: AttributionPass) -> Float32Array:
        """Compute it, shape (T - told,). Called between steps; the pool stays as it is.

        Raises:
            Exception: Whatever; the task that it is for fails, and no other.
        """
        ...
