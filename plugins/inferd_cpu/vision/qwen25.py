"""How Qwen2.5-VL sees a picture: nearly in its own size, by rows and columns (arXiv:2502.13923)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from inferd.plugin.pictures import Outline
from inferd_cpu.vision.readers import TowerReader, check_tokens, normalize_colours, refuse_large, resize
from inferd_cpu.vision.shape import most_cells

PLACEHOLDER: Final = "<|image_pad|>"
AROUND: Final = ("<|vision_start|>", "<|vision_end|>")
MOST_RATIO: Final = 200  # of the sides of a picture


@dataclass(frozen=True, slots=True)
class GridReader(TowerReader):
    """One tile of nearly the picture's own size."""

    placeholder: ClassVar[str] = PLACEHOLDER

    @property
    def most_patches(self) -> int:
        """Of a picture.

        Of long ones, a vector high, and of those that are made larger, a file's bound of pixels holds nearly.
        """
        shape, most = self.shape, most_cells(self.shape, self.most_tokens)
        if shape.most_pixels:
            least = shape.least_pixels / shape.cell**2
            longest = math.sqrt(MOST_RATIO * max(shape.most_pixels / shape.cell**2, 1))
            grown = (math.sqrt(least) + 1) ** 2 + math.sqrt(MOST_RATIO * least)  # both sides are rounded up
            most = max(most, math.ceil(longest), math.ceil(grown))
        return min(self.most_tokens, most) * shape.merged

    def outline(self, high: int, wide: int) -> Outline:
        """See `PictureReader`."""
        rows, columns = self._cells(high, wide)
        refuse_large(high, wide, rows * columns, self.most_tokens)
        return Outline(
            text=PLACEHOLDER * (rows * columns),
            tokens=rows * columns,
            pixels=rows * columns * self.shape.cell**2,
            grid=(rows, columns),
        )

    def read(self, pixels: NDArray[np.uint8]) -> Mapping[str, Any]:
        """See `PictureReader`; one tile, shape (1, 3, H, W)."""
        rows, columns = self._cells(*pixels.shape[:2])
        picture = resize(pixels, rows * self.shape.cell, columns * self.shape.cell, by="BICUBIC")
        return {"tiles": normalize_colours(picture[None], self.shape)}

    def _cells(self, high: int, wide: int) -> tuple[int, int]:
        """Rows and columns of vectors of a picture of so many rows and columns of pixels."""
        if max(high, wide) > MOST_RATIO * min(high, wide):
            raise ValueError(f"has {wide} x {high} pixels; one side may be {MOST_RATIO} times the other at most")
        side, shape = self.shape.cell, self.shape
        most = shape.most_pixels or most_cells(shape, self.most_tokens) * side**2
        least = min(shape.least_pixels, most)
        sides = [round(each / side) for each in (high, wide)]
        pixels = sides[0] * sides[1] * side**2
        if pixels > most:
            shrink = math.sqrt(high * wide / most)
            sides = [max(math.floor(each / shrink / side), 1) for each in (high, wide)]
        elif pixels < least:
            grow = math.sqrt(least / (high * wide))
            sides = [math.ceil(each * grow / side) for each in (high, wide)]
        return sides[0], sides[1]


def find_tokens(where: str, tokens: Sequence[str]) -> int:
    """See `check_tokens`."""
    return check_tokens(where, tokens, PLACEHOLDER, AROUND)
