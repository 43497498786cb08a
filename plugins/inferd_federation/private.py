"""What makes updates private: none is longer than a bound, and noise is in their sum."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]


def clipped(update: Floats, longest: float) -> Floats:
    """An update whose Euclidean length is at most this."""
    length = float(np.linalg.norm(update))
    return update if length <= longest else update * (longest / length)


def noised(update: Floats, *, clip: float, multiplier: float, least: int, generator: np.random.Generator) -> Floats:
    """A clipped update with its part of the noise: that of any `least` clients together is `multiplier * clip`."""
    sigma = multiplier * clip / math.sqrt(least)
    return clipped(update, clip) + generator.normal(0.0, sigma, len(update))
