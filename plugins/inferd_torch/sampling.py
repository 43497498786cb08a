"""Choosing tokens on the device, so that a step returns a number for each row and not a row of logits."""

import numpy as np
import torch
from torch import Tensor

from inferd.plugin import DeviceSampling

NO_TOKEN = -1


def choose(logits: Tensor, sampling: DeviceSampling) -> Tensor:
    """The token of each row, shape (R,), as `DeviceSampling` describes it.

    Args:
        logits: Shape (R, V), on the device.
        sampling: On the host.
    """
    logits = logits.float()
    peaks, ids = logits.max(dim=1)
    drawn = np.flatnonzero(sampling.temperatures > 0)
    if drawn.size:
        some = torch.from_numpy(drawn).to(logits.device)
        ids[some] = _draw(logits[some], peaks[some], _Columns(sampling, drawn, logits.device))
    return torch.where(torch.isfinite(peaks), ids, NO_TOKEN)


class _Columns:
    """The parameters of some rows, each shape (R, 1), on the device."""

    def __init__(self, sampling: DeviceSampling, rows: np.ndarray, device: torch.device) -> None:
        def column(values: np.ndarray) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(values[rows])).to(device)[:, None]

        self.temperatures = column(sampling.temperatures)
        self.top_k = column(sampling.top_k)
        self.top_p = column(sampling.top_p)
        self.min_p = column(sampling.min_p)
        self.points = column(sampling.points)
        self.any_cut = bool(((sampling.top_k[rows] > 0) | (sampling.top_p[rows] < 1)).any())


def _draw(logits: Tensor, peaks: Tensor, columns: _Columns) -> Tensor:
    weights = ((logits - peaks[:, None]) / columns.temperatures).exp().double()
    by_id = _pick(torch.where(weights < columns.min_p, 0.0, weights), columns.points)
    if not columns.any_cut:
        return by_id[:, 0]
    ranked, order = weights.sort(dim=1, descending=True, stable=True)
    places = torch.arange(ranked.shape[1], device=ranked.device)[None]
    ranked = torch.where((columns.top_k > 0) & (places >= columns.top_k), 0.0, ranked)
    sums = ranked.cumsum(dim=1)
    before = sums - ranked
    kept = (before < columns.top_p * sums[:, -1:]) & (ranked >= columns.min_p) & (ranked > 0)
    by_rank = order.gather(1, _pick(torch.where(kept, ranked, 0.0), columns.points))
    cut = (columns.top_k > 0) | (columns.top_p < 1)
    return torch.where(cut, by_rank, by_id)[:, 0]


def _pick(weights: Tensor, points: Tensor) -> Tensor:
    """The first place of each row whose running sum exceeds the point, shape (R, 1); never one of weight 0."""
    sums = weights.cumsum(dim=1)
    total = sums[:, -1:]
    target = torch.minimum(points * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(sums, target, right=True)
