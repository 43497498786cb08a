"""The programs in examples/tensors, given files that they cannot use: each ends with what is wrong."""

import runpy
import wave
from importlib.util import find_spec
from pathlib import Path

import file_types
import pytest
import speech

EXAMPLES = Path(file_types.__file__).parent


def write_sound(path: Path, frames: int) -> Path:
    """Silence of 8,000 Hz."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(2 * frames))
    return path


@pytest.mark.parametrize("name", ["file_types.py", "melody.py", "read_text.py", "speech.py", "transcribe.py"])
def test_a_missing_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    """A program whose file is missing says so, and does not ask the kernel first."""
    if name == "read_text.py" and not (find_spec("PIL") and find_spec("onnx")):
        pytest.skip("Pillow or onnx is not installed: pip install pillow onnx")
    monkeypatch.setattr("sys.argv", [name, str(tmp_path), str(tmp_path / "none.bin")])
    with pytest.raises(SystemExit, match=rf"^{name}: .*No such file .*none\.bin"):
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def test_sounds_that_cannot_be_heard(tmp_path: Path) -> None:
    """A file that is empty, none of sound, or shorter than a window ends the program with its name and what it is."""
    empty, other = tmp_path / "empty.wav", tmp_path / "other.wav"
    empty.touch()
    other.write_bytes(b"\x89PNG" + bytes(40))
    for path, words in (
        (empty, "empty.wav is no WAV file that can be read: it is cut off"),
        (other, "other.wav is no WAV file that can be read: file does not start with RIFF id"),
        (write_sound(tmp_path / "none.wav", 0), "none.wav has 0 samples, less than the model takes at once"),
        (write_sound(tmp_path / "short.wav", 255), "short.wav has 255 samples"),
    ):
        with pytest.raises(SystemExit, match=words):
            speech.read_sound(path)
    assert len(speech.read_sound(write_sound(tmp_path / "silent.wav", 256))[0]) == 256
