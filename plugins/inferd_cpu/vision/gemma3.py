"""How Gemma 3 sees a picture: one square of it, whose vectors see each other in the decoder (arXiv:2503.19786)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from inferd.plugin.pictures import Outline
from inferd_cpu.vision.readers import TowerReader, check_tokens, normalize_colours, refuse_large, resize

PLACEHOLDER: Final = "<start_of_image>"
OF_PICTURES: Final = "<image_soft_token>"
BEHIND: Final = "<end_of_image>"


@dataclass(frozen=True, slots=True)
class SquareReader(TowerReader):
    """One square, whatever the sides of a picture."""

    placeholder: ClassVar[str] = PLACEHOLDER

    def outline(self, high: int, wide: int) -> Outline:
        """See `PictureReader`; the sizes of a picture do not matter."""
        tokens = self.shape.tile_tokens
        refuse_large(high, wide, tokens, self.most_tokens)
        text = f"\n\n{PLACEHOLDER}{OF_PICTURES * tokens}{BEHIND}\n\n"
        return Outline(text=text, tokens=tokens, pixels=self.shape.image_size**2)

    def read(self, pixels: NDArray[np.uint8]) -> Mapping[str, Any]:
        """See `PictureReader`; one tile, shape (1, 3, side, side)."""
        side = self.shape.image_size
        return {"tiles": normalize_colours(resize(pixels, side, side, by="BILINEAR")[None], self.shape)}


def find_tokens(where: str, tokens: Sequence[str]) -> int:
    """See `check_tokens`."""
    return check_tokens(where, tokens, OF_PICTURES, (PLACEHOLDER, BEHIND))
