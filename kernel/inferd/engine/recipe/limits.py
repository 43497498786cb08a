"""Bounds of what a recipe may make of a small file."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeLimits:
    """Bounds of the kernel's configuration.

    Attributes:
        image_pixels: Most pixels of a picture, as its file says and as it becomes.
        audio_s: Most seconds of a sound.
    """

    image_pixels: int = 40_000_000
    audio_s: float = 600.0
