"""Bounds of the pictures and sounds of conversations."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureLimits:
    """Bounds of the kernel's configuration.

    Attributes:
        pixels: Most pixels of a picture, as its file says.
        kept_bytes: Most bytes of what was read of pictures that is kept, until it is computed and for the next time; 0
            for none.
        count: Most pictures, or sounds, of a conversation.
        audio_s: Most seconds of a sound.
    """

    pixels: int = 24_000_000
    kept_bytes: int = 512 << 20
    count: int = 32
    audio_s: float = 600.0
