"""What bounds the engine: the kernel's configuration and what the session can do, as one value."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, field, fields
from typing import TYPE_CHECKING, Final

from inferd.engine.pictures.limits import PictureLimits
from inferd.plugin.session import least_window_blocks

if TYPE_CHECKING:
    from inferd.plugin import TokenLimits


CELL_MEMORY_BYTES: Final = 512 << 20
TEXT_TIMEOUT_S: Final = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class GrammarLimits:
    """How long grammars may take, and how many there may be.

    Attributes:
        compile_s: Most seconds of compiling one.
        step_s: Most seconds for one token of an output.
        wait_s: Most seconds that a step waits for them.
        most: Most that are kept at once, each in a process of its own.
    """

    compile_s: float = 5.0
    step_s: float = 1.0
    wait_s: float = 0.05
    most: int = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineLimits:
    """Bounds from the kernel's configuration.

    Attributes:
        step_tokens: Most tokens that one step computes.
        template_timeout_s: Most seconds that a chat template may take.
        text_timeout_s: Most seconds of turning a long text into tokens.
        max_output_tokens: Most output tokens of a task.
        gap_s: Most seconds that prompts may add to the time between two tokens of the streams beside them.
        draft_tokens: Most tokens that are guessed for a sequence in a step; 0 guesses none.
        cell_memory_bytes: Most memory that foreign code may take for one task.
        grammar: Those of grammars.
        picture: Those of pictures.
    """

    step_tokens: int = 512
    template_timeout_s: float = 2.0
    text_timeout_s: float = TEXT_TIMEOUT_S
    max_output_tokens: int = 8192
    gap_s: float = 0.2
    draft_tokens: int = 0
    cell_memory_bytes: int = CELL_MEMORY_BYTES
    grammar: GrammarLimits = field(default_factory=GrammarLimits)
    picture: PictureLimits = field(default_factory=PictureLimits)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What holds for one session under one configuration.

    Attributes:
        rows: Most sequences in one step: the tasks that can run at once.
        step_tokens: Most tokens in one step.
        sequence_tokens: Most tokens of one sequence, prompt and output: its context, or the whole pool if that is less.
        max_output_tokens: Most output tokens of one sequence.
        block_tokens: Tokens in a KV block.
        blocks: KV blocks in the pool.
        vocabulary_size: Number of logits in a row.
        draft_tokens: Most tokens that are guessed for a sequence in a step.
        embedding_size: Width of an embedding; 0 where the session gives none.
        whole_prompts: The session makes embeddings only, of sequences that are computed in one step each.
        forward_only: No token of a block that was begun is computed again.
        window_tokens: Tokens that layers with a window see, where those have a pool of their own.
        window_blocks: KV blocks of that pool; 0 where there is none.
        border_tokens: Sequences of more tokens are computed in another way, from their first token on; 0 for none.
        whole_pictures: No step ends between two tokens of a picture.
    """

    rows: int
    step_tokens: int
    sequence_tokens: int
    max_output_tokens: int
    block_tokens: int
    blocks: int
    vocabulary_size: int
    draft_tokens: int = 0
    embedding_size: int = 0
    whole_prompts: bool = False
    forward_only: bool = False
    window_tokens: int = 0
    window_blocks: int = 0
    border_tokens: int = 0
    whole_pictures: bool = False

    @property
    def kv_tokens(self) -> int:
        """Tokens that fit into the pool."""
        return self.blocks * self.block_tokens

    def check_hold(self, lease_id: str, *, sequences: int, kv_tokens: int) -> None:
        """Hold a lease to what there is.

        Raises:
            ValueError: It is more.
        """
        if sequences > self.rows or kv_tokens > self.kv_tokens:
            raise ValueError(
                f"lease {lease_id} is to hold {sequences} sequences and {kv_tokens} KV tokens; "
                f"the model has {self.rows} and {self.kv_tokens}"
            )

    @classmethod
    def of(cls, session: TokenLimits, engine: EngineLimits) -> Bounds:
        """Join both.

        Raises:
            ValueError: The session states a limit below 1, or below the default of one that has a default, or too few
                blocks for windows.
        """
        for item in fields(session):
            value, least = getattr(session, item.name), 1 if item.default is MISSING else item.default
            if value < least:
                raise ValueError(f"the session's limit {item.name} is {value}; it must be at least {least}")
        step_tokens = min(session.max_step_tokens, engine.step_tokens)
        sequence_tokens = min(session.context_tokens, session.blocks * session.block_tokens)
        rows = min(session.max_sequences, step_tokens)  # each running sequence needs one token of every step
        if session.window_blocks:
            least = least_window_blocks(
                window_tokens=session.window_tokens,
                block_tokens=session.block_tokens,
                sequences=rows,
                step_tokens=step_tokens,
            )
            if session.window_blocks < least or not session.window_tokens or session.whole_prompts:
                raise ValueError(
                    f"the session's limit window_blocks is {session.window_blocks}; for {rows} sequences with windows"
                    f" of {session.window_tokens} tokens it must be at least {least}, and 0 where prompts are whole"
                )
        return cls(
            rows=rows,
            step_tokens=step_tokens,
            sequence_tokens=min(sequence_tokens, step_tokens) if session.whole_prompts else sequence_tokens,
            max_output_tokens=engine.max_output_tokens,
            block_tokens=session.block_tokens,
            blocks=session.blocks,
            vocabulary_size=session.vocabulary_size,
            draft_tokens=0 if session.forward_only else engine.draft_tokens,
            embedding_size=session.embedding_size,
            whole_prompts=session.whole_prompts,
            forward_only=session.forward_only,
            window_tokens=session.window_tokens,
            window_blocks=session.window_blocks,
            border_tokens=session.border_tokens,
            whole_pictures=session.whole_pictures,
        )
