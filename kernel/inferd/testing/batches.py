"""Batches written out by hand, to ask a session for exactly one thing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from inferd.engine.token.results import Results, check_array
from inferd.plugin import TokenBatch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inferd.plugin import TokenSession
    from inferd.plugin.session import Float32Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One sequence's share of a step.

    Attributes:
        token_ids: The tokens to compute.
        begin: Position of the first of them.
        blocks: Blocks of the sequence, from its position 0 on.
        wanted: Which of the tokens' logits are wanted, by index, ascending; None for all.
        window: The blocks of layers with a window, where those have a pool of their own; None for the same numbers.
        beyond: Whether it is computed as longer than the session's border; None: if it ends behind that.
    """

    token_ids: Sequence[int]
    begin: int = 0
    blocks: Sequence[int]
    wanted: Sequence[int] | None = None
    window: Sequence[int] | None = None
    beyond: bool | None = None


def make_batch(parts: Sequence[Part], *, windows: bool = False, border: int = 0) -> TokenBatch:
    """The parts as one step; `windows`: with tables of layers with a window; `border`: the session's."""
    starts = np.cumsum([0, *(len(part.token_ids) for part in parts)])
    wanted = [range(len(part.token_ids)) if part.wanted is None else part.wanted for part in parts]
    tables = np.full((2, len(parts), max(len(part.blocks) for part in parts)), -1, np.int32)
    for row, part in enumerate(parts):
        tables[0, row, : len(part.blocks)] = part.blocks
        seen = part.blocks if part.window is None else part.window
        tables[1, row, : len(seen)] = seen
    lengths = np.array([part.begin + len(part.token_ids) for part in parts], np.int32)
    beyond = [
        length > border if part.beyond is None else part.beyond for part, length in zip(parts, lengths, strict=True)
    ]
    return TokenBatch(
        token_ids=np.array([token for part in parts for token in part.token_ids], np.int32),
        positions=np.array([part.begin + n for part in parts for n in range(len(part.token_ids))], np.int32),
        starts=starts.astype(np.int32),
        lengths=lengths,
        block_tables=tables[0],
        window_tables=tables[1] if windows else None,
        beyond=np.array(beyond, np.bool_) if border else None,
        logit_rows=np.array([starts[row] + n for row, some in enumerate(wanted) for n in some], np.int32),
    )


def compute(session: TokenSession, *parts: Part) -> list[Float32Array]:
    """The logits of each part, copied, each of shape (wanted, V).

    Raises:
        AssertionError: The session gave something else.
    """
    limits = session.limits
    batch = make_batch(parts, windows=limits.window_blocks > 0, border=limits.border_tokens)
    result = Results().step(session, batch)
    shape = (len(batch.logit_rows), session.limits.vocabulary_size)
    try:
        logits = np.array(check_array("logits", result.logits, shape, "float32"))
    except (TypeError, ValueError) as error:
        raise AssertionError(str(error)) from error
    counts = [len(part.token_ids) if part.wanted is None else len(part.wanted) for part in parts]
    return np.split(logits, np.cumsum(counts)[:-1])


def copy_blocks(session: TokenSession, pairs: Sequence[tuple[int, int]]) -> None:
    """Copy blocks, and those of the same numbers of layers with a window."""
    limits = session.limits
    more = [(limits.blocks + source, limits.blocks + target) for source, target in pairs if limits.window_blocks]
    session.copy_blocks([*pairs, *more])
