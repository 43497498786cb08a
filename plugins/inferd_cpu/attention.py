"""Attention of a group of rows over keys and values that lie scattered in the blocks of the pool."""

import numpy as np
from numpy.typing import NDArray

from inferd_cpu.plan import Group
from inferd_cpu.workspace import Workspace

Floats = NDArray[np.float32]


def attend(
    queries: Floats,
    keys: Floats,
    values: Floats | None,
    *,
    group: Group,
    workspace: Workspace,
    out: Floats,
    cap: float = 0.0,
    sinks: Floats | None = None,
    slopes: Floats | None = None,
) -> None:
    """Scaled-dot-product attention (arXiv:1706.03762), grouped queries (arXiv:2305.13245), paged (arXiv:2309.06180).

    T is the number of rows of the step, H that of key and value heads, G the query heads of each, B the tokens of a
    block, D and E the widths of keys and values.

    Args:
        queries: Scaled; shape (T, H, G, D).
        keys: Of one layer, shape (blocks, B, H, D).
        values: Of one layer, shape (blocks, B, H, E); None: the first E numbers of each key are its value.
        group: The rows that are computed.
        workspace: Its keys, values and scores are overwritten.
        out: Shape (T, H, G, E); the rows of the group are set.
        cap: Scores s become cap * tanh(s / cap); 0 for no cap.
        sinks: A score of each head that belongs to no key, shape (H, G).
        slopes: By how much the scores of each head fall with each token between, shape (H, G).
    """
    (sequences, rows), (heads, shared, width) = group.rows.shape, queries.shape[1:]
    gathered_keys = _gather(keys, group, workspace.keys)
    gathered_values = (
        _gather(values, group, workspace.values) if values is not None else gathered_keys[..., : out.shape[-1]]
    )
    # One product for each sequence and key head: the rows of all query heads that share it, times its keys.
    stacked = queries[group.rows].transpose(0, 2, 1, 3, 4).reshape(sequences, heads, rows * shared, width)
    shape = (sequences, heads, rows, shared, group.keys)
    scores = workspace.scores[: np.prod(shape)].reshape(sequences, heads, rows * shared, group.keys)
    np.matmul(stacked, gathered_keys.transpose(0, 2, 3, 1), out=scores)
    if cap:
        scores /= np.float32(cap)
        np.tanh(scores, out=scores)
        scores *= np.float32(cap)
    if slopes is not None:
        between = group.positions[:, :, None] - group.first_keys[:, None, None] - np.arange(group.keys)
        distances = np.abs(between).astype(np.float32)[:, None, :, None]
        scores.reshape(shape)[...] -= slopes[None, :, None, :, None] * distances
    scores.reshape(shape)[..., group.masked_from :] += group.mask[:, None, :, None, :]
    most = scores.max(axis=-1, keepdims=True)
    if sinks is not None:
        sunk = np.broadcast_to(sinks[None, :, None], shape[:-1]).reshape(*scores.shape[:-1], 1)
        most = np.maximum(most, sunk)
    scores -= most
    np.exp(scores, out=scores)
    mixed = scores @ gathered_values.transpose(0, 2, 1, 3)
    total = scores.sum(axis=-1, keepdims=True)
    mixed /= total if sinks is None else total + np.exp(sunk - most)
    out[group.rows] = mixed.reshape(sequences, heads, rows, shared, -1).transpose(0, 2, 1, 3, 4)


def make_slopes(heads: int, bias: float) -> Floats:
    """The slope of each head (ALiBi, arXiv:2108.12409): a geometric series, and between its terms the rest of them."""
    whole = 1 << (heads.bit_length() - 1)
    series = 2.0 ** (-bias * np.arange(1, whole + 1) / whole)
    rest = 2.0 ** (-bias * np.arange(1, 2 * whole, 2) / (2 * whole))
    return np.concatenate([series, rest])[:heads].astype(np.float32)


def _gather(pool: Floats, group: Group, buffer: Floats) -> Floats:
    """The tokens of each sequence of the group one after the other: shape (S, L, H, D), a view of `buffer`."""
    sequences, blocks = group.blocks.shape
    flat = pool.reshape(len(pool), -1)
    taken = buffer[: sequences * blocks * flat.shape[1]].reshape(sequences * blocks, -1)
    np.take(flat, group.blocks.reshape(-1), axis=0, out=taken, mode="clip")  # any other mode makes a copy first
    return taken.reshape(sequences, blocks * pool.shape[1], *pool.shape[2:])[:, : group.keys]
