"""Choosing tokens on the device, so that a step returns a number for each row and not a row of logits.

What all rows are chosen by is one table, so that one copy takes it to the device. `draw` states in torch what
`draw_kernels.py` computes on CUDA; the two are compared by tests.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inferd.plugin import DeviceSampling
from inferd_torch.capacity import DRAWN_LOGITS
from inferd_torch.sending import send

NO_TOKEN = -1
MOST_RANKED = 1024  # tokens of which a row is drawn that are found without all being sorted
COLUMNS = ("temperatures", "top_k", "top_p", "min_p", "points")
"""Of the table, all float64: top-k is exact as such a number, it is below the size of a vocabulary or keeps all."""

Draw = Callable[[Tensor, Tensor, Tensor], None]
"""Chooses the token of each row of logits (R, V) by a table (5, R), see `COLUMNS`, into `tokens` (R,), int64."""


def write_table(sampling: DeviceSampling, into: NDArray[np.float64]) -> None:
    """Write a table (5, R) on the host."""
    for column, name in zip(into, COLUMNS, strict=True):
        column[:] = getattr(sampling, name)


def choose(logits: Tensor, sampling: DeviceSampling, draw: Draw | None = None, into: Tensor | None = None) -> Tensor:
    """The token of each row, shape (R,), int64, as `DeviceSampling` describes it.

    Args:
        logits: Shape (R, V), on the device.
        sampling: On the host.
        draw: What chooses; None for what is stated here.
        into: Where they go; None for a place of their own.
    """
    table = np.empty((len(COLUMNS), len(logits)))
    write_table(sampling, table)
    tokens = torch.empty(len(logits), dtype=torch.int64, device=logits.device) if into is None else into
    (draw or draw_sorted)(logits, send(table, logits.device), tokens)
    return tokens


def draw_sorted(logits: Tensor, table: Tensor, tokens: Tensor) -> None:
    """See `Draw`: in torch, for the processor; on other devices each kind of rows would be asked for by the host."""
    peaks, ids = logits.max(dim=1)
    temperatures, top_k, top_p, *_ = table
    few = (top_k > 0) & (top_k <= min(MOST_RANKED, logits.shape[1]))
    cut = ((top_k > 0) | (top_p < 1)) & ~few
    drawn = temperatures > 0
    most = max(1, DRAWN_LOGITS // logits.shape[1])
    for rows, pick in ((drawn & ~few & ~cut, _draw_by_id), (drawn & few, _draw_of_few), (drawn & cut, _draw_by_rank)):
        for some in rows.nonzero()[:, 0].split(most):
            if len(some):
                columns = _Columns(table[:, some])
                ids[some] = pick(_weigh(logits[some].float(), peaks[some].float(), columns.temperatures), columns)
    tokens.copy_(torch.where(torch.isfinite(peaks), ids, NO_TOKEN))


class _Columns:
    """The parameters of some rows, each shape (R, 1), on the device; and the largest `top_k` of them."""

    def __init__(self, table: Tensor) -> None:
        self.most = int(table[1].max())
        self.temperatures, self.top_k, self.top_p, self.min_p, self.points = table[:, :, None]


def _weigh(logits: Tensor, peaks: Tensor, temperatures: Tensor) -> Tensor:
    """The weight of each token, 1 for the likeliest one; takes the logits over.

    A row that is not finite gets weights that are: with NaN no place is found below a point, and what is then looked
    up lies outside the row, which costs a device all that computes on it. `choose` puts no token there.
    """
    sound = torch.isfinite(peaks)[:, None]
    logits.sub_(torch.where(sound, peaks[:, None], 0.0)).masked_fill_(~sound, 0.0)
    return logits.div_(temperatures.float()).exp_()


def _draw_by_id(weights: Tensor, columns: _Columns) -> Tensor:
    weights.masked_fill_(weights < columns.min_p, 0.0)
    return _pick(weights, columns.points)[:, 0]


def _draw_by_rank(weights: Tensor, columns: _Columns) -> Tensor:
    return _draw_ranked(*weights.sort(dim=1, descending=True, stable=True), columns)


def _draw_of_few(weights: Tensor, columns: _Columns) -> Tensor:
    """As `_draw_by_rank` where each row has a `top_k`: what is beyond the largest of them is not sorted.

    Of equal weights the one of the lower number is before the other, as where all are sorted: what is ranked are whole
    numbers, whose upper half is the weight, of which no two are equal. Weights are not negative: their bits have their
    order.
    """
    last = weights.shape[1] - 1
    keys = (weights.view(torch.int32).long() << 32).add_(torch.arange(last, -1, -1, device=weights.device))
    best = keys.topk(columns.most, dim=1).values
    order = last - (best & 0xFFFFFFFF)
    return _draw_ranked(weights.gather(1, order), order, columns)


def _draw_ranked(ranked: Tensor, order: Tensor, columns: _Columns) -> Tensor:
    places = torch.arange(ranked.shape[1], device=ranked.device)[None]
    ranked.masked_fill_((columns.top_k > 0) & (places >= columns.top_k), 0.0)
    sums = ranked.cumsum(dim=1, dtype=torch.float64)
    most = columns.top_p * sums[:, -1:]
    before = sums.sub_(ranked)
    ranked.masked_fill_((before >= most) | (ranked < columns.min_p), 0.0)
    del sums, before
    return order.gather(1, _pick(ranked, columns.points))[:, 0]


def _pick(weights: Tensor, points: Tensor) -> Tensor:
    """The first place of each row whose running sum exceeds the point, shape (R, 1); never one of weight 0."""
    sums = weights.cumsum(dim=1, dtype=torch.float64)
    total = sums[:, -1:]
    target = torch.minimum(points * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(sums, target, right=True).clamp_(max=weights.shape[1] - 1)
