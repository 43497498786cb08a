"""What a coordinator makes of updates: the next weights.

FedAvg (McMahan et al. 2017), FedAdam (Reddi et al. 2021), the trimmed mean (Yin et al. 2018), Krum and multi-Krum
(Blanchard et al. 2017). FedProx (Li et al. 2020) differs at the clients alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

BETAS: Final = (0.9, 0.99)
ROUNDING: Final = 1e-9
"""Of shares: three tenths of ten are three."""
TAU: Final = 1e-3
"""FedAdam's: how far it adapts; as the paper has it."""


@dataclass(frozen=True, slots=True)
class Moments:
    """What FedAdam keeps from round to round: means of changes and of their squares."""

    first: Floats
    second: Floats


def fed_adam(change: Floats, moments: Moments, learning_rate: float) -> tuple[Floats, Moments]:
    """The step that a mean change gives, and the moments with it."""
    first = BETAS[0] * moments.first + (1 - BETAS[0]) * change
    second = BETAS[1] * moments.second + (1 - BETAS[1]) * change**2
    return learning_rate * first / (np.sqrt(second) + TAU), Moments(first, second)


def trimmed_mean(updates: Sequence[Floats], trim: float) -> Floats:
    """The mean of each number without this share of the highest ones and of the lowest ones, rounded up.

    Raises:
        ValueError: Nothing would be left.
    """
    cut = math.ceil(trim * len(updates) - ROUNDING)
    if 2 * cut >= len(updates):
        raise ValueError(f"trimming {cut} of {len(updates)} updates at each end leaves none")
    ordered = np.sort(np.stack(updates), axis=0)
    mean: Floats = ordered[cut : len(updates) - cut].mean(axis=0)
    return mean


def krum(updates: Sequence[Floats], *, false: int, keep: int) -> tuple[Floats, list[int]]:
    """The mean of the `keep` updates that are nearest to the others, and which these are.

    Args:
        updates: At least 2 * false + 3.
        false: How many of them may be made by who wants to do harm.
        keep: 1 for Krum, more for multi-Krum.

    Raises:
        ValueError: There are too few.
    """
    count = len(updates)
    if count < 2 * false + 3:
        raise ValueError(f"Krum with {false} false updates needs {2 * false + 3}, and {count} came")
    if not 1 <= keep <= count - false:
        raise ValueError(f"Krum keeps {keep} of {count} updates; it may keep 1 to {count - false}")
    stacked = np.stack(updates)
    squares = (stacked**2).sum(axis=1)
    distances = np.maximum(squares[:, None] + squares[None, :] - 2 * stacked @ stacked.T, 0)
    np.fill_diagonal(distances, np.inf)
    scores = np.sort(distances, axis=1)[:, : count - false - 2].sum(axis=1)
    chosen = sorted(int(each) for each in np.argsort(scores, kind="stable")[:keep])
    mean: Floats = stacked[chosen].mean(axis=0)
    return mean, chosen
