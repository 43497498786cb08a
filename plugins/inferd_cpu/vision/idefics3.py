"""How Idefics3 and SmolVLM see a picture: tiles of one size, and the whole once more (arXiv:2408.12637, 2504.05299)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from inferd.plugin.pictures import Outline
from inferd_cpu.vision.readers import TowerReader, check_tokens, normalize_colours, refuse_large, resize
from inferd_cpu.vision.shape import TowerShape

PLACEHOLDER: Final = "<image>"
AROUND: Final = "<fake_token_around_image>"
WHOLE: Final = "<global-img>"
MOST_EDGE: Final = 4096  # pixels of the longer side, whatever a file says


@dataclass(frozen=True, slots=True)
class TileReader(TowerReader):
    """Tiles, and behind them the whole picture as one."""

    placeholder: ClassVar[str] = PLACEHOLDER

    def outline(self, high: int, wide: int) -> Outline:
        """See `PictureReader`."""
        rows, columns = self._tiles(*self._scale(high, wide))
        each, side = self.shape.tile_tokens, self.shape.image_size
        tokens = (rows * columns + 1) * each
        refuse_large(high, wide, tokens, self.most_tokens)
        tile = PLACEHOLDER * each
        text = f"{AROUND}{WHOLE}{tile}{AROUND}"
        if rows:
            lines = [
                "".join(f"{AROUND}<row_{row + 1}_col_{column + 1}>{tile}" for column in range(columns)) + "\n"
                for row in range(rows)
            ]
            text = "".join(lines) + "\n" + text
        return Outline(text=text, tokens=tokens, pixels=(rows * columns + 1) * side * side)

    def read(self, pixels: NDArray[np.uint8]) -> Mapping[str, Any]:
        """See `PictureReader`; the tiles, shape (N, 3, side, side)."""
        high, wide = self._scale(*pixels.shape[:2])
        side = self.shape.image_size
        picture = resize(pixels, high, wide)
        if wide >= high:
            ratio = wide / high
            wide = math.ceil(wide / side) * side
            high = math.ceil(int(wide / ratio) / side) * side
        else:
            ratio = wide / high
            high = math.ceil(high / side) * side
            wide = math.ceil(int(high * ratio) / side) * side
        picture = resize(picture, high, wide)
        tiles = [picture]
        if max(high, wide) > side:
            tiles = [
                picture[row : row + side, column : column + side]
                for row in range(0, high, side)
                for column in range(0, wide, side)
            ]
            tiles.append(resize(picture, side, side))
        return {"tiles": normalize_colours(np.stack(tiles), self.shape)}

    def _scale(self, high: int, wide: int) -> tuple[int, int]:
        """Rows and columns of a picture whose longer side has as many pixels as the model wants."""
        most, ratio = self.shape.longest_edge, wide / high
        if wide >= high:
            wide, high = most, int(most / ratio)
            high += high % 2
        else:
            high, wide = most, int(most * ratio)
            wide += wide % 2
        high, wide = max(high, 1), max(wide, 1)
        ratio = wide / high
        if wide >= high and wide > MOST_EDGE:
            wide, high = MOST_EDGE, int(MOST_EDGE / ratio)
        elif high > wide and high > MOST_EDGE:
            high, wide = MOST_EDGE, int(MOST_EDGE * ratio)
        return max(high, 1), max(wide, 1)

    def _tiles(self, high: int, wide: int) -> tuple[int, int]:
        """Rows and columns of tiles beside the whole picture; none where it is one tile."""
        side, ratio = self.shape.image_size, wide / high
        if wide >= high:
            wide = math.ceil(wide / side) * side
            high = math.ceil(int(wide / ratio) / side) * side
        else:
            high = math.ceil(high / side) * side
            wide = math.ceil(int(high * ratio) / side) * side
        return (high // side, wide // side) if max(high, wide) > side else (0, 0)


def find_tokens(where: str, shape: TowerShape, tokens: Sequence[str]) -> int:
    """The token of pictures in a vocabulary that has all that stand around them.

    Raises:
        LoadError: One is missing.
    """
    edge = min(shape.longest_edge, MOST_EDGE)
    tiles = -(-edge // shape.image_size)
    corner = f"<row_{tiles}_col_{tiles}>" if tiles > 1 else WHOLE
    return check_tokens(where, tokens, PLACEHOLDER, (AROUND, WHOLE, corner))
