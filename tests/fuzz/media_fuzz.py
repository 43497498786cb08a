"""Damaged pictures and sounds, read as the worker of a model that sees or hears reads them.

    python tests/fuzz/media_fuzz.py SECONDS [FIRST]

Each is read, or refused in a moment with a ValueError of one line, no longer than what people read; what was read has
the size that its head told. Prints how many ended how; the number of one that did not ends the run, and makes it again.
"""

import io
import random
import struct
import sys
import time
import warnings
import wave
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from PIL import Image

from inferd.engine.pictures.limits import PictureLimits
from inferd.engine.pictures.sources import Hearing, Seeing, Source
from inferd.plugin.pictures import Outline

MOST_S = 5.0
"""Of the processor, for one: it has a few thousand pixels, or as many as its damaged head may tell."""
MOST_WORDS = 600
LIMITS = PictureLimits(pixels=1_000_000, audio_s=30.0)
NUMBERS = (0, 1, 2, 255, 256, 2**15, 2**16 - 1, 2**31 - 1, 2**32 - 1)
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
MODES = {"PNG": ("RGB", "RGBA", "L", "P", "I;16", "1"), "GIF": ("P", "L"), "BMP": ("RGB", "L", "1")}


class FoundError(AssertionError):
    """A file that did not end as it must."""


class Eye:
    """A reader of pictures that takes all."""

    placeholder, token_id = "<picture>", 1

    def outline(self, high: int, wide: int) -> Outline:
        """One vector, of all pixels."""
        return Outline(text="<picture>", tokens=1, pixels=high * wide)

    def read(self, pixels: Any) -> Mapping[str, Any]:
        """The pixels."""
        return {"pixels": pixels}


class Ear:
    """A reader of sounds that takes all."""

    placeholder, token_id, rate = "<sound>", 1, 16_000

    def hear(self, samples: int) -> Outline:
        """One vector, of all samples."""
        return Outline(text="<sound>", tokens=1, pixels=samples)

    def read(self, sound: Any) -> Mapping[str, Any]:
        """The samples."""
        return {"sound": sound}


def picture(chosen: random.Random) -> bytes:
    """A sound one, of some format, mode and size."""
    form = chosen.choice(FORMATS)
    mode = chosen.choice(MODES.get(form, ("RGB", "L")))
    size = chosen.randint(1, 80), chosen.randint(1, 80)
    noise = Image.effect_noise(size, chosen.uniform(1, 90))
    made = Image.fromarray(np.asarray(noise).astype(np.uint16) << 8) if mode == "I;16" else noise.convert(mode)
    more: dict[str, Any] = {}
    if form == "JPEG":
        more = {"progressive": chosen.random() < 0.5, "quality": chosen.randint(5, 95)}
    if form in {"JPEG", "PNG", "WEBP"} and chosen.random() < 0.3:
        exif = Image.Exif()
        exif[0x0112] = chosen.randint(0, 9)
        more["exif"] = exif
    if form in {"GIF", "WEBP", "PNG"} and mode != "I;16" and chosen.random() < 0.2:
        more |= {"save_all": True, "append_images": [made.rotate(90)]}
    file = io.BytesIO()
    made.save(file, form, **more)
    return file.getvalue()


def sound(chosen: random.Random) -> bytes:
    """A sound WAV of some form and length."""
    file = io.BytesIO()
    width, channels = chosen.choice((1, 2, 3, 4)), chosen.choice((1, 2, 6))
    with wave.open(file, "wb") as written:
        written.setnchannels(channels)
        written.setsampwidth(width)
        written.setframerate(chosen.choice((8000, 16_000, 44_100, 48_000)))
        written.writeframes(chosen.randbytes(width * channels * chosen.randint(1, 3000)))
    return file.getvalue()


def wounded(chosen: random.Random, content: bytes) -> bytes:
    """It, damaged up to five times: bits, numbers, pieces that are cut out, doubled, moved or made of nothing."""
    data = bytearray(content)
    for _ in range(chosen.randint(0, 5)):
        at = chosen.randrange(min(len(data), chosen.choice((64, len(data))))) if data else 0
        match chosen.randrange(6):
            case 0:
                data[at : at + 1] = bytes([chosen.randrange(256)])
            case 1:
                form = chosen.choice(("<H", ">H", "<I", ">I"))
                number = chosen.choice(NUMBERS) & (0xFFFF if form[1] == "H" else 0xFFFFFFFF)
                data[at : at + struct.calcsize(form)] = struct.pack(form, number)
            case 2:
                del data[at:]
            case 3:
                del data[at : at + chosen.randint(1, 40)]
            case 4:
                data[at:at] = data[at : at + chosen.randint(1, 200)] * chosen.randint(1, 50)
            case _:
                data[at:at] = chosen.randbytes(chosen.randint(1, 40))
    return bytes(data)


def read(source: Source, content: bytes, number: int) -> str:
    """Read one as a worker does; how it ended.

    Raises:
        FoundError: Otherwise than it must.
    """
    begun = time.process_time()
    size = told = 0
    try:
        outline = source.outline(content)
        size = sum(each.size for each in source.values(content, outline, waits=True).values())
        told = outline.pixels * (1 if source.hears else 3)
        ended = "read"
    except ValueError as error:
        words = str(error)
        if not words or len(words) > MOST_WORDS or "\n" in words:
            raise FoundError(f"file {number}: refused with {words[:MOST_WORDS]!r}") from error
        ended = "refused"
    except BaseException as error:
        raise FoundError(f"file {number}: {type(error).__name__}: {error}") from error
    if size != told:
        raise FoundError(f"file {number}: {size} numbers, and its head told {told}")
    if (seconds := time.process_time() - begun) > MOST_S:
        raise FoundError(f"file {number} took {seconds:.1f} s of the processor")
    return ended


def main(seconds: float, first: int) -> None:
    """Read damaged files for so long, and print what came of it."""
    kinds: dict[str, tuple[Source, Callable[[random.Random], bytes]]] = {
        "pictures": (Seeing(Eye(), LIMITS), picture),
        "sounds": (Hearing(Ear(), LIMITS), sound),
    }
    found: Counter[str] = Counter()
    warnings.simplefilter("ignore")  # of Pillow, about damaged EXIF
    until, number = time.monotonic() + seconds, first
    while time.monotonic() < until:
        chosen = random.Random(number)
        kind = "sounds" if number % 4 == 3 else "pictures"
        source, make = kinds[kind]
        found[f"{kind} {read(source, wounded(chosen, make(chosen)), number)}"] += 1
        number += 1
    print({"files": number - first, **dict(found.most_common()), "findings": 0})  # noqa: T201 - its result


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
