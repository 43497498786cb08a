"""Sounds of a recipe: the forms of WAV files, other rates, windows, and which files are refused."""

import io
import struct
import sys
import threading
import wave
from contextlib import AbstractContextManager, suppress
from typing import Any

import numpy as np
import pytest

from inferd.engine.recipe.limits import SAMPLE_BYTES
from inferd.engine.recipe.room import Room
from inferd.engine.recipe.sounds import Sounds, resample
from inferd.plugin import AudioInput

RATE = 8000
TONE = (0.5 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)).astype(np.float32)


def wav(data: bytes, *, tag: int = 1, channels: int = 1, rate: int = RATE, bits: int = 16, more: bytes = b"") -> bytes:
    """A WAV file of some form, written here."""
    form = struct.pack("<HHIIHH", tag, channels, rate, 0, 0, bits) + more  # sums of these that nobody needs
    body = b"WAVE" + b"LIST\x03\x00\x00\x00abc\x00" + b"fmt " + struct.pack("<I", len(form)) + form
    body += b"data" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", len(body)) + body


class Noted(Room):
    """Notes what is taken."""

    def __init__(self, size_bytes: int) -> None:
        super().__init__(size_bytes)
        self.needs: list[int] = []

    def taken(self, need_bytes: int) -> AbstractContextManager[None]:
        self.needs.append(need_bytes)
        return super().taken(need_bytes)


def read(content: bytes, most_s: float = 10.0, **step: Any) -> np.ndarray:
    return Sounds(
        AudioInput(name="sound", gives="x", **{"rate": RATE, **step}), most_s=most_s, room=Room(1 << 20)
    ).read(content)


def test_as_the_library_writes_it() -> None:
    """A file of the standard library, two channels mixed, is what went into it."""
    file = io.BytesIO()
    with wave.open(file, "wb") as written:
        written.setnchannels(2)
        written.setsampwidth(2)
        written.setframerate(RATE)
        written.writeframes(np.stack([TONE * 32767, TONE * 0], 1).astype("<i2").tobytes())
    np.testing.assert_allclose(read(file.getvalue()), TONE[None] / 2, atol=1e-4)


@pytest.mark.parametrize(
    ("data", "form", "error"),
    [
        ((TONE * 127 + 128).astype("u1").tobytes(), {"bits": 8}, 0.02),
        ((TONE * 32767).astype("<i2").tobytes(), {}, 1e-4),
        ((TONE * (2**31 - 1)).astype("<i4").view("u1").reshape(-1, 4)[:, 1:].tobytes(), {"bits": 24}, 1e-6),
        ((TONE.astype("f8") * (2**31 - 1)).astype("<i4").tobytes(), {"bits": 32}, 1e-6),
        (TONE.astype("<f4").tobytes(), {"bits": 32, "tag": 3}, 0),
        (TONE.astype("<f8").tobytes(), {"bits": 64, "tag": 3}, 0),
        (
            TONE.astype("<f4").tobytes(),
            {"bits": 32, "tag": 0xFFFE, "more": struct.pack("<HHIH", 22, 32, 4, 3) + b"\x00" * 14},
            0,
        ),
    ],
    ids=["8", "16", "24", "32", "float", "double", "extensible"],
)
def test_forms(data: bytes, form: dict[str, Any], error: float) -> None:
    """Samples of each form become the same numbers."""
    np.testing.assert_allclose(read(wav(data, **form)), TONE[None], atol=error)


@pytest.mark.parametrize(("rate", "to"), [(44100, 16000), (8000, 16000), (48000, 16000), (16000, 22050), (11025, 8000)])
def test_other_rates(rate: int, to: int) -> None:
    """A tone keeps its height and loudness at another rate; one that the new rate cannot hold is gone."""
    time, new = np.arange(rate) / rate, np.arange(to) / to
    made = resample(np.sin(2 * np.pi * 440 * time).astype(np.float32), rate, to)
    assert len(made) == to
    inner = slice(to // 20, -to // 20)
    np.testing.assert_allclose(made[inner], np.sin(2 * np.pi * 440 * new)[inner], atol=2e-3)
    if to < rate:
        high = resample(np.sin(2 * np.pi * 0.47 * rate * time).astype(np.float32), rate, to)
        assert np.abs(high[inner]).max() < 0.02


def test_windows_and_order() -> None:
    """A sound is cut into rows, of which the last is filled up with zeros; the dimensions are as the recipe says."""
    content = wav((np.arange(1, 8) * 4096).astype("<i2").tobytes())
    rows = read(content, window=3, scale=8, layout="nsc")
    np.testing.assert_array_equal(rows[:, :, 0], [[1, 2, 3], [4, 5, 6], [7, 0, 0]])
    assert read(content, window=3, layout="ncs").shape == (3, 1, 3)
    assert read(content, layout="sn").shape == (7, 1)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", r"is no sound that can be read.*: (its first bytes are of none|Format not recognised)"),
        (b"RIFF\x00\x00\x00\x00AVI ", "is a RIFF file, but no WAV file"),
        (wav(b"")[:20], "without samples, or one that is cut off"),
        (wav(b""), "is a sound without samples"),
        (wav(b"\x00\x00", channels=0), "is a WAV file of 0 channels; 1 to 64"),
        (wav(b"\x00\x00", channels=65535), "of 65535 channels"),
        (wav(b"\x00\x00", bits=12), "of form 1 with 12 bits; read are"),
        (wav(b"\x00\x00", bits=0), "of form 1 with 0 bits"),
        (wav(b"\x00\x00", tag=0x5555), r"of form 21845 with 16 bits.* pip install|is no sound that can be read"),
        (wav(b"\x00\x00", rate=0), "has 0 samples a second; from 1000"),
        (wav(b"\x00\x00", rate=2**32 - 1), "has 4294967295 samples a second"),
        (wav(b"\x00\x00\xc0\x7f", tag=3, bits=32), "not finite numbers"),
        (b"RIFF\x00\x00\x00\x00WAVEdata\x02\x00\x00\x00\x00\x00", "samples stand before their form"),
        (b"RIFF\x00\x00\x00\x00WAVEfmt \x02\x00\x00\x00\x00\x00", "whose form has 2 bytes"),
        (wav(bytes(2 * RATE * 11)), "lasts 11.0 s at 8000 samples a second, and workers.audio_s allows 10 s"),
        (wav(bytes(2 * 96000 * 6), rate=96000), r"lasts 6\.0 s at 96000 .* allows 10 s of up to 48000"),
    ],
)
def test_what_is_refused(content: bytes, words: str) -> None:
    """Files that are no sound, damaged or too long are ValueErrors that say what they are."""
    with pytest.raises(ValueError, match=words):
        read(content)


@pytest.mark.parametrize("step", [{"rate": 16_000}, {"scale": 8.0}], ids=["rate", "scale"])
def test_samples_that_become_infinite(step: dict[str, Any]) -> None:
    """Samples that are numbers, and none any more at the rate and scale of the recipe, are refused with their size."""
    loud = np.where(np.arange(400) % 40 < 20, 3.3e38, -3.3e38).astype("<f4")
    content = wav(loud.tobytes(), tag=3, bits=32)
    assert np.isfinite(read(content)).all()
    with pytest.raises(ValueError, match=r"has samples of up to 3\.3e\+38, too large"):
        read(content, **step)
    with pytest.raises(ValueError, match="not finite numbers"):
        read(wav(np.full(4, 1e300, "<f8").tobytes(), tag=3, bits=64))


def test_other_formats() -> None:
    """FLAC and Ogg are read where soundfile is installed, and long ones refused by their head."""
    soundfile = pytest.importorskip("soundfile", reason="soundfile is not installed: pip install 'inferd[files]'")
    for kind, error in (("FLAC", 1e-4), ("OGG", 0.05)):
        file = io.BytesIO()
        soundfile.write(file, np.stack([TONE, TONE], 1), RATE, format=kind)
        np.testing.assert_allclose(read(file.getvalue()), TONE[None], atol=error)
        with pytest.raises(ValueError, match=r"lasts 1\.0 s at 8000"):
            read(file.getvalue(), most_s=0.5)
        with pytest.raises(ValueError, match=r"is no sound that can be read|is a damaged sound|lasts|without samples"):
            read(file.getvalue()[:40])


def encode(sound: np.ndarray, kind: str, rate: int = RATE, **more: Any) -> bytes:
    """A file that soundfile writes."""
    soundfile = pytest.importorskip("soundfile", reason="soundfile is not installed: pip install 'inferd[files]'")
    file = io.BytesIO()
    soundfile.write(file, sound, rate, format=kind, **more)
    return file.getvalue()


@pytest.mark.parametrize("form", ["ULAW", "ALAW", "IMA_ADPCM", "MS_ADPCM", "GSM610"])
def test_coded_waves(form: str) -> None:
    """WAV files in the forms of telephones and recorders are read where soundfile is installed."""
    made = read(encode(TONE, "WAV", subtype=form))[0]
    np.testing.assert_allclose(made[200:7000], TONE[200:7000], atol=0.12)


def test_a_recorder_that_was_cut_off() -> None:
    """A WAV file whose sizes were never written has the samples that follow."""
    content = wav((TONE * 32767).astype("<i2").tobytes())
    place = content.index(b"data") + 4
    for told in (bytes(4), struct.pack("<I", place - 4)):
        np.testing.assert_allclose(
            read(b"RIFF" + told + content[8:place] + bytes(4) + content[place + 4 :]), TONE[None], atol=1e-4
        )


@pytest.mark.parametrize("cut", [0, 100], ids=["whole", "cut off"])
@pytest.mark.parametrize("seconds", [1, 3])
def test_flac_of_unknown_length(seconds: int, cut: int) -> None:
    """A FLAC that does not say how long it is, is read to its last whole frame; without one it is refused."""
    sound = np.tile(TONE, seconds)
    content = bytearray(encode(sound, "FLAC"))
    content[21] &= 0xF0
    content[22:26] = bytes(4)
    made = read(bytes(content[: len(content) - cut]))[0]
    assert len(made) == len(sound) if not cut else len(sound) - 4608 <= len(made) < len(sound)
    np.testing.assert_allclose(made, sound[: len(made)], atol=1e-4)
    with pytest.raises(ValueError, match="does not say how long it is, and no whole frame is at its end"):
        read(bytes(content[:200]))
    with pytest.raises(ValueError, match=r"lasts \d\.\d s at 8000"):
        read(bytes(content), most_s=0.4)


@pytest.mark.parametrize("turned", [False, True], ids=["loud in the end", "loud at first"])
def test_mp3_of_unknown_length(turned: bool) -> None:  # noqa: FBT001 - a parameter of a test
    """An MP3 of varying bit rate is read whole without its head too, and several behind one another are one sound."""
    rate = 16_000
    noise = np.random.default_rng(0).normal(0, 0.3, 2 * rate).astype(np.float32)
    sound = np.concatenate([np.zeros_like(noise), noise])
    sound = sound[::-1].copy() if turned else sound
    content = encode(sound, "MP3", rate, subtype="MPEG_LAYER_III", bitrate_mode="VARIABLE", compression_level=0.2)
    bare = content[content.index(content[:2], 2) :]
    whole = read(content, rate=rate)[0]
    assert len(whole) == len(sound)
    tag = b"TAG" + bytes(125)
    front = b"ID3\x03\x00\x00\x00\x00\x00\x0a" + bytes(10)
    frame, delay = 1152, 3 * 1152
    for changed, times in ((bare, 1), (content * 2, 2), (front + bare + tag + front + bare + tag, 2), (bare * 2, 2)):
        made = read(changed, rate=rate)[0]
        assert 0 <= len(made) - times * len(sound) <= times * delay, times
        assert abs(float((made**2).sum() / (whole**2).sum()) - times) < 0.05 * times
    with pytest.raises(ValueError, match=r"lasts .* s at 16000"):
        read(bare, most_s=1.0, rate=rate)
    other = encode(TONE, "MP3", 32_000)
    with pytest.raises(ValueError, match="is an MP3 of parts that differ in rate or channels"):
        read(content + other, rate=rate)
    assert len(read(content[: len(content) // 2], rate=rate)[0]) > frame


def test_what_is_missing_for_other_formats(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without soundfile its files are refused with what would read them, and others with what they are."""
    monkeypatch.setitem(sys.modules, "soundfile", None)
    for begin, kind in ((b"fLaC", "FLAC"), (b"OggS", "Ogg"), (b"ID3", "MP3"), (b"\xff\xfb", "MP3")):
        with pytest.raises(ValueError, match=rf"is {kind}, which is read .* pip install 'inferd\[files\]'"):
            read(begin + b"\x00" * 40)
    for begin, kind in ((b"\x89PNG\r\n", "a PNG"), (b"\xff\xd8\xff\xe0", "a JPEG")):
        with pytest.raises(ValueError, match=rf"is no sound that can be read .*: it begins as {kind}$"):
            read(begin + b"\x00" * 40)
    with pytest.raises(ValueError, match=r"is no sound .*: its first bytes are of none of them$"):
        read(b"\x00" * 40)


def test_what_a_short_file_becomes() -> None:
    """What another rate and rows make of a sound is within the bound on its time, and has its room."""
    second = wav(bytes(2000), rate=1000)
    for step, made in (
        ({"rate": 192_000}, 192_000),
        ({"window": 50_000}, 50_000),
        ({"rate": 48_000, "window": 25_000}, 50_000),
    ):
        with pytest.raises(
            ValueError, match=rf"lasts 1\.0 s and becomes {made} samples, .* allows 1 s .* 48000 samples"
        ):
            read(second, most_s=1.0, **step)
    assert read(second, most_s=1.0, rate=48_000, window=24_000).shape == (2, 24_000)
    room = Noted(1 << 30)
    step = AudioInput(name="sound", gives="x", rate=48_000, window=40_000)
    assert Sounds(step, most_s=2.0, room=room).read(second).size == 80_000
    assert room.needs == [SAMPLE_BYTES * 80_000]


def test_rates_without_a_common_divisor() -> None:
    """A sound at a rate that shares no divisor with the recipe's is made in few steps, not in one for each phase."""
    tone = np.sin(2 * np.pi * 440 * np.arange(47_999) / 47_999).astype(np.float32)
    steps: list[int] = []
    sinc = np.sinc
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np, "sinc", lambda x: (steps.append(len(x)), sinc(x))[1])
        made = resample(tone, 47_999, 48_000)
    np.testing.assert_allclose(
        made[100:-100], np.sin(2 * np.pi * 440 * np.arange(48_000) / 48_000)[100:-100], atol=2e-3
    )
    assert sum(steps) == 48_000
    assert len(steps) < 20


def test_files_share_one_room() -> None:
    """Of files that are read at once one waits until there is room; one that needs more than there is has it alone."""
    room, done, inside = Room(10), threading.Event(), threading.Event()

    def second() -> None:
        with room.taken(100):
            inside.set()
        done.set()

    thread = threading.Thread(target=second)
    with room.taken(4), room.taken(6):
        thread.start()
        assert not inside.is_set()
        assert not done.is_set()
    thread.join(30)
    assert inside.is_set()
    with room.taken(10):
        pass


def test_damaged_sounds() -> None:
    """Whatever is changed in the head of a file, it is read or a ValueError, and nothing else."""
    sound, draw = wav((TONE[:50] * 32767).astype("<i2").tobytes()), np.random.default_rng(4)
    for _ in range(400):
        content = bytearray(sound)
        for _ in range(int(draw.integers(1, 5))):
            content[int(draw.integers(60))] = int(draw.integers(256))
        with suppress(ValueError):
            assert read(bytes(content)).ndim == 2
