"""What files in conversations are read by: pictures as pixels, sounds as samples, both within their bounds."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np

from inferd.engine.pictures.decoding import Decoder
from inferd.engine.recipe.limits import COUNTED_RATE, PIXEL_BYTES, SAMPLE_BYTES
from inferd.engine.recipe.room import Room
from inferd.engine.recipe.sounds import Sounds
from inferd.plugin.pictures import PictureReader
from inferd.plugin.recipe import AudioInput

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from inferd.engine.pictures.limits import PictureLimits
    from inferd.plugin.pictures import Outline, SoundReader


READ_BYTES: Final = 32  # of each sample while a sound is read as a model wants it: as it came, padded, and its spectrum


class Source(Protocol):
    """Reads files of one kind. Called from any thread.

    Attributes:
        hears: Whether it takes sounds; else it takes pictures.
    """

    hears: bool

    def outline(self, file: bytes) -> Outline:
        """What follows from the head of a file.

        Raises:
            ValueError: It cannot be read, or is none that the model takes.
        """
        ...

    def values(self, file: bytes, outline: Outline, *, waits: bool) -> Mapping[str, Any]:
        """What its vectors are computed from; `waits`: until there is room to read it. Raises as `outline`."""
        ...


class Seeing:
    """Reads pictures; see `Source`.

    Args:
        reader: Of the model.
        limits: Of the kernel.

    Raises:
        ImportError: Pillow is not installed.
    """

    hears: bool = False

    def __init__(self, reader: PictureReader, limits: PictureLimits) -> None:
        self._reader = reader
        self._decoder = Decoder(limits.pixels)
        self._room = Room(limits.pixels * PIXEL_BYTES)

    def outline(self, file: bytes) -> Outline:
        """See `Source`."""
        return self._reader.outline(*self._decoder.upright(self._decoder.open(file, still=True)))

    def values(self, file: bytes, outline: Outline, *, waits: bool) -> Mapping[str, Any]:
        """See `Source`."""
        picture = self._decoder.open(file, still=True)
        need_bytes = PIXEL_BYTES * max(picture.width * picture.height, outline.pixels)
        with self._room.taken(need_bytes) if waits else nullcontext():
            return self._reader.read(self._decoder.pixels(picture))


class _Free(Room):
    """Room for whoever cannot wait."""

    @contextmanager
    def taken(self, need_bytes: int) -> Iterator[None]:
        """At once."""
        del need_bytes
        yield


class Hearing:
    """Reads sounds; see `Source`.

    Args:
        reader: Of the model.
        limits: Of the kernel.
    """

    hears: bool = True

    def __init__(self, reader: SoundReader, limits: PictureLimits) -> None:
        self._reader = reader
        step = AudioInput(name="audio", gives="samples", rate=reader.rate)
        size_bytes = int(limits.audio_s * COUNTED_RATE * SAMPLE_BYTES)
        self._reads = Room(int(limits.audio_s * COUNTED_RATE * READ_BYTES))
        self._waiting = Sounds(step, most_s=limits.audio_s, room=Room(size_bytes))
        self._hasty = Sounds(step, most_s=limits.audio_s, room=_Free(size_bytes))

    def outline(self, file: bytes) -> Outline:
        """See `Source`."""
        return self._reader.hear(self._waiting.count(file))

    def values(self, file: bytes, outline: Outline, *, waits: bool) -> Mapping[str, Any]:
        """See `Source`."""
        rows = (self._waiting if waits else self._hasty).read(file)
        if rows.size != outline.pixels:
            raise ValueError(f"is a damaged sound: it has {rows.size} samples, and its head told {outline.pixels}")
        with self._reads.taken(READ_BYTES * rows.size) if waits else nullcontext():
            read = self._reader.read(rows.reshape(-1))
        if not all(np.isfinite(each).all() for each in read.values()):
            raise ValueError(
                f"has samples of up to {np.abs(rows).max():g}, too large for what this model hears by: save it with"
                " samples from -1 to 1"
            )
        return read


READS: Final = {False: "a model that takes pictures", True: "a model that takes sounds"}


def open_source(reader: PictureReader | SoundReader, limits: PictureLimits) -> Source:
    """What reads the files that a model takes.

    Raises:
        ImportError: A library for them is not installed.
    """
    return Seeing(reader, limits) if isinstance(reader, PictureReader) else Hearing(reader, limits)
