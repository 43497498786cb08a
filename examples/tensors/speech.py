"""When does somebody speak? silero-vad listens to a stream, and remembers what it has heard.

pip download --no-deps silero-vad==6.2.3 && unzip silero_vad-*.whl '*.onnx'
inferd serve &
python examples/tensors/speech.py silero_vad/data/silero_vad.onnx talk.wav      # of 8,000 or 16,000 Hz
"""

import sys
import uuid
import wave
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from inferd_client import Client, InferdError, InferSequence

RATES, WINDOWS_A_SECOND, BEFORE = (8000, 16000), 31.25, 8  # windows overlap by an eighth of their length
SPEAKS = 0.5
SETTINGS = {"states": "state=stateN"}  # what the model gives as stateN, it gets as state with the stream's next window


def listen(client: Client, model: str, sound: np.ndarray, rate: int) -> Iterator[float]:
    """How likely it is that somebody speaks, for each window of a sound; the kernel keeps the stream's state."""
    size, stream = int(rate / WINDOWS_A_SECOND), uuid.uuid4().hex
    padded = np.concatenate([np.zeros(size // BEFORE, np.float32), sound.astype(np.float32)])
    count = len(sound) // size
    for place in range(count):
        window = padded[None, place * size : (place + 1) * size + size // BEFORE]
        here = InferSequence(id=stream, start=place == 0, end=place == count - 1)
        outputs = client.infer(model, {"input": window, "sr": np.array(rate)}, sequence=here)
        yield float(outputs["output"][0, 0])


def read_sound(path: Path) -> tuple[np.ndarray, int]:
    """A WAV file of 16 bits, its channels together, and its rate."""
    try:
        with wave.open(str(path)) as file:
            rate, width, count = file.getframerate(), file.getsampwidth(), file.getnframes()
            samples = np.frombuffer(file.readframes(count), "<i2" if width == 2 else "u1")  # noqa: PLR2004 - bytes
            samples = samples.reshape(-1, file.getnchannels())
    except (wave.Error, EOFError, ValueError) as error:
        raise SystemExit(f"{path} is no WAV file that can be read: {str(error) or 'it is cut off'}") from None
    if rate not in RATES or width != 2:  # noqa: PLR2004 - bytes
        raise SystemExit(f"{path} has {rate} Hz and {8 * width} bits; 8000 or 16000 Hz with 16 bits are taken")
    if len(samples) < rate / WINDOWS_A_SECOND:
        raise SystemExit(f"{path} has {len(samples)} samples, less than the model takes at once")
    return samples.mean(1) / 32768, rate


def main() -> None:
    """A line for each change."""
    sound, rate = read_sound(Path(sys.argv[2]))
    with Client() as client:
        client.create_model("silero-vad", source=str(Path(sys.argv[1]).absolute()), settings=SETTINGS)
        spoke = spoken = False
        for place, likely in enumerate(listen(client, "silero-vad", sound, rate)):
            if spoke != (likely > SPEAKS):
                spoke, spoken = not spoke, True
                print(f"{place / WINDOWS_A_SECOND:6.2f} s  {'speech' if spoke else 'silence'}")
        if not spoken:
            print(f"nobody speaks in {sys.argv[2]}")


if __name__ == "__main__":
    try:
        main()
    except (OSError, InferdError) as error:  # a file that is missing or none of that kind; what the kernel says
        raise SystemExit(f"{Path(sys.argv[0]).name}: {error}") from None
