"""Log-mel spectrograms of sounds, as Whisper takes them.

Source: A. Radford et al., "Robust Speech Recognition via Large-Scale Weak Supervision", 2022; the bands are those of M.
Slaney's "Auditory Toolbox", 1998.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
    Doubles = NDArray[np.float64]

LEAST_POWER: Final = 1e-10
MOST_NUMBERS: Final = 1 << 18  # of columns that are transformed at once: they overlap, and take more than the sound
RANGE: Final = 8.0  # powers of ten below the loudest, which quieter ones become
LINEAR_HZ: Final = 200 / 3  # of a mel, below 1000 Hz
BREAK_HZ: Final = 1000.0
BREAK_MEL: Final = 15.0
STEP: Final = float(np.log(6.4)) / 27  # of a mel, above


class Mels:
    """Makes spectrograms of rows of samples. May be called from several threads.

    Args:
        bands: Of a column.
        fft: Samples of a column.
        hop: From one column to the next.
        rate: Samples a second.
    """

    def __init__(self, *, bands: int, fft: int, hop: int, rate: int) -> None:
        self._fft, self._hop = fft, hop
        self._window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(fft) / fft)
        self._filters = make_filters(bands=bands, fft=fft, rate=rate)

    def read(self, rows: Floats) -> Floats:
        """The spectrograms of rows of one length, shape (rows, bands, samples / hop)."""
        return np.stack([self._read_row(row) for row in rows])

    def _read_row(self, row: Floats) -> Floats:
        half, columns = self._fft // 2, len(row) // self._hop
        sound = np.pad(row.astype(np.float64), half, mode="reflect")
        frames = np.lib.stride_tricks.sliding_window_view(sound, self._fft)[:: self._hop]
        levels = np.empty((len(self._filters), columns))
        some = max(1, MOST_NUMBERS // self._fft)
        for first in range(0, columns, some):
            spectrum = np.fft.rfft(frames[first : min(first + some, columns)] * self._window, axis=-1)
            power: Doubles = spectrum.real**2 + spectrum.imag**2
            levels[:, first : first + some] = np.log10(np.maximum(self._filters @ power.T, LEAST_POWER))
        np.maximum(levels, levels.max() - RANGE, out=levels)
        made: Floats = ((levels + 4.0) / 4.0).astype(np.float32)
        return made


def make_filters(*, bands: int, fft: int, rate: int) -> Doubles:
    """What powers of frequencies are multiplied by, shape (bands, fft / 2 + 1): triangles of equal area."""
    frequencies = np.linspace(0, rate / 2, fft // 2 + 1)
    edges = _to_hertz(np.linspace(0.0, _to_mel(rate / 2), bands + 2))
    widths = np.diff(edges)
    slopes = edges[:, None] - frequencies
    triangles = np.maximum(0, np.minimum(-slopes[:-2] / widths[:-1, None], slopes[2:] / widths[1:, None]))
    made: Doubles = triangles * (2 / (edges[2:] - edges[:-2]))[:, None]
    return made


def _to_mel(hertz: float) -> float:
    return hertz / LINEAR_HZ if hertz < BREAK_HZ else BREAK_MEL + float(np.log(hertz / BREAK_HZ)) / STEP


def _to_hertz(mels: Doubles) -> Any:
    above = np.maximum(mels - BREAK_MEL, 0)
    return np.where(mels < BREAK_MEL, mels * LINEAR_HZ, BREAK_HZ * np.exp(STEP * above))
