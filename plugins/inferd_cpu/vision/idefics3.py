"""How Idefics3 and SmolVLM see a picture: tiles of one size, and the whole once more (arXiv:2408.12637, 2504.05299)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from inferd.plugin import LoadError
from inferd.plugin.pictures import Outline
from inferd_cpu.vision.projector import TowerShape

PLACEHOLDER: Final = "<image>"
AROUND: Final = "<fake_token_around_image>"
WHOLE: Final = "<global-img>"
MOST_EDGE: Final = 4096  # pixels of the longer side, whatever a file says
_WHITE: Final = 255


@dataclass(frozen=True, slots=True)
class TileReader:
    """What a model does with pictures before it computes; a `PictureReader`.

    Attributes:
        shape: Of the tower.
        token_id: See `PictureReader`.
        most_tokens: Of one picture.
    """

    shape: TowerShape
    token_id: int
    most_tokens: int

    @property
    def placeholder(self) -> str:
        """See `PictureReader`."""
        return PLACEHOLDER

    def outline(self, high: int, wide: int) -> Outline:
        """See `PictureReader`."""
        rows, columns = self._tiles(*self._scale(high, wide))
        each, side = self.shape.tile_tokens, self.shape.image_size
        tokens = (rows * columns + 1) * each
        if tokens > self.most_tokens:
            raise ValueError(
                f"has {wide} x {high} pixels, {tokens} tokens of this model, and its setting 'picture_tokens'"
                f" allows {self.most_tokens}: send a smaller one, or raise the setting"
            )
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
        picture = _resize(pixels, high, wide)
        if wide >= high:
            ratio = wide / high
            wide = math.ceil(wide / side) * side
            high = math.ceil(int(wide / ratio) / side) * side
        else:
            ratio = wide / high
            high = math.ceil(high / side) * side
            wide = math.ceil(int(high * ratio) / side) * side
        picture = _resize(picture, high, wide)
        tiles = [picture]
        if max(high, wide) > side:
            tiles = [
                picture[row : row + side, column : column + side]
                for row in range(0, high, side)
                for column in range(0, wide, side)
            ]
            tiles.append(_resize(picture, side, side))
        numbers = np.stack(tiles).astype(np.float32) * np.float32(1 / _WHITE)
        numbers -= np.array(self.shape.mean, np.float32)
        numbers /= np.array(self.shape.deviation, np.float32)
        return {"tiles": np.ascontiguousarray(numbers.transpose(0, 3, 1, 2))}

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


def _resize(pixels: NDArray[np.uint8], high: int, wide: int) -> NDArray[np.uint8]:
    """A picture of other sizes, by Lanczos' filter."""
    if pixels.shape[:2] == (high, wide):
        return pixels
    pillow: Any = import_module("PIL.Image")
    picture = pillow.fromarray(np.ascontiguousarray(pixels)).resize((wide, high), pillow.Resampling.LANCZOS)
    return np.asarray(picture)


def find_tokens(where: str, shape: TowerShape, tokens: Sequence[str]) -> int:
    """The token of pictures in a vocabulary that has all that stand around them.

    Raises:
        LoadError: One is missing.
    """
    edge = min(shape.longest_edge, MOST_EDGE)
    tiles = -(-edge // shape.image_size)
    corner = f"<row_{tiles}_col_{tiles}>" if tiles > 1 else WHOLE
    places = {token: index for index, token in enumerate(tokens)}
    for token in (PLACEHOLDER, AROUND, WHOLE, corner):
        if token not in places:
            raise LoadError(
                f"{where}: has no token {token!r}, which the projector needs: it is the projector of another model"
            )
    return places[PLACEHOLDER]
