"""Pictures: from the bytes of a file to rows of pixels. Pillow decodes, once the size that the file says is known."""

from __future__ import annotations

import io
import logging
import re
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from inferd.engine.recipe.limits import PIXEL_BYTES
from inferd.errors import is_failure, words_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from inferd.engine.recipe.room import Room
    from inferd.plugin.recipe import ImageInput

FORMATS: Final = ("PNG", "JPEG", "WEBP", "GIF", "BMP")  # that are decoded; Pillow knows many that nobody looks after
DEEP: Final = ("I;16", "I;16B", "I;16L", "I;16N", "I")  # of grey with 16 bits, which Pillow would cut off at 255
SHARES: Final = 2  # both sides of a margin
MOST_SCANS: Final = 100  # of a JPEG; each goes over the whole picture, in some ten bytes. Encoders make about ten
MOST_SEGMENTS: Final = 1 << 16  # of a JPEG, where its scans have to be counted
MARKER: Final = re.compile(rb"\xff([^\x00\xd0-\xd7\xff])")  # but those in the data of a scan
BARE, END, SCAN = b"\x01\xd8", b"\xd9", b"\xda"  # markers without a segment, of the end, and of a scan

_log = logging.getLogger(__name__)


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
        self._most_pixels = most_pixels
        pillow: Any = import_module("PIL.Image")
        pillow.MAX_IMAGE_PIXELS = None  # it would warn at its own bound; ours is held before anything is decoded
        self._pillow = pillow
        self._ops: Any = import_module("PIL.ImageOps")
        self._filter = pillow.Resampling[step.filter.upper()]

    def read(self, content: bytes) -> NDArray[np.float32]:
        """The row of a file, in the order of the recipe's layout.

        Raises:
            ValueError: It is no picture, damaged, or too large.
        """
        picture = self._open(content)
        wide, high = picture.size
        scaled_high, scaled_wide = self._scale(high, wide)
        with self._room.taken(PIXEL_BYTES * max(wide * high, scaled_high * scaled_wide)):
            picture = self._decode(picture)  # each step lets go what the one before made
            picture = self._arrange(picture)
            pixels = np.asarray(picture)
            del picture
            return self._to_numbers(pixels)

    def _open(self, content: bytes) -> Any:
        """A picture whose size is known and taken, and nothing else."""
        try:
            picture = self._pillow.open(io.BytesIO(content), formats=FORMATS)
        except BaseException as error:
            if not is_failure(error):
                raise
            known = ", ".join(FORMATS)
            raise ValueError(f"is no picture that can be read ({known}): {_cause(error)}") from None
        self._check(picture.size, "has")
        if content[:2] == b"\xff\xd8":
            _check_scans(content)
        return picture

    def _decode(self, picture: Any) -> Any:
        try:
            picture.load()
            self._turn(picture)
            return self._flatten(picture)
        except BaseException as error:
            if not is_failure(error):
                raise
            raise ValueError(f"is a damaged {picture.format}: {_cause(error)}") from None

    def _turn(self, picture: Any) -> None:
        """As its EXIF says; where that is damaged it stays as it is."""
        try:
            self._ops.exif_transpose(picture, in_place=True)
        except MemoryError:
            raise
        except Exception:  # noqa: BLE001 - Pillow raises whatever it came upon, of pictures that are sound
            _log.debug("a picture's EXIF is damaged; it is not turned", exc_info=True)

    def _flatten(self, picture: Any) -> Any:
        """In the colors of the recipe, without transparent parts."""
        mode = "L" if self._step.colors == "gray" else "RGB"
        if picture.mode in DEEP:
            deep = np.asarray(picture).astype(np.int64)
            picture = self._pillow.fromarray(np.clip(deep >> 8, 0, 255).astype(np.uint8))
        if picture.has_transparency_data:
            over = picture if picture.mode == "RGBA" else picture.convert("RGBA")
            picture = self._pillow.new("RGB", over.size, (self._step.fill,) * 3)
            picture.paste(over, mask=over.getchannel("A"))
        return picture if picture.mode == mode else picture.convert(mode)

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
        self._check(size, "becomes")
        return picture if size == picture.size else picture.resize(size, self._filter)

    def _cut(self, picture: Any, high: int, wide: int) -> Any:
        """The middle; what a picture lacks is filled up around it."""
        if picture.width < wide or picture.height < high:
            picture = self._place(picture, max(high, picture.height), max(wide, picture.width), middle=True)
        left, top = (picture.width - wide) // SHARES, (picture.height - high) // SHARES
        return picture.crop((left, top, left + wide, top + high))

    def _place(self, picture: Any, high: int, wide: int, *, middle: bool) -> Any:
        """On a larger ground."""
        self._check((wide, high), "becomes")
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

    def _check(self, size: tuple[int, int], what: str) -> None:
        if size[0] * size[1] > self._most_pixels:
            raise ValueError(
                f"{what} {size[0]} x {size[1]} pixels, and workers.image_pixels allows {self._most_pixels}"
            )


def _check_scans(content: bytes) -> None:
    """Whether a JPEG goes over its pixels a few times only; source: ITU-T T.81, annex B.

    Raises:
        ValueError: It has more scans, or more segments, than any that is made for looking at.
    """
    if content.count(b"\xff" + SCAN) <= MOST_SCANS:  # there may be more than there are scans: in what a camera adds
        return
    at = scans = 0
    for _ in range(MOST_SEGMENTS):
        found = MARKER.search(content, at)
        if found is None or found[1] == END:
            return
        at = found.end()
        if found[1] in BARE:
            continue
        scans += found[1] == SCAN
        if scans > MOST_SCANS:
            raise ValueError(f"is a JPEG of more than {MOST_SCANS} scans; save it as a plain one")
        at += int.from_bytes(content[at : at + 2], "big")
    raise ValueError(f"is a JPEG of more than {MOST_SEGMENTS} segments; save it as a plain one")


def _cause(error: BaseException) -> str:
    """What a library says, in one line, without the address of what it was given."""
    if type(error).__name__ == "UnidentifiedImageError":
        return "its first bytes are of none of them"
    return " ".join(words_of(error).split())[:200]
