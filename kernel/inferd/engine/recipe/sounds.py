"""Sounds: from the bytes of a file to samples of one channel at the rate that a model takes.

Plain WAV is read here; source: Microsoft's "Multimedia Programming Interface and Data Specifications 1.0" (RIFF) and
WAVEFORMATEXTENSIBLE. Other formats, and coded WAV, need soundfile.
"""

from __future__ import annotations

import io
import struct
from importlib import import_module
from importlib.util import find_spec
from math import gcd
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from inferd.engine.recipe.lengths import UNKNOWN, mend_flac, mend_mp3
from inferd.engine.recipe.limits import COUNTED_RATE, SAMPLE_BYTES
from inferd.engine.recipe.mels import Mels
from inferd.errors import is_failure, words_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from inferd.engine.recipe.room import Room
    from inferd.plugin.recipe import AudioInput

    Floats = NDArray[np.float32]

PCM, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE
HEAD_BYTES, FORMAT_BYTES, EXTENDED_BYTES = 12, 16, 26
STREAMED: Final = 0x7FFF0000  # sizes from here on are what programs write that cannot go back
RATES, MOST_CHANNELS = range(1000, 768_001), 64
READERS: Final = {(PCM, 8): "u1", (PCM, 16): "<i2", (PCM, 32): "<i4", (FLOAT, 32): "<f4", (FLOAT, 64): "<f8"}
SOUNDS: Final = ("FLAC", "Ogg", "MP3")  # that soundfile reads
OTHERS: Final = {
    b"fLaC": "FLAC",
    b"OggS": "Ogg",
    b"ID3": "MP3",
    b"\x89PNG": "a PNG",
    b"\xff\xd8\xff": "a JPEG",
    b"GIF8": "a GIF",
    b"%PDF": "a PDF",
    b"PK": "a ZIP",
}
PART: Final = 1 << 16  # samples of each channel that soundfile reads at once
GATHERED: Final = 1 << 19  # samples that are put side by side at once
ZERO_CROSSINGS: Final = 16  # of the kernel that samples again, on each side


class Sounds:
    """Reads sounds as a recipe says. May be called from several threads.

    Args:
        step: Of the recipe.
        most_s: Seconds of a sound.
        room: For those that are read at once.
    """

    def __init__(self, step: AudioInput, *, most_s: float, room: Room) -> None:
        self._step = step
        self._most_s = most_s
        self._room = room
        self._mels = Mels(bands=step.mels, fft=step.fft, hop=step.hop, rate=step.rate) if step.mels else None

    def read(self, content: bytes) -> Floats:
        """The rows of a file, as `measure`."""
        return self.measure(content)[0]

    def count(self, content: bytes) -> int:
        """How many samples a file becomes at the rate of the recipe, by its head alone.

        Raises:
            ValueError: It is no sound, cut off, without samples, or too long.
        """
        wave = _find_samples(content) if content[:4] == b"RIFF" else None
        if wave is not None and (wave[0][0] in (PCM, FLOAT) or find_spec("soundfile") is None):
            (_, channels, rate, bits), data, told = wave
            frame = channels * (bits // 8)
            if len(data) < told < STREAMED:
                raise ValueError(
                    f"is a WAV file that is cut off: its head tells {told} bytes of samples, and {len(data)} are there"
                )
            samples = len(data) // frame if frame else 0
        else:
            with self._open_whole(content) as file:
                rate, samples = int(file.samplerate), len(file)
        self._check(samples, rate)
        if not samples:
            raise ValueError("is a sound without samples")
        return -(-samples * self._step.rate // rate)

    def measure(self, content: bytes) -> tuple[Floats, float]:
        """The rows of a file, in the order of the recipe's layout, and how long its sound is, in seconds.

        Raises:
            ValueError: It is no sound, damaged, or too long.
        """
        wave = _find_samples(content) if content[:4] == b"RIFF" else None
        if wave is not None and (wave[0][0] in (PCM, FLOAT) or find_spec("soundfile") is None):
            form, data, _ = wave
            rate, frame = form[2], form[1] * (form[3] // 8)
            most = self._check(len(data) // frame if frame else 0, rate)
            with self._room.taken(SAMPLE_BYTES * max(len(data), most)):
                mono = _mix(_read_samples(data, form))
                return self._to_rows(mono, rate), len(mono) / rate
        with self._open_whole(content) as file:
            rate = int(file.samplerate)
            with self._room.taken(SAMPLE_BYTES * self._check(len(file), rate)):
                mono = self._read_other(file)
                return self._to_rows(mono, rate), len(mono) / rate

    def _to_rows(self, mono: Floats, rate: int) -> Floats:
        """The rows of a sound of one channel."""
        if not len(mono):
            raise ValueError("is a sound without samples")
        if not np.isfinite(mono).all():
            raise ValueError("has samples that are not finite numbers")
        with np.errstate(over="ignore", invalid="ignore"):
            sound = resample(mono, rate, self._step.rate) * np.float32(self._step.scale)
        if not np.isfinite(sound).all():
            raise ValueError(
                f"has samples of up to {np.abs(mono).max():g}, too large to be given at another rate or scale"
            )
        window = self._step.window or len(sound)
        rows = -(-len(sound) // window)
        sound = np.pad(sound, (0, rows * window - len(sound))).reshape(rows, window)
        if self._mels is not None:
            return self._mels.read(sound)
        order = self._step.layout
        whole = sound[:, :, None] if "c" in order else sound
        return np.ascontiguousarray(whole.transpose(["nsc".index(letter) for letter in order]))

    def _check(self, samples: int, rate: int) -> int:
        """Whether a sound is within the bound, as it is and as it becomes; the samples of the larger one."""
        if rate not in RATES:
            raise ValueError(f"has {rate} samples a second; from {RATES[0]} to {RATES[-1]} are taken")
        if samples > self._most_s * min(rate, COUNTED_RATE):
            raise ValueError(
                f"lasts {samples / rate:.1f} s at {rate} samples a second, and workers.audio_s allows"
                f" {self._most_s:g} s of up to {COUNTED_RATE}"
            )
        made = -(-samples * self._step.rate // rate)
        window = self._step.window or made or 1
        made = -(-made // window) * window
        if made > (most := self._most_s * COUNTED_RATE):
            raise ValueError(
                f"lasts {samples / rate:.1f} s and becomes {made} samples, {self._step.rate} a second, {window} a row"
                f"; workers.audio_s allows {self._most_s:g} s of up to {COUNTED_RATE}, which are {most:.0f} samples"
            )
        return max(samples, made)

    def _open_whole(self, content: bytes) -> Any:
        """A sound that soundfile reads to its end, whatever its head says or does not say of its length."""
        file = self._open_other(content)
        try:
            mended = _mend(content, str(file.format), len(file), int(self._most_s * COUNTED_RATE) + 1)
        except ValueError:
            file.close()
            raise
        if mended is content:
            return file
        file.close()
        return self._open_other(mended)

    def _open_other(self, content: bytes) -> Any:
        """A sound that soundfile reads, of which only the head is read."""
        if find_spec("soundfile") is None:
            raise ValueError(_lacking(content))
        library: Any = import_module("soundfile")
        try:
            file: Any = library.SoundFile(io.BytesIO(content))
        except BaseException as error:
            if not is_failure(error):
                raise
            raise ValueError(f"is no sound that can be read: {_cause(error)}") from None
        if file.channels > MOST_CHANNELS:
            file.close()
            raise ValueError(f"has {file.channels} channels; at most {MOST_CHANNELS} are taken")
        return file

    def _read_other(self, file: Any) -> Floats:
        """Its samples, part by part, since a short file may have many channels."""
        parts, count, most = [], 0, len(file)
        try:
            while count < most and len(part := file.read(PART, dtype="float32", always_2d=True)):
                parts.append(_mix(part))
                count += len(part)
        except BaseException as error:
            if not is_failure(error):
                raise
            raise ValueError(f"is a damaged sound: {_cause(error)}") from None
        return np.concatenate(parts)[:most] if parts else np.empty(0, np.float32)


def _mend(content: bytes, kind: str, samples: int, most: int) -> bytes:
    """A file whose head says how long it is.

    Raises:
        ValueError: It cannot be told.
    """
    if kind == "MP3":
        return mend_mp3(content, most)
    if samples < UNKNOWN:
        return content
    if kind == "FLAC":
        return mend_flac(content)
    raise ValueError(f"is a sound ({kind}) that does not say how long it is; save it again")


def _lacking(content: bytes) -> str:
    """Why a file that is no WAV is not read without soundfile: by its first bytes."""
    kind = next((kind for begin, kind in OTHERS.items() if content.startswith(begin)), "")
    if kind in SOUNDS or (content[:1] == b"\xff" and content[1:2] >= b"\xe0"):  # the frames of an MP3 begin so
        return f"is {kind or 'MP3'}, which is read where soundfile is installed: pip install 'inferd[files]'"
    told = f"it begins as {kind}" if kind else "its first bytes are of none of them"
    return f"is no sound that can be read (WAV; {', '.join(SOUNDS)} where soundfile is installed): {told}"


def _cause(error: BaseException) -> str:
    """What soundfile says, in one line, without the address of what it was given."""
    return " ".join((getattr(error, "error_string", "") or words_of(error)).split())[:200]


def _mix(samples: Floats) -> Floats:
    """One channel of all, of samples (frames, channels)."""
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused
        mixed: Floats = samples.mean(1, dtype=np.float32) if samples.shape[1] > 1 else samples[:, 0]
    return mixed


def _find_samples(content: bytes) -> tuple[tuple[int, int, int, int], memoryview, int]:
    """The form of a WAV file (tag, channels, rate, bits), its samples as they stand there, and their bytes by its head.

    Raises:
        ValueError: It is damaged, or of a form that is not known.
    """
    form: tuple[int, int, int, int] | None = None
    at = HEAD_BYTES
    if content[8:12] != b"WAVE":
        raise ValueError("is a RIFF file, but no WAV file")
    while at + 8 <= len(content):
        name, size = content[at : at + 4], struct.unpack_from("<I", content, at + 4)[0]
        begin, at = at + 8, at + 8 + size + size % 2
        if name == b"fmt ":
            form = _read_form(content[begin : begin + size])
        elif name == b"data":
            if form is None:
                raise ValueError("is a WAV file whose samples stand before their form")
            told = struct.unpack_from("<I", content, 4)[0]
            if not size and told + 8 < len(content):  # who wrote it came to no end; all that follows are samples
                size = len(content) - begin
            return form, memoryview(content)[begin : begin + size], size
    raise ValueError("is a WAV file without samples, or one that is cut off")


def _read_form(head: bytes) -> tuple[int, int, int, int]:
    if len(head) < FORMAT_BYTES:
        raise ValueError(f"is a WAV file whose form has {len(head)} bytes; it must have {FORMAT_BYTES}")
    tag, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", head)
    if tag == EXTENSIBLE and len(head) >= EXTENDED_BYTES:
        tag = struct.unpack_from("<H", head, EXTENDED_BYTES - 2)[0]
    if not 1 <= channels <= MOST_CHANNELS:
        raise ValueError(f"is a WAV file of {channels} channels; 1 to {MOST_CHANNELS} are taken")
    return tag, channels, rate, bits


def _read_samples(data: memoryview, form: tuple[int, int, int, int]) -> Floats:
    """Samples (frames, channels) as numbers from -1 to 1."""
    tag, channels, _, bits = form
    frame = channels * (bits // 8)
    data = data[: len(data) // frame * frame] if frame else data[:0]
    if (tag, bits) == (PCM, 24):
        bytes_ = np.frombuffer(data, np.uint8).reshape(-1, 3)
        whole = np.zeros((len(bytes_), 4), np.uint8)
        whole[:, 1:] = bytes_
        numbers: NDArray[Any] = whole.view("<i4")[:, 0]
        bits = 32
    elif (tag, bits) in READERS:
        numbers = np.frombuffer(data, READERS[tag, bits])
    else:
        known = "PCM of 8, 16, 24 and 32 bits and floats of 32 and 64 bits"
        other = "" if tag in (PCM, FLOAT) else ", and others where soundfile is installed: pip install 'inferd[files]'"
        raise ValueError(f"is a WAV file of form {tag} with {bits} bits; read are {known}{other}")
    with np.errstate(over="ignore", invalid="ignore"):  # as above
        floats = numbers.astype(np.float32)
    if tag == PCM:
        floats = (floats - np.float32(128)) / np.float32(128) if bits == 8 else floats / np.float32(1 << (bits - 1))  # noqa: PLR2004 - without sign
    return floats.reshape(-1, channels)


def resample(sound: Floats, rate: int, to: int) -> Floats:
    """A sound at another rate, by a sinc under a Hann window that takes off what the lower rate cannot hold.

    Source: J. O. Smith, "Digital Audio Resampling Home Page"; here for each phase of the ratio by itself.
    """
    if rate == to:
        return sound
    up, down = to // gcd(rate, to), rate // gcd(rate, to)
    cut = min(1.0, to / rate)  # of the frequencies that the old rate holds
    half = int(np.ceil(ZERO_CROSSINGS / cut))
    count = -(-len(sound) * up // down)
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(sound, (half, half + 1)), 2 * half)
    out = np.empty(count, np.float32)
    rounds = -(-count // up)
    step = min(rounds, max(1, GATHERED // (2 * half)))
    block = max(1, GATHERED // (2 * half * step))  # phases at once: rates without a common divisor have very many
    for phase in range(0, min(up, count), block):
        phases = np.arange(phase, min(phase + block, up, count))
        kernels = _make_kernels((phases * down) % up / up, cut, half)
        for first in range(0, rounds, step):
            places = phases[:, None] + np.arange(first, min(first + step, rounds)) * up
            begins = np.minimum(places * down // up + 1, len(windows) - 1)  # the last round may be cut off
            made = (windows[begins] @ kernels[:, :, None])[..., 0]
            out[places[places < count]] = made[places < count]
    return out


def _make_kernels(parts: NDArray[np.float64], cut: float, half: int) -> Floats:
    """What samples around a place are multiplied by, for places so far behind a sample, a row each."""
    offset = np.arange(1 - half, half + 1) - parts[:, None]  # the window begins one sample behind half of it
    kernels = cut * np.sinc(cut * offset) * (0.5 + 0.5 * np.cos(np.pi * offset / half))
    kernels[np.abs(offset) > half] = 0
    return kernels.astype(np.float32)
