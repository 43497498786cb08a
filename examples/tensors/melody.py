"""Which notes are played? basic-pitch hears them in two seconds of sound.

pip download --no-deps basic-pitch==0.4.0 && unzip basic_pitch-*.whl '*.onnx'
inferd serve &
python examples/tensors/melody.py basic_pitch/saved_models/icassp_2022/nmp.onnx tune.wav
"""

import sys
import wave
from pathlib import Path

import numpy as np

from inferd_client import Client

RATE, SAMPLES, FRAMES = 22050, 43844, 172  # of sound that the model takes at once, and of what it gives for it
LOWEST, NAMES = 21, ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
SURE, LEAST_FRAMES = 0.5, 6
AUDIO, NOTES = "serving_default_input_2:0", "StatefulPartitionedCall:1"


def hear(client: Client, model: str, sound: np.ndarray) -> list[tuple[float, int]]:
    """The notes of a sound, mono at RATE: when each begins, in seconds, and its number in MIDI."""
    count = -(-len(sound) // SAMPLES)
    windows = np.pad(sound.astype(np.float32), (0, count * SAMPLES - len(sound))).reshape(count, SAMPLES, 1)
    frames = client.infer(model, {AUDIO: windows}, outputs=[NOTES])[NOTES].reshape(count * FRAMES, -1)
    found = []
    for key, played in enumerate((frames > SURE).T):
        edges = np.flatnonzero(np.diff(played, prepend=False, append=False)).reshape(-1, 2)
        found += [
            (begin * SAMPLES / FRAMES / RATE, key + LOWEST) for begin, end in edges if end - begin >= LEAST_FRAMES
        ]
    return sorted(found)


def read_sound(path: Path) -> np.ndarray:
    """A WAV file of 16 bits at RATE, its channels together."""
    with wave.open(str(path)) as file:
        if (file.getframerate(), file.getsampwidth()) != (RATE, 2):
            raise SystemExit(
                f"{path} has {file.getframerate()} Hz of {8 * file.getsampwidth()} bits; {RATE} of 16 are taken"
            )
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, file.getnchannels())
    return samples.mean(1) / 32768


def main() -> None:
    """A line for each note."""
    with Client() as client:
        client.create_model("basic-pitch", source=str(Path(sys.argv[1]).absolute()))
        for begin_s, number in hear(client, "basic-pitch", read_sound(Path(sys.argv[2]))):
            print(f"{begin_s:6.2f} s  {NAMES[number % 12]}{number // 12 - 1}")


if __name__ == "__main__":
    main()
