"""Rotations by position (RoFormer, arXiv:2104.09864) and the ways to stretch them over longer texts."""

import math
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Scaling = Literal["none", "linear", "yarn", "longrope"]
MAX_CONTEXT: Final = 2**31 - 1  # tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Rope:
    """A rotation.

    Attributes:
        width: Numbers of a head that are rotated; even.
        base: Of the frequencies.
        scaling: How frequencies are stretched. "longrope" takes divisors from the file.
        factor: By how much.
        original_tokens: What the model saw before it was stretched; 0 if nothing says it.
        magnitude: What cosines and sines are multiplied with.
        beta_fast: Turns within the original context above which YaRN leaves a frequency as it is (arXiv:2309.00071).
        beta_slow: Turns below which it divides one by all of the factor.
        truncates: YaRN's borders are whole numbers.
        divided: The file's divisors of frequencies count here.
        sections: So many pairs in turn go by time, rows and columns of pictures, and again by time; none: all by time.
    """

    width: int
    base: float
    scaling: Scaling = "none"
    factor: float = 1.0
    original_tokens: int = 0
    magnitude: float = 1.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncates: bool = True
    divided: bool = True
    sections: tuple[int, ...] = ()

    @property
    def axes(self) -> NDArray[np.int32]:
        """By which of three positions each pair goes: 0 time, 1 rows, 2 columns; shape (width / 2,)."""
        sections = self.sections or (self.width // 2,)
        return np.repeat(np.arange(len(sections), dtype=np.int32) % 3, sections)

    @property
    def stretched_tokens(self) -> int:
        """Tokens that YaRN stretches the original context to; 0 for another scaling."""
        return int(min(self.original_tokens * self.factor, MAX_CONTEXT)) if self.scaling == "yarn" else 0

    def frequencies(self, divisors: Floats | None = None) -> Floats:
        """Radians per position of each pair, shape (width / 2,).

        Args:
            divisors: What the file says that each frequency is divided by, above 0; shape (width / 2,).
        """
        exponents = np.arange(0, self.width, 2, dtype=np.float64) / self.width
        frequencies = self.base**-exponents
        if self.scaling == "linear":
            frequencies /= self.factor
        if self.scaling == "yarn":
            kept = self._kept()
            frequencies = frequencies * kept + frequencies / self.factor * (1 - kept)
        if divisors is not None and self.divided:
            frequencies /= divisors
        return frequencies.astype(np.float32)

    def _kept(self) -> NDArray[np.float64]:
        """How much of each frequency YaRN keeps: 1 for the fast ones, 0 for the slow, a ramp between."""

        def pair_of(turns: float) -> float:
            length = self.original_tokens / (turns * 2 * math.pi)
            return self.width * math.log(length) / (2 * math.log(self.base))

        low, high = pair_of(self.beta_fast), pair_of(self.beta_slow)
        if self.truncates:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, self.width - 1)
        ramp = (np.arange(self.width // 2) - low) / max(high - low, 0.001)
        return np.asarray(1 - np.clip(ramp, 0, 1), np.float64)


def yarn_magnitude(factor: float, multiplier: float = 1.0) -> float:
    """What YaRN multiplies scores with, as its root: 0.1 ln(factor) + 1."""
    return 0.1 * multiplier * math.log(factor) + 1.0 if factor > 1 else 1.0
