"""Choosing tokens from logits, vectorised over the rows of a step.

The filters apply in the order temperature, top-k, top-p, each to what the one before left, as in Hugging Face
transformers. Equal logits are ordered by id, the lowest first. Sums are in float64. A row's token depends on its
logits, its parameters, its seed and its position, and on nothing else in the batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from inferd.engine.philox import uniform

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from inferd.core.task import Sampling
    from inferd.plugin.session import Float32Array, Int32Array

    Ids = NDArray[np.intp]
    Floats = NDArray[np.float64]

BAD_ROW: Final = -1
"""Chosen for a row whose logits are not finite."""

_COLDEST: Final = 1e-6  # below, the neighbour of the best float32 logit gets no weight that matters: greedy
_CANDIDATES: Final = 512  # a nucleus is looked for among so many first,
_WIDENING: Final = 16  # and then among this many times more
_GROUP: Final = 1 << 18  # logits that are worked on at once: they stay in a core's cache


class Sampler:
    """The sampling parameters of each row, and the choice of its next token. One writer: the batcher.

    Args:
        rows: Most sequences in one step.
        vocabulary_size: Number of logits in a row.
    """

    def __init__(self, *, rows: int, vocabulary_size: int) -> None:
        self._vocabulary_size = vocabulary_size
        self._index = np.arange(rows)
        self._temperature = np.zeros(rows, np.float32)
        self._top_k = np.zeros(rows, np.int64)
        self._top_p = np.ones(rows, np.float64)
        self._seed = np.zeros(rows, np.uint64)

    def assign(self, row: int, sampling: Sampling) -> None:
        """Give a row its parameters. A temperature below 1e-6 is greedy; a top-k of all tokens keeps all."""
        self._temperature[row] = sampling.temperature if sampling.temperature >= _COLDEST else 0
        self._top_k[row] = sampling.top_k if sampling.top_k < self._vocabulary_size else 0
        self._top_p[row] = sampling.top_p
        self._seed[row] = sampling.seed

    def move(self, source: int, target: int) -> None:
        """Give row `target` the parameters of row `source`."""
        for column in (self._temperature, self._top_k, self._top_p, self._seed):
            column[target] = column[source]

    def choose(self, logits: Float32Array, positions: Int32Array) -> Ids:
        """The next token of each of the first R rows, shape (R,); `BAD_ROW` where the logits are not finite.

        Args:
            logits: Shape (R, V); not changed.
            positions: Position of the new token in its sequence, shape (R,).

        Raises:
            ValueError: The logits have another shape.
        """
        rows = len(positions)
        if logits.shape != (rows, self._vocabulary_size):
            raise ValueError(f"the logits have shape {logits.shape}, not {(rows, self._vocabulary_size)}")
        ids: Ids = logits.argmax(axis=1)
        peaks = logits[self._index[:rows], ids]
        finite = np.isfinite(peaks)  # argmax finds NaN and +inf first, and -inf only where there is nothing else
        drawn = np.flatnonzero((self._temperature[:rows] > 0) & finite)
        if drawn.size:
            points = uniform(self._seed[drawn], positions[drawn])
            group = max(1, _GROUP // self._vocabulary_size)
            for some in (slice(at, at + group) for at in range(0, len(drawn), group)):
                ids[drawn[some]] = self._draw(logits[drawn[some]], drawn[some], points[some])
        if not finite.all():
            ids[~finite] = BAD_ROW
        return ids

    def _draw(self, logits: Float32Array, rows: Ids, points: Floats) -> Ids:
        """Draw from the rows of `logits`, which belong to the rows `rows` of the tables."""
        weights = logits - logits.max(axis=1, keepdims=True)
        with np.errstate(over="ignore"):  # a logit far below the peak has the weight 0
            weights /= self._temperature[rows, None]
        np.exp(weights, out=weights)
        top_k, top_p = self._top_k[rows], self._top_p[rows]
        cut = (top_k > 0) | (top_p < 1)
        if not cut.any():
            return _pick(weights, points)
        if cut.all():
            return _pick_cut(logits, weights, top_k, top_p, points)
        ids = np.empty(len(rows), np.intp)
        ids[~cut] = _pick(weights[~cut], points[~cut])
        ids[cut] = _pick_cut(logits[cut], weights[cut], top_k[cut], top_p[cut], points[cut])
        return ids


def _pick(weights: Float32Array, points: Floats) -> Ids:
    """The token at `points` (in [0, 1)) of each row's distribution: first the block of weights, then inside it."""
    size = weights.shape[1]
    block = 1 << size.bit_length() // 2  # about the square root: both searches are equally long
    sums = np.add.reduceat(weights, np.arange(0, size, block), axis=1, dtype=np.float64).cumsum(axis=1)
    targets = points * sums[:, -1]
    found = _find(sums, targets)[:, None]
    before = np.where(found > 0, np.take_along_axis(sums, np.maximum(found - 1, 0), axis=1), 0)[:, 0]
    ids = found * block + np.arange(block)
    inside = np.take_along_axis(weights, np.minimum(ids, size - 1), axis=1).astype(np.float64)
    inside[ids >= size] = 0
    chosen: Ids = found[:, 0] * block + _find(inside.cumsum(axis=1), targets - before)
    return chosen


def _pick_cut(
    logits: Float32Array,
    weights: Float32Array,
    top_k: Ids,
    top_p: Floats,
    points: Floats,
    *,
    candidates: int = _CANDIDATES,
) -> Ids:
    """As `_pick`, from the tokens that top-k and then top-p leave; looks for the nucleus among `candidates` first."""
    size = logits.shape[1]
    order, held = _best(logits, min(int(np.where(top_k > 0, top_k, candidates).max()), size))
    sums, total = _prefix_sums(weights, order, held, top_k)
    goal = top_p * total
    kept = np.minimum((sums < goal[:, None]).sum(axis=1), order.shape[1] - 1)
    mass = np.take_along_axis(sums, kept[:, None], axis=1)
    place = _find(np.minimum(sums, mass), points * mass[:, 0])
    ids: Ids = np.take_along_axis(order, place[:, None], axis=1)[:, 0]
    wide = np.flatnonzero(sums[:, -1] < goal) if order.shape[1] < size else ()
    if len(wide):
        more = candidates * _WIDENING
        ids[wide] = _pick_cut(logits[wide], weights[wide], top_k[wide], top_p[wide], points[wide], candidates=more)
    return ids


def _prefix_sums(weights: Float32Array, order: Ids, held: NDArray[np.bool_], top_k: Ids) -> tuple[Floats, Floats]:
    """Sums of the weights in `order`, as far as `held` and top-k allow, and the weight of all that top-k leaves."""
    ranked = np.take_along_axis(weights, order, axis=1).astype(np.float64)
    limited = top_k[:, None] > 0
    ranked[~held | (limited & (np.arange(order.shape[1]) >= top_k[:, None]))] = 0
    sums = ranked.cumsum(axis=1)
    return sums, np.where(limited[:, 0], sums[:, -1], weights.sum(axis=1, dtype=np.float64))


def _best(logits: Float32Array, width: int) -> tuple[Ids, NDArray[np.bool_]]:
    """The ids of each row's best `width` logits and all that equal the last of them, best first.

    Returns:
        Ids, shape (R, W) with W >= `width`, and whether each place holds one; the others are 0.
    """
    rows, size = logits.shape
    if width == size:
        return np.argsort(-logits, axis=1, kind="stable"), np.ones(logits.shape, np.bool_)
    edge = np.partition(logits, size - width, axis=1)[:, size - width]
    row, ids = np.nonzero(logits >= edge[:, None])
    counts = np.bincount(row, minlength=rows)
    place = np.arange(len(ids)) - np.repeat(counts.cumsum() - counts, counts)
    found = np.zeros((rows, counts.max()), np.intp)
    values = np.full(found.shape, -np.inf, np.float32)
    found[row, place], values[row, place] = ids, logits[row, ids]
    order = np.argsort(-values, axis=1, kind="stable")  # stable: lowest id first among equals, padding last
    return np.take_along_axis(found, order, axis=1), np.arange(found.shape[1]) < counts[:, None]


def _find(sums: Floats, targets: Floats) -> Ids:
    """The first place of each row whose running sum exceeds the target; a place of weight 0 is never found."""
    below = np.minimum(targets, np.nextafter(sums[:, -1], 0))
    places: Ids = (sums <= below[:, None]).sum(axis=1)
    return places
