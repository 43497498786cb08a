"""What readers of pictures have in common: other sizes, colours as towers take them, and tokens of a vocabulary."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar, Final, Literal

import numpy as np
from numpy.typing import NDArray

from inferd.plugin import LoadError
from inferd_cpu.vision.shape import TowerShape

Filter = Literal["BILINEAR", "BICUBIC", "LANCZOS"]
_WHITE: Final = 255


@dataclass(frozen=True, slots=True)
class TowerReader:
    """What readers for a tower have in common; each is a `PictureReader`.

    Attributes:
        placeholder: See `PictureReader`.
        shape: Of the tower.
        token_id: See `PictureReader`.
        most_tokens: Of one picture.
    """

    placeholder: ClassVar[str]
    shape: TowerShape
    token_id: int
    most_tokens: int

    @property
    def most_patches(self) -> int:
        """Of what the tower is given at once: a tile."""
        return self.shape.patches


def resize(pixels: NDArray[np.uint8], high: int, wide: int, *, by: Filter = "LANCZOS") -> NDArray[np.uint8]:
    """A picture of other sizes, by a filter of Pillow."""
    if pixels.shape[:2] == (high, wide):
        return pixels
    pillow: Any = import_module("PIL.Image")
    picture = pillow.fromarray(np.ascontiguousarray(pixels)).resize((wide, high), pillow.Resampling[by])
    return np.asarray(picture)


def normalize_colours(tiles: NDArray[np.uint8], shape: TowerShape) -> NDArray[np.float32]:
    """Tiles of shape (N, H, W, 3) as a tower takes them: (N, 3, H, W)."""
    numbers = tiles.astype(np.float32) * np.float32(1 / _WHITE)
    numbers -= np.array(shape.mean, np.float32)
    numbers /= np.array(shape.deviation, np.float32)
    return np.ascontiguousarray(numbers.transpose(0, 3, 1, 2))


def refuse_large(high: int, wide: int, tokens: int, most_tokens: int) -> None:
    """See that a picture of so many rows and columns of pixels has no more tokens than the setting allows.

    Raises:
        ValueError: It has.
    """
    if tokens > most_tokens:
        raise ValueError(
            f"has {wide} x {high} pixels, {tokens} tokens of this model, and its setting 'picture_tokens'"
            f" allows {most_tokens}: send a smaller one, or raise the setting"
        )


def check_tokens(where: str, tokens: Sequence[str], of_pictures: str, around: Sequence[str]) -> int:
    """The token of pictures in a vocabulary that has all that stand around them.

    Raises:
        LoadError: One is missing.
    """
    places = {token: index for index, token in enumerate(tokens)}
    for token in (of_pictures, *around):
        if token not in places:
            raise LoadError(
                f"{where}: has no token {token!r}, which the projector needs: it is the projector of another model"
            )
    return places[of_pictures]
