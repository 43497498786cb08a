"""Choosing tokens on the device, so that a step returns a number for each row and not a row of logits."""

import numpy as np
import torch
from torch import Tensor

from inferd.plugin import DeviceSampling
from inferd_torch.capacity import DRAWN_LOGITS

NO_TOKEN = -1


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
    cut = (sampling.top_k > 0) | (sampling.top_p < 1)
    for rows, pick in ((drawn[~cut[drawn]], _draw_by_id), (drawn[cut[drawn]], _draw_by_rank)):
        most = max(1, DRAWN_LOGITS // logits.shape[1])
        for some in (rows[begin : begin + most] for begin in range(0, len(rows), most)):
            index = torch.from_numpy(some).to(logits.device)
            columns = _Columns(sampling, some, logits.device)
            ids[index] = pick(_weigh(logits[index].float(), peaks[index].float(), columns.temperatures), columns)
    return torch.where(torch.isfinite(peaks), ids, NO_TOKEN).int()


class _Columns:
    """The parameters of some rows, each shape (R, 1), on the device."""

    def __init__(self, sampling: DeviceSampling, rows: np.ndarray, device: torch.device) -> None:
        names = ("temperatures", "top_k", "top_p", "min_p", "points")
        # One copy for all: top-k is exact as a float, it is below the size of a vocabulary or keeps all.
        table = torch.from_numpy(np.stack([np.float64(getattr(sampling, name)[rows]) for name in names])).to(device)
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
    ranked, order = weights.sort(dim=1, descending=True, stable=True)
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
