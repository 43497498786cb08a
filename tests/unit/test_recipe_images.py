"""Pictures of a recipe: what becomes of their pixels, and which files are refused."""

import io
import struct
import zlib
from contextlib import suppress
from typing import Any

import numpy as np
import pytest

Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")

from inferd.engine.pictures.decoding import MOST_SCANS, MOST_SEGMENTS  # noqa: E402 - behind the check that its library is there
from inferd.engine.recipe.images import Pictures  # noqa: E402 - as above
from inferd.engine.recipe.room import Room  # noqa: E402 - as above
from inferd.plugin import ImageInput  # noqa: E402 - as above

PIXELS = np.random.default_rng(3).integers(0, 256, (6, 10, 3), np.uint8)
DAMAGED = (
    b"",
    b"no picture",
    b"\x89PNG\r\n\x1a\n",
    b"GIF89a" + b"\xff" * 40,
    b"BM" + b"\x00" * 30,
    b"RIFF\x08\x00\x00\x00WEBP",
)


def encode(array: np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, kind, **options)
    return file.getvalue()


def read(content: bytes, most_pixels: int = 10_000, **step: Any) -> np.ndarray:
    return Pictures(ImageInput(name="image", gives="x", **step), most_pixels=most_pixels, room=Room(1 << 20)).read(
        content
    )


def test_numbers_and_their_order() -> None:
    """Pixels are scaled, moved and divided by color, in the order of colors and dimensions that the recipe says."""
    row = read(encode(PIXELS), mean=(0.1, 0.2, 0.3), std=(0.5, 1.0, 2.0))
    expected = (PIXELS / np.float32(255) - np.float32([0.1, 0.2, 0.3])) / np.float32([0.5, 1.0, 2.0])
    np.testing.assert_allclose(row, expected.transpose(2, 0, 1)[None], atol=1e-6)
    assert row.dtype == np.float32
    np.testing.assert_array_equal(read(encode(PIXELS), scale=1, colors="bgr", layout="nhwc"), PIXELS[None, :, :, ::-1])
    gray = np.asarray(Image.fromarray(PIXELS).convert("L"))
    np.testing.assert_array_equal(read(encode(PIXELS), scale=1, colors="gray", layout="nwh"), gray.T[None])
    np.testing.assert_array_equal(read(encode(PIXELS), scale=1, colors="gray"), gray[None, None])


@pytest.mark.parametrize(
    ("step", "shape"),
    [
        ({"resize": (3,)}, (3, 5)),
        ({"resize": (12, 0)}, (12, 20)),
        ({"resize": (0, 5)}, (3, 5)),
        ({"resize": (4, 4)}, (4, 4)),
        ({"resize": (4, 4), "fit": "cover"}, (4, 4)),
        ({"resize": (4, 4), "fit": "contain"}, (4, 4)),
        ({"resize": (12, 0), "most": (12, 15)}, (12, 15)),
        ({"crop": (4, 6)}, (4, 6)),
        ({"crop": (8, 6)}, (8, 6)),
        ({"multiple": 4}, (8, 12)),
        ({"resize": (5,), "crop": (4, 4), "multiple": 3}, (6, 6)),
    ],
)
def test_sizes(step: dict[str, Any], shape: tuple[int, int]) -> None:
    """What becomes of six rows of ten pixels."""
    assert read(encode(PIXELS), **step).shape == (1, 3, *shape)


def test_where_pixels_go() -> None:
    """The middle is cut out, what lacks is filled up, and contained pictures keep their form."""
    plain = {"scale": 1, "layout": "nhwc"}
    np.testing.assert_array_equal(read(encode(PIXELS), crop=(4, 6), **plain)[0], PIXELS[1:5, 2:8])
    framed = read(encode(PIXELS), crop=(8, 10), fill=7, **plain)[0]
    np.testing.assert_array_equal(framed[1:7], PIXELS)
    assert (framed[[0, 7]] == 7).all()
    filled = read(encode(PIXELS), multiple=8, fill=9, **plain)[0]
    np.testing.assert_array_equal(filled[:6, :10], PIXELS)
    assert (filled[6:] == 9).all()
    assert (filled[:, 10:] == 9).all()
    black = encode(np.zeros((5, 10, 3), np.uint8))
    rows = read(black, resize=(10, 10), fit="contain", **plain)[0, :, :, 0]
    assert (rows[[0, 1, 8, 9]] == 255).all()
    assert not rows[3:7].any()


def test_kinds_of_files() -> None:
    """Each format is read; transparent parts, deep greys, palettes and turned pictures are as they look."""
    for kind, options in (("WEBP", {"lossless": True}), ("BMP", {}), ("JPEG", {"quality": 95})):
        found = read(encode(np.full((6, 10, 3), 200, np.uint8), kind, **options), scale=1)
        np.testing.assert_allclose(found, 200, atol=3)
    clear = np.zeros((4, 4, 4), np.uint8)
    clear[:2, :, 3] = 255
    found = read(encode(clear), scale=1, fill=250)[0, 0]
    assert (found[:2] == 0).all()
    assert (found[2:] == 250).all()
    deep = np.array([[0, 0x80FF], [0xFFFF, 0x0100]], np.uint16)
    np.testing.assert_array_equal(read(encode(deep), scale=1, colors="gray")[0, 0], [[0, 128], [255, 1]])
    palette = io.BytesIO()
    Image.fromarray(PIXELS).quantize(256).save(palette, "GIF")
    np.testing.assert_allclose(read(palette.getvalue(), scale=1)[0], PIXELS.transpose(2, 0, 1), atol=40)
    turned = Image.Exif()
    turned[0x0112] = 6  # a quarter to the right
    found = read(encode(PIXELS, exif=turned), scale=1, layout="nhwc")[0]
    np.testing.assert_array_equal(found, np.rot90(PIXELS, -1))


def bomb(wide: int, high: int) -> bytes:
    """A PNG that says that it is so large, in some bytes."""
    chunks = b""
    for name, data in ((b"IHDR", struct.pack(">IIBBBBB", wide, high, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(b""))):
        chunks += struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    return b"\x89PNG\r\n\x1a\n" + chunks


def test_what_is_too_large() -> None:
    """A size beyond the bound is refused before anything is decoded, and one that would become so, too."""
    for wide, high in ((50_000, 50_000), (2**31 - 1, 1), (101, 100)):
        with pytest.raises(ValueError, match=rf"has {wide} x {high} pixels, and workers.image_pixels allows 10000"):
            read(bomb(wide, high))
    with pytest.raises(ValueError, match="becomes 167 x 100 pixels"):
        read(encode(PIXELS), resize=(100,))
    with pytest.raises(ValueError, match="becomes 128 x 128 pixels"):
        read(encode(PIXELS), multiple=128)
    thin = encode(np.zeros((1, 5000, 3), np.uint8))
    with pytest.raises(ValueError, match="becomes 50000 x 10 pixels"):
        read(thin, resize=(10,))
    assert read(thin, resize=(10,), most=(0, 100)).shape == (1, 3, 10, 100)


@pytest.mark.parametrize("content", DAMAGED)
def test_what_is_no_picture(content: bytes) -> None:
    """Is told as that."""
    with pytest.raises(ValueError, match=r"is no picture that can be read|is a damaged"):
        read(content)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_damaged_pictures(kind: str) -> None:
    """Whatever is changed or missing in a picture, it is read or a ValueError, and nothing else."""
    sound, draw = encode(PIXELS, kind), np.random.default_rng(4)
    for number in range(150):
        content = bytearray(sound)
        for _ in range(int(draw.integers(1, 8))):
            content[int(draw.integers(len(content)))] = int(draw.integers(256))
        if number % 3 == 0:
            content = content[: int(draw.integers(len(content)))]
        with suppress(ValueError):
            assert read(bytes(content)).ndim == 4


def repeat_scan(content: bytes, times: int) -> bytes:
    """A JPEG whose last scan stands there more often."""
    begin = content.rindex(b"\xff\xda")
    return content[:begin] + content[begin:-2] * times + content[-2:]


def test_scans_of_a_picture() -> None:
    """A JPEG that goes over its pixels more often than a hundred times is refused; bytes that look so are none."""
    plain = encode(PIXELS, "JPEG", progressive=True, quality=50)
    scans = plain.count(b"\xff\xda")
    assert 1 < scans < MOST_SCANS
    assert read(repeat_scan(plain, MOST_SCANS + 1 - scans)).shape == read(plain).shape
    for more in (b"", b"\xff\xfe\x00\x02" * 10, b"\xff\x01\x00\xff\xff"):
        begin = plain.rindex(b"\xff\xda")
        with pytest.raises(ValueError, match="is a JPEG of more than 100 scans"):
            read(repeat_scan(plain[:begin] + more + plain[begin:], MOST_SCANS + 2 - scans))
    likeness = b"\xff\xda" * 1000
    noted = plain[:2] + b"\xff\xfe" + struct.pack(">H", len(likeness) + 2) + likeness + plain[2:] + likeness
    np.testing.assert_array_equal(read(noted), read(plain))
    with pytest.raises(ValueError, match="more than 65536 segments"):
        read(plain[:2] + b"\xff\xfe\x00\x02" * MOST_SEGMENTS + plain[2:] + likeness)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG"])
@pytest.mark.parametrize(
    "exif",
    [b"Exif\x00\x00garbage", b"Exif\x00\x00II*\x00\x08\x00\x00\x00\xff\xff\x12\x01", b"MM\x00*\x00\x00"],
    ids=["words", "cut off", "short"],
)
def test_damaged_exif(kind: str, exif: bytes) -> None:
    """A picture whose EXIF is damaged is read, and not turned."""
    options = {"lossless": True} if kind == "WEBP" else {"quality": 100} if kind == "JPEG" else {}
    row = read(encode(PIXELS, kind, exif=exif, **options), scale=1, layout="nhwc")
    np.testing.assert_array_equal(row, read(encode(PIXELS, kind, **options), scale=1, layout="nhwc"))
