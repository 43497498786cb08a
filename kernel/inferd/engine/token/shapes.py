"""Filters that fewer tasks ask for: top-n-sigma, typical-p and XTC, one row at a time.

The order of all is that of llama.cpp, but for the temperature, which comes before them as everywhere here: top-n-sigma,
temperature, top-k, typical-p, top-p, min-p, XTC, each of what the one before left. Each leaves one token at least. What
is left of a row depends on its logits, its parameters, its seed and its position.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from inferd.plugin.session import Float32Array
    from inferd.sampling import Sampling

    Ids = NDArray[np.intp]
    Floats = NDArray[np.float64]

LOT: Final = np.uint64(0x5EED0F7C)
"""Makes, of a row's seed, the seed of the points by which XTC is done or not."""

_LEAST: Final = 1e-300  # shares of less would be 0 divided by the sum of a vocabulary's

_SOME: Final = 512  # places that are put in order first
_WIDENING: Final = 16  # so many times more where their mass does not suffice


class Cut(NamedTuple):
    """What the other filters ask for: a temperature above 0, most tokens (0: all), their mass, and the least weight."""

    heat: float
    most: int
    mass: float
    least: float


class Shape(NamedTuple):
    """What a row asks for; a field that is neutral (0, 1, 0) leaves all."""

    sigmas: float
    typical: float
    chance: float
    threshold: float

    @classmethod
    def of(cls, sampling: Sampling) -> Shape | None:
        """The shape of a task; None where it asks for none of these filters."""
        shape = cls(sampling.top_n_sigma, sampling.typical_p, sampling.xtc_probability, sampling.xtc_threshold)
        return None if shape[:3] == (0, 1, 0) else shape

    def leave(self, logits: Float32Array, cut: Cut, lot: float) -> tuple[Ids, Floats]:
        """The tokens that are left of a row, by id, and their probabilities.

        Args:
            logits: Shape (V,); one at least is finite, and none is infinite or NaN.
            cut: What the other filters ask for.
            lot: In [0, 1): below the chance of XTC it is done.
        """
        ids: Ids = np.flatnonzero(logits > -np.inf)
        values = logits[ids].astype(np.float64)
        if self.sigmas:
            some = values >= values.max() - self.sigmas * values.std()
            ids, values = ids[some], values[some]
        if 0 < cut.most < len(ids):
            best = _largest(values, cut.most)
            ids, values = ids[best], values[best]
        shares = np.exp((values - values.max()) / cut.heat)
        ids, shares = _keep(ids, shares, shares > _LEAST)
        if self.typical < 1:
            surprise = -np.log(shares)
            strange = np.abs(surprise - (shares * surprise).sum())
            ids, shares = _keep(ids, shares, _first(strange, shares, self.typical))
        if cut.mass < 1:
            ids, shares = _keep(ids, shares, _first(-shares, shares, cut.mass))
        if cut.least:
            ids, shares = _keep(ids, shares, shares >= cut.least * shares.max())
        if lot < self.chance:
            ids, shares = _keep(ids, shares, _without_top(shares, self.threshold))
        return ids, shares

    def pick(self, logits: Float32Array, cut: Cut, point: float, lot: float) -> int:
        """The token at `point`, in [0, 1), of what is left of a row."""
        ids, shares = self.leave(logits, cut, lot)
        sums = shares.cumsum()
        place = np.searchsorted(sums, point * sums[-1], side="right")
        return int(ids[min(int(place), len(ids) - 1)])


def _keep(ids: Ids, shares: Floats, some: NDArray[np.bool_] | Ids) -> tuple[Ids, Floats]:
    """Some tokens, and their probabilities among themselves."""
    kept = shares[some]
    return ids[some], kept / kept.sum()


def _largest(values: Floats, most: int) -> Ids:
    """The places of the largest values, in their order; of equal ones the first."""
    edge = np.partition(values, len(values) - most)[len(values) - most]
    near = np.flatnonzero(values >= edge)
    best: Ids = np.sort(near[np.argsort(-values[near], kind="stable")[:most]])
    return best


def _first(ranks: Floats, shares: Floats, mass: float) -> Ids:
    """The places of the lowest ranks whose shares add up to at least this mass, in their order."""
    some = _SOME
    while True:  # most often few are enough: to put a whole vocabulary in order costs more than all else
        if some < len(ranks):
            near = np.flatnonzero(ranks <= np.partition(ranks, some - 1)[some - 1])
            order = near[np.argsort(ranks[near], kind="stable")]
        else:
            order = np.argsort(ranks, kind="stable")
        sums = shares[order].cumsum()
        if some >= len(ranks) or sums[-1] >= mass:
            first: Ids = np.sort(order[: int(np.searchsorted(sums, mass)) + 1])
            return first
        some *= _WIDENING


def _without_top(shares: Floats, threshold: float) -> NDArray[np.bool_]:
    """Which tokens are left without those of at least this probability; the least likely one of them stays."""
    some = shares < threshold
    top = np.flatnonzero(~some)
    if top.size:
        some[top[np.flatnonzero(shares[top] == shares[top].min())[-1]]] = True
    return some
