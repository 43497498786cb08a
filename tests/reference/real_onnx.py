"""Inputs for real ONNX models, with what they must answer."""

import gzip
import io
import json
import sys
import tarfile
import wave
import zipfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
FORMANTS = ((700, 1200, 2500), (300, 2200, 3000), (500, 1000, 2400))  # of the vowels in "father", "see", "law", in Hz
LOUDNESS = (1.0, 0.6, 0.3)
SPEECH_S = (1.0, 3.0)  # when somebody speaks in `speech`, which lasts four seconds


def speech(rate: int, pitch: float = 120.0, seed: int = 0) -> np.ndarray:
    """Four seconds, in the second and third of which a voice sings vowels, four a second; and a little noise."""
    time = np.arange(4 * rate) / rate
    frequency = pitch + pitch / 6 * np.sin(2 * np.pi * 3 * time)
    phase = 2 * np.pi * np.cumsum(frequency) / rate
    vowel = (time * 4).astype(int) % len(FORMANTS)
    sound = np.zeros_like(time)
    for overtone in range(1, int((rate / 2 - 200) / pitch)):
        at = overtone * frequency
        each = [
            sum(loud * np.exp(-(((at - top) / 120) ** 2)) for top, loud in zip(tops, LOUDNESS, strict=True))
            for tops in FORMANTS
        ]
        sound += np.choose(vowel, each) * np.sin(overtone * phase)
    sound *= 0.5 + 0.5 * np.sin(2 * np.pi * 4 * time - 1.5)
    sound *= 0.3 / np.abs(sound).max()
    sound[(time < SPEECH_S[0]) | (time >= SPEECH_S[1])] = 0
    return (sound + np.random.default_rng(seed).normal(0, 0.001, len(time))).astype(np.float32)


def melody(numbers: list[int], rate: int, note_s: float = 0.45) -> np.ndarray:
    """Notes after each other, by their numbers in MIDI: five overtones that fade like a string's."""
    time = np.arange(int(note_s * rate)) / rate
    fading = 0.3 * np.exp(-3 * time) * np.minimum(1, time * 100)
    notes = [
        fading * sum(np.sin(2 * np.pi * 440 * 2 ** ((number - 69) / 12) * k * time) / k for k in range(1, 6))
        for number in numbers
    ]
    return np.concatenate([np.zeros(rate // 20), *notes]).astype(np.float32)


def files_of_ten_types() -> dict[str, bytes]:
    """A file of each type, by magika's name of it: made here, or of this project."""
    random = np.random.default_rng(0)
    archive, ball, sound, array = (io.BytesIO() for _ in range(4))
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for number in range(5):
            file.writestr(f"notes/{number}.txt", "hello world " * 50)
    with tarfile.open(fileobj=ball, mode="w") as file:
        member = tarfile.TarInfo("a.txt")
        member.size = 500
        file.addfile(member, io.BytesIO(b"x" * 500))
    with wave.open(sound, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(random.integers(-3000, 3000, 8000).astype("<i2").tobytes())
    np.save(array, random.random((30, 30)))
    table = "id,name,price\n" + "".join(f"{i},item {i},{i * 1.5:.2f}\n" for i in range(60))
    rows = [{"name": f"n{i}", "value": i, "tags": ["a", "b"]} for i in range(40)]
    return {
        "zip": archive.getvalue(),
        "tar": ball.getvalue(),
        "gzip": gzip.compress(random.bytes(3000) + b"abc" * 300),
        "wav": sound.getvalue(),
        "npy": array.getvalue(),
        "csv": table.encode(),
        "json": json.dumps(rows, indent=2).encode(),
        "elf": Path(sys.executable).resolve().read_bytes(),
        "makefile": (ROOT / "Makefile").read_bytes(),
        "toml": (ROOT / "pyproject.toml").read_bytes(),
        "python": Path(__file__).read_bytes(),
        "proto": (ROOT / "protos/inferd_api/v1/task.proto").read_bytes(),
    }
