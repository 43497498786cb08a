"""Bounds of what a recipe may make of a small file."""

from dataclasses import dataclass
from typing import Final

PIXEL_BYTES: Final = 28  # as decoded, without transparent parts, arranged, and as numbers
SAMPLE_BYTES: Final = 20  # as read, mixed, with ends to sample it again, and in rows
COUNTED_RATE: Final = 48_000  # samples of a second that are counted at most: a sound of more of them may be shorter


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeLimits:
    """Bounds of the kernel's configuration.

    Attributes:
        image_pixels: Most pixels of a picture, as its file says and as it becomes.
        audio_s: Most seconds of a sound.
    """

    image_pixels: int = 24_000_000
    audio_s: float = 600.0

    @property
    def room_bytes(self) -> int:
        """Memory for all files that are prepared at once: as much as the largest picture or sound takes."""
        return int(max(self.image_pixels * PIXEL_BYTES, self.audio_s * COUNTED_RATE * SAMPLE_BYTES))
