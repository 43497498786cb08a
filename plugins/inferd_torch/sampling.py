"""Choosing tokens on the device, so that a step returns a number for each row and not a row of logits."""

import numpy as np
import torch
from torch import Tensor

from inferd.plugin import DeviceSampling
from inferd_torch.capacity import DRAWN_LOGITS

NO_TOKEN = -1
MOST_RANKED = 1024  # tokens of which a row is drawn that are found without all being sorted


def choose_likeliest(logits: Tensor) -> Tensor:
    """The likeliest token of each row, shape (R,), int32; `NO_TOKEN` where a row is not finite."""
    peaks, ids = logits.max(dim=1)
    return torch.where(torch.isfinite(peaks), ids, NO_TOKEN).int()


def choose(logits: Tensor, sampling: DeviceSampling, likeliest: Tensor | None = None) -> Tensor:
    """The token of each row, shape (R,), as `DeviceSampling` describes it.

    Args:
        logits: Shape (R, V), on the device.
        sampling: On the host.
        likeliest: What `choose_likeliest` gave for them, if it was asked already.
    """
    drawn = np.flatnonzero(sampling.temperatures > 0)
    if not drawn.size:
        return choose_likeliest(logits) if likeliest is None else likeliest
    peaks, ids = logits.max(dim=1)
    few = (sampling.top_k > 0) & (sampling.top_k <= min(MOST_RANKED, logits.shape[1]))
    cut = ((sampling.top_k > 0) | (sampling.top_p < 1)) & ~few
    for rows, pick in (
        (drawn[~(few | cut)[drawn]], _draw_by_id),
        (drawn[few[drawn]], _draw_of_few),
        (drawn[cut[drawn]], _draw_by_rank),
    ):
        most = max(1, DRAWN_LOGITS // logits.shape[1])
        for some in (rows[begin : begin + most] for begin in range(0, len(rows), most)):
            index = torch.from_numpy(some).to(logits.device)
            columns = _Columns(sampling, some, logits.device)
            ids[index] = pick(_weigh(logits[index].float(), peaks[index].float(), columns.temperatures), columns)
    return torch.where(torch.isfinite(peaks), ids, NO_TOKEN).int()


class _Columns:
    """The parameters of some rows, each shape (R, 1), on the device; and the largest `top_k` of them."""

    def __init__(self, sampling: DeviceSampling, rows: np.ndarray, device: torch.device) -> None:
        names = ("temperatures", "top_k", "top_p", "min_p", "points")
        # One copy for all: top-k is exact as a float, it is below the size of a vocabulary or keeps all.
        table = torch.from_numpy(np.stack([np.float64(getattr(sampling, name)[rows]) for name in names])).to(device)
        self.most = int(sampling.top_k[rows].max())
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
