"""Pictures: from the bytes of a file to rows of pixels. Pillow decodes, once the size that the file says is known."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from inferd.engine.pictures.decoding import Decoder
from inferd.engine.recipe.limits import PIXEL_BYTES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from inferd.engine.recipe.room import Room
    from inferd.plugin.recipe import ImageInput

SHARES: Final = 2  # both sides of a margin


class Pictures:
    """Decodes pictures as a recipe says. May be called from several threads.

    Args:
        step: Of the recipe.
        most_pixels: Of a picture, as its file says and as it becomes.
        room: For those that are decoded at once.

    Raises:
        ImportError: Pillow is not installed.
    """

    def __init__(self, step: ImageInput, *, most_pixels: int, room: Room) -> None:
        self._step = step
        self._room = room
        self._decoder = Decoder(most_pixels)
        self._pillow = self._decoder.pillow
        self._filter = self._pillow.Resampling[step.filter.upper()]

    def read(self, content: bytes) -> NDArray[np.float32]:
        """The row of a file, in the order of the recipe's layout.

        Raises:
            ValueError: It is no picture, damaged, or too large.
        """
        picture = self._decoder.open(content)
        wide, high = picture.size
        scaled_high, scaled_wide = self._scale(high, wide)
        with self._room.taken(PIXEL_BYTES * max(wide * high, scaled_high * scaled_wide)):
            mode = "L" if self._step.colors == "gray" else "RGB"
            picture = self._decoder.decode(picture, mode, fill=self._step.fill)  # each step lets go what was before
            picture = self._arrange(picture)
            pixels = np.asarray(picture)
            del picture
            return self._to_numbers(pixels)

    def _arrange(self, picture: Any) -> Any:
        step = self._step
        if step.resize:
            picture = self._resize(picture)
        if step.most:
            high, wide = (min(size, most or size) for size, most in zip(picture.size[::-1], step.most, strict=True))
            picture = self._stretch(picture, high, wide)
        if step.crop:
            picture = self._cut(picture, *step.crop)
        if step.multiple > 1:
            wide, high = (-(-size // step.multiple) * step.multiple for size in picture.size)
            picture = self._place(picture, high, wide, middle=False)
        return picture

    def _resize(self, picture: Any) -> Any:
        scaled = self._stretch(picture, *self._scale(picture.height, picture.width))
        if self._step.fit == "stretch" or not all(self._step.resize) or len(self._step.resize) == 1:
            return scaled
        return self._cut(scaled, *self._step.resize)

    def _scale(self, high: int, wide: int) -> tuple[int, int]:
        """Height and width to which a picture is stretched."""
        resize = self._step.resize
        if not resize:
            return high, wide
        if len(resize) == 1:
            factor = resize[0] / min(wide, high)
        elif not all(resize):
            factor = resize[0] / high if resize[0] else resize[1] / wide
        elif self._step.fit == "stretch":
            return resize[0], resize[1]
        else:
            factors = resize[0] / high, resize[1] / wide
            factor = max(factors) if self._step.fit == "cover" else min(factors)
            return round(high * factor), round(wide * factor)
        most_high, most_wide = self._step.most or (0, 0)
        scaled_high, scaled_wide = round(high * factor), round(wide * factor)
        return min(scaled_high, most_high or scaled_high), min(scaled_wide, most_wide or scaled_wide)

    def _stretch(self, picture: Any, high: int, wide: int) -> Any:
        size = max(1, wide), max(1, high)
        self._decoder.check(size, "becomes")
        return picture if size == picture.size else picture.resize(size, self._filter)

    def _cut(self, picture: Any, high: int, wide: int) -> Any:
        """The middle; what a picture lacks is filled up around it."""
        if picture.width < wide or picture.height < high:
            picture = self._place(picture, max(high, picture.height), max(wide, picture.width), middle=True)
        left, top = (picture.width - wide) // SHARES, (picture.height - high) // SHARES
        return picture.crop((left, top, left + wide, top + high))

    def _place(self, picture: Any, high: int, wide: int, *, middle: bool) -> Any:
        """On a larger ground."""
        self._decoder.check((wide, high), "becomes")
        fill = self._step.fill if picture.mode == "L" else (self._step.fill,) * 3
        ground = self._pillow.new(picture.mode, (wide, high), fill)
        at = ((wide - picture.width) // SHARES, (high - picture.height) // SHARES) if middle else (0, 0)
        ground.paste(picture, at)
        return ground

    def _to_numbers(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Pixels (h, w) or (h, w, c) as the model takes them."""
        step = self._step
        pixels = pixels[:, :, None] if pixels.ndim == 2 else pixels  # noqa: PLR2004 - grey ones
        if step.colors == "bgr":
            pixels = pixels[:, :, ::-1]
        order = ["nhwc".index(letter) for letter in (step.layout if "c" in step.layout else f"{step.layout}c")]
        numbers = np.ascontiguousarray(pixels[None].transpose(order), np.float32)
        numbers *= np.float32(step.scale)
        for change, values, nothing in ((np.subtract, step.mean, 0), (np.divide, step.std, 1)):
            if set(values) == {nothing}:
                continue
            by_color = np.broadcast_to(np.array(values, np.float32), pixels.shape[2])[None, None, None]
            change(numbers, by_color.transpose(order), out=numbers)
        return numbers if "c" in step.layout else numbers[..., 0]
