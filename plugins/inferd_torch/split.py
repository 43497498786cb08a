"""Attention of single rows by block tables, the keys of each split into parts that are computed side by side.

The parts are flash-decoding's (https://pytorch.org/blog/flash-decoding/): each gives its own weighted mean of the
values and the logarithm of the sum of its weights, from which `combine` makes the whole. `attend_parts` states in
torch what `paged_decode.py` computes on CUDA; the two are compared by tests.
"""

import torch
from torch import Tensor

from inferd_torch.scoring import Scoring

TILE = 64  # keys that are read together; parts begin at whole tiles


def attend_split(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    tables: Tensor,
    lengths: Tensor,
    *,
    scoring: Scoring,
    parts: int = 4,
) -> Tensor:
    """Paged attention of queries (S, H, D); see `inferd_torch.attention.AttendRows`."""
    means, weights = attend_parts(queries, keys, values, tables, lengths, scoring=scoring, parts=parts)
    return combine(means, weights, scoring.sinks).to(values.dtype)


def combine(means: Tensor, weights: Tensor, sinks: Tensor | None = None) -> Tensor:
    """From the parts (S, H, P, E) and the logarithms of their weights (S, H, P) to the whole (S, H, E), float32.

    A part without keys has the weight -inf; at least one part of each row has keys.
    """
    if sinks is not None:
        sunk = sinks.float()[None, :, None].expand(len(weights), -1, 1)
        shares = torch.softmax(torch.cat((weights, sunk), dim=-1), dim=-1)[..., :-1]
    else:
        shares = torch.softmax(weights, dim=-1)
    return (shares[..., None] * means).sum(dim=-2)


def attend_parts(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    tables: Tensor,
    lengths: Tensor,
    *,
    scoring: Scoring,
    parts: int,
) -> tuple[Tensor, Tensor]:
    """The weighted means (S, H, P, E) and the logarithms of the weights (S, H, P), float32, without sinks."""
    block_tokens, shared = keys.shape[1], keys.shape[2]
    first = torch.zeros_like(lengths) if scoring.window is None else (lengths - scoring.window).clamp(min=0)
    share = part_tokens(lengths - first, parts)
    places = torch.arange(int(share.max()), device=keys.device)
    begin = first[:, None] + torch.arange(parts, device=keys.device) * share[:, None]
    positions = begin[:, :, None] + places  # (S, P, L)
    seen = (places < share[:, None, None]) & (positions < lengths[:, None, None])
    positions = torch.where(seen, positions, 0).long()
    rows = torch.arange(len(lengths), device=keys.device)[:, None, None]
    slots = tables[rows, positions // block_tokens].long() * block_tokens + positions % block_tokens
    grouped = queries.float().reshape(len(queries), shared, -1, queries.shape[-1])
    scores = scoring.of(torch.einsum("sgrd,splgd->sgrpl", grouped, keys.flatten(0, 1)[slots].float()))
    scores = scores.masked_fill(~seen[:, None, None], float("-inf")).flatten(1, 2)
    weights = torch.logsumexp(scores, dim=-1)
    shares = torch.exp(scores - weights.clamp(min=torch.finfo(torch.float32).min)[..., None])
    means = torch.einsum(
        "sgrpl,splge->sgrpe",
        shares.reshape(len(queries), shared, -1, *shares.shape[2:]),
        values.flatten(0, 1)[slots].float(),
    ).flatten(1, 2)
    return means, weights


def part_tokens(counts: Tensor, parts: int) -> Tensor:
    """How many keys a part has, whole tiles of them."""
    return (counts + parts * TILE - 1) // (parts * TILE) * TILE
