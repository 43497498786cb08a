"""Files of pictures on their way to a model: what is taken, what is refused, and where they stand in a prompt."""

import struct
import threading
import zlib
from io import BytesIO
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("PIL", reason="Pillow is not installed: pip install 'inferd[files]'")

from PIL import Image, ImageOps

from inferd.engine.pictures.gallery import Gallery, open_gallery
from inferd.engine.pictures.kept import Kept
from inferd.engine.pictures.limits import PictureLimits
from inferd.engine.pictures.placing import expand
from inferd.engine.text.control import Prompt
from inferd.engine.token.prefix import PrefixChain
from inferd.engine.token.wholes import least, uncut
from inferd.engine.work import ChatInput, Message
from inferd.errors import (
    ChatTemplateError,
    InvalidFieldError,
    LimitExceededError,
    PromptTooLongError,
    UnsupportedInputError,
)
from inferd.plugin import Outline, Picture, PictureReader, PlacedPicture

AT = "spec.chat.messages[0].parts[1]"
IMAGE_ID = 7


class Reader:
    """A token for each row of pixels, between two that are nobody's."""

    placeholder, token_id = "<image>", IMAGE_ID

    def __init__(self) -> None:
        self.read_shapes: list[tuple[int, ...]] = []
        self.outlined: list[int] = []

    def outline(self, high: int, wide: int) -> Outline:
        self.outlined.append(high)
        if high > 4 * wide:
            raise ValueError(f"has {wide} x {high} pixels and is too high")
        return Outline(text="<a>" + "<image>" * high + "<b>", tokens=high, pixels=high * wide)

    def read(self, pixels: Any) -> dict[str, Any]:
        self.read_shapes.append(pixels.shape)
        return {"pixels": pixels}


def save(picture: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    file = BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()


def plain(wide: int = 6, high: int = 4, form: str = "PNG", **options: Any) -> bytes:
    return save(Image.new("RGB", (wide, high), (9, 8, 7)), form, **options)


def head_of_png(wide: int, high: int) -> bytes:
    """A PNG that says so much of itself, and has hardly any pixels."""
    head = b"IHDR" + struct.pack(">IIBBBBB", wide, high, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part)) for part in (head, b"IDATxx")
    )


def chat_of(*files: bytes) -> ChatInput:
    message = Message("user", "", parts=("say",), images=tuple(range(1, len(files) + 1)))
    return ChatInput((message,), files=files)


def place(gallery: Gallery, *files: bytes, salt: bytes = b"") -> tuple[PlacedPicture, ...]:
    chat = chat_of(*files)
    gallery.arranger(chat, ())
    outlines = gallery._outlines(chat)
    ids = [token for outline in outlines for token in (1, *[IMAGE_ID] * outline.tokens, 2)]
    return gallery.place(chat, ids, salt=salt)


@pytest.fixture
def reader() -> Reader:
    return Reader()


@pytest.fixture
def gallery(reader: Reader) -> Gallery:
    assert isinstance(reader, PictureReader)
    return Gallery(reader, PictureLimits(pixels=10_000))


FRAMES = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
MOVING, MOVING_PNG = (save(FRAMES[0], form, save_all=True, append_images=FRAMES[1:]) for form in ("GIF", "PNG"))


@pytest.mark.parametrize(
    ("file", "words"),
    [
        (b"", "is no picture that can be read"),
        (b"%PDF-1.4 not a picture", "its first bytes are of none of them"),
        (plain(form="TIFF"), "is no picture that can be read"),
        (head_of_png(5000, 4000), "has 5000 x 4000 pixels, and workers.image_pixels allows 10000"),
        (head_of_png(1 << 31, 1 << 31), "pixels|is no picture"),
        (plain(60, 60)[:-40], "is a damaged PNG"),
        (save(Image.effect_noise((60, 60), 90), "JPEG")[:-200], "is a damaged JPEG"),
        (plain(60, 60, "WEBP")[:-20], "is a damaged WEBP|is no picture"),
        (MOVING, "is a GIF that moves: send the frames"),
        (MOVING_PNG, "is a PNG that moves"),
        (plain(2, 9), "has 2 x 9 pixels and is too high"),
    ],
)
def test_a_picture_that_cannot_be_read_is_an_error_that_names_it(gallery: Gallery, file: bytes, words: str) -> None:
    """A file that is no picture, too large, cut off, moves or is refused by the model is INVALID_FIELD, by its path."""
    with pytest.raises(InvalidFieldError, match=words) as caught:
        place(gallery, file)
    assert caught.value.field == AT
    assert str(caught.value).startswith(AT)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_pictures_are_read_as_pixels(gallery: Gallery, reader: Reader, form: str) -> None:
    """A still picture of each format reaches the model as rows of red, green and blue."""
    (placed,) = place(gallery, plain(form=form))
    assert reader.read_shapes == [(4, 6, 3)]
    assert placed.places.tolist() == [1, 2, 3, 4]
    assert np.abs(placed.picture.values()["pixels"][0, 0].astype(int) - (9, 8, 7)).max() <= 3


def test_a_picture_is_turned_as_its_exif_says_before_its_size_counts(gallery: Gallery, reader: Reader) -> None:
    """A picture that lies on its side has as many tokens as it has rows when it stands, and is read as it stands."""
    exif = Image.Exif()
    exif[0x0112] = 6
    (placed,) = place(gallery, plain(6, 4, "JPEG", exif=exif))
    assert (placed.picture.outline.tokens, reader.read_shapes) == (6, [(6, 4, 3)])


def chunk_of_exif(orientation: int, *, real: bool = False) -> bytes:
    """A PNG's chunk that says how the picture lies, as a whole number or as a real one."""
    said = struct.pack(">HII", 12, 1, 26) + bytes(4) + struct.pack(">d", orientation)
    if not real:
        said = struct.pack(">HIHH", 3, 1, orientation, 0) + bytes(4)
    part = b"eXIfMM\0*\0\0\0\x08" + struct.pack(">HH", 1, 0x0112) + said
    return struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part))


@pytest.mark.parametrize(
    ("before", "behind", "shape"),
    [
        (chunk_of_exif(6), b"", (6, 4, 3)),
        (b"", chunk_of_exif(6), (4, 6, 3)),
        (chunk_of_exif(1), chunk_of_exif(6), (4, 6, 3)),
        (chunk_of_exif(6), chunk_of_exif(1), (6, 4, 3)),
        (chunk_of_exif(6, real=True), b"", (4, 6, 3)),
    ],
    ids=["before", "behind", "turned behind", "straight behind", "real"],
)
def test_a_picture_lies_as_its_head_says(
    gallery: Gallery, reader: Reader, before: bytes, behind: bytes, shape: tuple[int, ...]
) -> None:
    """The pixels that are read are of the size that counted, whatever stands behind them or is no whole number."""
    file = plain(6, 4)
    data, end = file.index(b"IDAT") - 4, file.index(b"IEND") - 4
    (placed,) = place(gallery, file[:data] + before + file[data:end] + behind + file[end:])
    assert (placed.picture.outline.tokens, reader.read_shapes) == (shape[0], [shape])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_as_pillow_turns_it(gallery: Gallery, orientation: int) -> None:
    """Each of the eight orientations gives the pixels that Pillow gives for it."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = save(Image.fromarray(np.arange(72, dtype=np.uint8).reshape(4, 6, 3)), exif=exif)
    (placed,) = place(gallery, file)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(BytesIO(file))))
    assert np.array_equal(placed.picture.values()["pixels"], expected)


def test_transparent_parts_are_white(gallery: Gallery) -> None:
    """What shows nothing of a picture shows white, whatever color stands there."""
    (placed,) = place(gallery, save(Image.new("RGBA", (2, 1), (200, 0, 0, 0))))
    assert placed.picture.values()["pixels"].tolist() == [[[255, 255, 255]] * 2]


def test_what_was_read_is_kept_by_file_and_tenant(gallery: Gallery, reader: Reader) -> None:
    """The same file is read once for a tenant and has one key; for another tenant it has another one."""
    (first,), (again,) = place(gallery, plain()), place(gallery, plain())
    (other,) = place(gallery, plain(), salt=b"other")
    assert first.picture.key == again.picture.key != other.picture.key
    assert len(reader.read_shapes) == 2


def test_what_is_kept_is_bounded() -> None:
    """What was used last stays, as much as there is room for; what is larger than all of that is not kept at all."""
    kept = Kept(100)
    for name in (b"a", b"b", b"c"):
        kept.keep(name, {"x": np.zeros(40, np.uint8)})
    kept.keep(b"d", {"x": np.zeros(101, np.uint8)})
    assert [kept.find(name) is not None for name in (b"a", b"b", b"c", b"d")] == [False, True, True, False]


def test_what_was_read_stays_until_it_is_computed(reader: Reader) -> None:
    """Pictures of a task that waits are not read again in its step because others came; then, and with it, they go."""
    gallery = Gallery(reader, PictureLimits(kept_bytes=3 * 72))
    held = place(gallery, plain(6, 4))
    dropped = place(gallery, plain(4, 6))
    others = [place(gallery, save(Image.new("RGB", (6, 4), (n, 0, 0)))) for n in range(4)]
    read = len(reader.read_shapes)
    assert held[0].picture.values()["pixels"][0, 0].tolist() == [9, 8, 7]
    assert dropped[0].picture.values()["pixels"].shape == (6, 4, 3)
    assert len(reader.read_shapes) == read
    del dropped, others
    place(gallery, *(save(Image.new("RGB", (6, 4), (n, 1, 0))) for n in range(3)))
    assert len(reader.read_shapes) == read + 3
    place(gallery, *(save(Image.new("RGB", (6, 4), (n, 1, 0))) for n in range(3)))
    assert len(reader.read_shapes) == read + 3


def test_pictures_of_a_conversation_that_cannot_all_be_held_are_refused(reader: Reader) -> None:
    """Pictures that take more than is kept are LIMIT_EXCEEDED with both numbers; the same one again takes nothing."""
    gallery = Gallery(reader, PictureLimits(kept_bytes=100))
    place(gallery, plain(), plain())
    with pytest.raises(LimitExceededError, match=r"take 144 bytes until .* workers.picture_bytes allows 100") as caught:
        place(gallery, plain(), plain(4, 6))
    assert caught.value.metadata["bound"] == "workers.picture_bytes"


def test_a_step_waits_for_no_room(reader: Reader) -> None:
    """What is not held any more is read in the step at once, though pictures of others fill the room for reading."""
    gallery = Gallery(reader, PictureLimits(pixels=24, kept_bytes=0))
    (placed,) = place(gallery, plain(6, 4))
    with gallery._source._room.taken(1 << 30):
        reading = threading.Thread(target=placed.picture.values, daemon=True)
        reading.start()
        reading.join(30)
        assert not reading.is_alive()


def test_prompts_and_steps_bound_pictures(gallery: Gallery, reader: Reader) -> None:
    """Pictures of more tokens than a context, or than a step that has to hold one, are refused before they are read."""
    with pytest.raises(PromptTooLongError, match="2 pictures of 8 tokens in all, and the model's context is 8 tokens"):
        gallery.arranger(chat_of(plain(), plain()), (), most_tokens=7)
    whole = Gallery(reader, PictureLimits(), step_tokens=3)
    with pytest.raises(LimitExceededError, match="has 4 tokens, which are computed in one step, and a step has 3"):
        whole.arranger(chat_of(plain()), ())
    assert not reader.read_shapes


@pytest.mark.parametrize("most_tokens", [None, 7])
def test_heads_of_many_pictures_cost_nothing(reader: Reader, most_tokens: int | None) -> None:
    """More pictures than are allowed are refused before any is looked at, and none behind the one that is too much."""
    gallery = Gallery(reader, PictureLimits(count=5))
    with pytest.raises(LimitExceededError, match=r"messages has 6 pictures, and workers.pictures allows 5: send fewer"):
        gallery.arranger(chat_of(*[head_of_png(6, 4)] * 6), (), most_tokens=most_tokens)
    assert not reader.outlined
    with pytest.raises(PromptTooLongError, match="has 5 pictures, the first 2 of 8 tokens in all, and the model's"):
        gallery.arranger(chat_of(*[head_of_png(6, 4)] * 5), (), most_tokens=7)
    assert reader.outlined == [4, 4]


@pytest.mark.parametrize("why", ["", "it has no tower"])
def test_a_model_that_takes_none_says_so(why: str) -> None:
    """A picture for a model of texts is UNSUPPORTED_INPUT that names the part and why."""
    with pytest.raises(UnsupportedInputError, match=rf"this model takes none.*{why}") as caught:
        open_gallery(why, PictureLimits()).arranger(chat_of(plain()), ())
    assert caught.value.field == AT


OUTLINE = Outline(text="\n<a><image><image><b>\n", tokens=2, pixels=1)
ADDED = ("<a>", "<image>", "<b>", "<i>")


def test_places_become_the_texts_of_pictures() -> None:
    """What a template wrote for a picture becomes its tokens; where users say the same, it stays plain text."""
    prompt = Prompt("<i>x<image>y<image>z<b>")
    text = f"<i>x{OUTLINE.text}y{OUTLINE.text}z<b>"
    assert expand(prompt, [OUTLINE] * 2, placeholder="<image>", added=ADDED) == Prompt(text)
    own = ((0, "<i>"), (12, "<image>"), (20, "<b>"))
    given = expand(Prompt(prompt.text, own, frozenset({"<image>"})), [OUTLINE], placeholder="<image>", added=ADDED)
    assert given.text == f"<i>x<image>y{OUTLINE.text}z<b>"
    assert given.plain == {"<image>"}
    assert given.own is not None
    assert all(given.text.startswith(token, at) for at, token in given.own)
    assert [token for _, token in given.own] == ["<i>", "<a>", "<image>", "<image>", "<b>", "<b>"]


def test_places_and_pictures_that_do_not_match_are_an_error() -> None:
    """A template that writes fewer places than there are pictures is an error, as are tokens of no picture."""
    with pytest.raises(ChatTemplateError, match=r"writes 1 places \(<image>\) for 2 pictures"):
        expand(Prompt("<image>"), [OUTLINE] * 2, placeholder="<image>", added=ADDED)
    gallery = Gallery(Reader(), PictureLimits())
    with pytest.raises(ChatTemplateError, match=r"has 5 tokens of pictures .* pictures have 4"):
        gallery.place(chat_of(plain()), [IMAGE_ID] * 5, salt=b"")


def test_no_prefix_crosses_pictures() -> None:
    """Blocks with equal tokens have other names where another picture is in them, or another part of that one."""
    tokens = np.full(12, IMAGE_ID, np.int32)

    def names(*shown: tuple[bytes, int]) -> list[bytes]:
        chain = PrefixChain(salt=b"s", block_tokens=4)
        chain.show([placed(key, begin) for key, begin in shown])
        return chain.digests(tokens, 3)

    def placed(key: bytes, begin: int) -> PlacedPicture:
        picture = Picture(key=key * 32, outline=OUTLINE, values=dict)
        return PlacedPicture(picture=picture, places=np.arange(begin, begin + 6, dtype=np.int32))

    same = names((b"a", 1))
    assert same == names((b"a", 1))
    assert not set(same) & set(names((b"b", 1)))
    assert not set(same) & set(names())
    shifted = names((b"a", 2))
    assert not set(same) & set(shifted)
    later = names((b"a", 5))
    assert later[0] == names()[0]


def test_no_step_ends_within_a_picture_whose_tokens_see_each_other() -> None:
    """A step takes the text before such a picture, or all of the picture, or nothing where that has no room."""
    chain = PrefixChain(salt=b"", block_tokens=4)
    picture = Picture(key=b"k", outline=OUTLINE, values=dict)
    chain.show((PlacedPicture(picture=picture, places=np.arange(10, 16, dtype=np.int32)),))
    given: Any = SimpleNamespace(pictures=chain.pictures, length=40)
    assert [uncut(given, 0, most, room=40) for most in (8, 10, 11, 15, 16, 20)] == [8, 10, 10, 10, 16, 20]
    assert [uncut(given, 10, most, room=room) for most, room in ((1, 6), (1, 5), (6, 5), (9, 9))] == [6, 0, 6, 9]
    assert [uncut(given, 12, most, room=40) for most in (1, 3, 4)] == [4, 4, 4]
    assert uncut(given, 16, 3, room=3) == 3
    assert [least(given, begin) for begin in (0, 10, 12, 16)] == [1, 6, 4, 1]
