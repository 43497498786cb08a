"""The first steps of a session, before it serves: what is compiled when it is first used is compiled at load.

The largest step is among them, so that a device that has too little memory for it says so at load.
"""

import numpy as np

from inferd.plugin import DeviceSampling, TokenBatch, TokenLimits
from inferd_torch.session import TorchSession

SOME_ROWS = 33


def warm(session: TorchSession) -> None:
    """Compute a step of each kind; what it leaves in the pool is nobody's.

    Raises:
        Exception: A step fails.
    """
    limits = session.limits
    for counts in find_kinds(limits):
        for sampled in (False, True):
            session.step(make_batch(counts, limits, sampled=sampled))


def find_kinds(limits: TokenLimits) -> list[list[int]]:
    """How many rows each sequence of the steps has: one, several, both, and the most; as far as there is room.

    Between few and many rows are those that tiles of another size compute, see `packed/kernels.py`.
    """
    kinds = [[1]]
    if min(limits.max_step_tokens, limits.context_tokens, limits.block_tokens) > 1:
        kinds.append([2])
        if min(limits.max_sequences, limits.blocks) > 1 and limits.max_step_tokens > 2:  # noqa: PLR2004 - 2 and 1
            kinds.append([2, 1])
    if min(limits.max_step_tokens, limits.context_tokens, limits.blocks * limits.block_tokens) >= SOME_ROWS:
        kinds.append([SOME_ROWS])
    return [*kinds, find_largest(limits)]


def find_largest(limits: TokenLimits) -> list[int]:
    """How many rows each sequence of the largest step has."""
    counts: list[int] = []
    left, blocks = limits.max_step_tokens, limits.blocks
    share = max(1, -(-limits.max_step_tokens // limits.max_sequences))
    while left and blocks and len(counts) < limits.max_sequences:
        count = min(share, left, limits.context_tokens, blocks * limits.block_tokens)
        counts.append(count)
        left -= count
        blocks -= -(-count // limits.block_tokens)
    return counts


def make_batch(counts: list[int], limits: TokenLimits, *, sampled: bool = False) -> TokenBatch:
    """Sequences with so many rows each, from their beginning, in blocks of their own; the last rows' logits.

    Args:
        counts: Rows of each.
        limits: Of the session.
        sampled: Have tokens drawn, with all that there is to choose by.
    """
    starts = np.cumsum([0, *counts]).astype(np.int32)
    used = [-(-count // limits.block_tokens) for count in counts]
    tables = np.full((len(counts), max(used)), -1, np.int32)
    first = 0
    for row, count in enumerate(used):
        tables[row, :count] = range(first, first + count)
        first += count
    rows = len(counts)
    sampling = DeviceSampling(
        temperatures=np.ones(rows, np.float32),
        top_k=np.full(rows, 5),
        top_p=np.full(rows, 0.9),
        min_p=np.full(rows, 0.01),
        points=np.full(rows, 0.5),
    )
    return TokenBatch(
        token_ids=np.zeros(starts[-1], np.int32),
        positions=np.concatenate([np.arange(count) for count in counts]).astype(np.int32),
        starts=starts,
        lengths=np.array(counts, np.int32),
        block_tables=tables,
        logit_rows=starts[1:] - 1,
        sampling=sampling if sampled else None,
    )
