"""Files of pictures: what they say of themselves, and their pixels; Pillow decodes, once their size is allowed."""

from __future__ import annotations

import io
import logging
import re
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from inferd.errors import is_failure, words_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

FORMATS: Final = ("PNG", "JPEG", "WEBP", "GIF", "BMP")  # that are decoded; Pillow knows many that nobody looks after
DEEP: Final = ("I;16", "I;16B", "I;16L", "I;16N", "I")  # of grey with 16 bits, which Pillow would cut off at 255
MOST_SCANS: Final = 100  # of a JPEG; each goes over the whole picture, in some ten bytes. Encoders make about ten
MOST_SEGMENTS: Final = 1 << 16  # of a JPEG, where its scans have to be counted
MARKER: Final = re.compile(rb"\xff([^\x00\xd0-\xd7\xff])")  # but those in the data of a scan
BARE, END, SCAN = b"\x01\xd8", b"\xd9", b"\xda"  # markers without a segment, of the end, and of a scan
SEVERAL: Final = "MPO"  # JPEGs of cameras that have other views of the same picture behind it
ORIENTATION: Final = 0x0112  # in EXIF
TURNS: Final = {  # by orientation: how a picture is turned to stand, as Pillow names it
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
TURNED: Final = frozenset({5, 6, 7, 8})  # orientations that exchange rows and columns
WHITE: Final = 255

_log = logging.getLogger(__name__)


class Decoder:
    """Decodes files of pictures. May be called from several threads.

    Args:
        most_pixels: Of a picture, as its file says.

    Raises:
        ImportError: Pillow is not installed.
    """

    def __init__(self, most_pixels: int) -> None:
        self._most_pixels = most_pixels
        pillow: Any = import_module("PIL.Image")
        pillow.MAX_IMAGE_PIXELS = None  # it would warn at its own bound; ours is held before anything is decoded
        self.pillow = pillow
        self._ops: Any = import_module("PIL.ImageOps")

    def open(self, content: bytes, *, still: bool = False) -> Any:
        """A picture whose size is known and taken, and nothing else; `still`: one that moves is refused.

        Raises:
            ValueError: It is no picture, too large, or moves.
        """
        try:
            picture = self.pillow.open(io.BytesIO(content), formats=FORMATS)
            moves = still and picture.format != SEVERAL and getattr(picture, "is_animated", False)
        except BaseException as error:
            if not is_failure(error):
                raise
            known = ", ".join(FORMATS)
            raise ValueError(f"is no picture that can be read ({known}): {_cause(error)}") from None
        self.check(picture.size, "has")
        if moves:
            raise ValueError(f"is a {picture.format} that moves: send the frames that are meant, each as a picture")
        if content[:2] == b"\xff\xd8":
            _check_scans(content)
        return picture

    def check(self, size: tuple[int, int], what: str) -> None:
        """Refuse a picture that is too large.

        Raises:
            ValueError: It is.
        """
        if size[0] * size[1] > self._most_pixels:
            raise ValueError(
                f"{what} {size[0]} x {size[1]} pixels, and workers.image_pixels allows {self._most_pixels}"
            )

    def decode(self, picture: Any, mode: str, *, fill: int, orientation: int | None = None) -> Any:
        """Its pixels in a mode, "RGB" or "L", turned as its EXIF says, over a ground where it is transparent.

        Args:
            picture: From `open`.
            mode: Of what is given.
            fill: The ground.
            orientation: How it lies, whatever its EXIF says by then.

        Raises:
            ValueError: It is damaged.
        """
        try:
            picture.load()
            if orientation is None:
                self._turn(picture)
            elif orientation in TURNS:
                picture = picture.transpose(self.pillow.Transpose[TURNS[orientation]])
            return self._flatten(picture, mode, fill)
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

    def _flatten(self, picture: Any, mode: str, fill: int) -> Any:
        if picture.mode in DEEP:
            deep = np.asarray(picture).astype(np.int64)
            picture = self.pillow.fromarray(np.clip(deep >> 8, 0, 255).astype(np.uint8))
        if picture.has_transparency_data:
            over = picture if picture.mode == "RGBA" else picture.convert("RGBA")
            picture = self.pillow.new("RGB", over.size, (fill,) * 3)
            picture.paste(over, mask=over.getchannel("A"))
        return picture if picture.mode == mode else picture.convert(mode)

    def upright(self, picture: Any) -> tuple[int, int]:
        """Rows and columns of a picture as `pixels` gives it, from what its file says before its pixels."""
        wide, high = picture.size
        return (wide, high) if _orientation(picture) in TURNED else (high, wide)

    def pixels(self, picture: Any) -> NDArray[np.uint8]:
        """Red, green and blue, shape (H, W, 3); white where it is transparent.

        Raises:
            ValueError: It is damaged, or has other rows and columns than `upright` says.
        """
        told, orientation = self.upright(picture), _orientation(picture)  # both change when its pixels are read
        pixels = np.asarray(self.decode(picture, "RGB", fill=WHITE, orientation=orientation))
        if pixels.shape[:2] != told:
            high, wide = pixels.shape[:2]
            raise ValueError(f"has {wide} x {high} pixels, and its head says {told[1]} x {told[0]}; save it anew")
        return pixels


def _tells_late(picture: Any) -> bool:
    """Whether EXIF of a picture, if it has any, stands behind its pixels: its size has to be known before those."""
    return picture.format == "PNG" and "exif" not in picture.info


def _orientation(picture: Any) -> int:
    if _tells_late(picture):
        return 1
    try:
        number = picture.getexif().get(ORIENTATION, 1)
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - as in `_turn`
        return 1
    return number if isinstance(number, int) else 1


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
