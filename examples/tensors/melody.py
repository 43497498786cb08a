"""Which notes are played? basic-pitch hears them in two seconds of sound.

pip download --no-deps basic-pitch==0.4.0 && unzip basic_pitch-*.whl '*.onnx'
cp examples/tensors/recipes/basic-pitch.toml basic_pitch/saved_models/icassp_2022/nmp.recipe.toml
inferd serve &
python examples/tensors/melody.py basic_pitch/saved_models/icassp_2022/nmp.onnx tune.wav
"""

import sys
from pathlib import Path

import numpy as np

from inferd_client import Client, InferdError

WINDOW_S, FRAMES = 43844 / 22050, 172  # of sound that the model takes at once, and of what it gives for it
LOWEST, NAMES = 21, ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
SURE, LEAST_FRAMES = 0.5, 6


def hear(client: Client, model: str, sound: bytes) -> list[tuple[float, int]]:
    """The notes of a sound in a file: when each begins, in seconds, and its number in MIDI."""
    notes = client.infer(model, {"audio": bytearray(sound)})["notes"]
    found = []
    for key, played in enumerate((notes.reshape(-1, notes.shape[-1]) > SURE).T):
        edges = np.flatnonzero(np.diff(played, prepend=False, append=False)).reshape(-1, 2)
        found += [(begin * WINDOW_S / FRAMES, key + LOWEST) for begin, end in edges if end - begin >= LEAST_FRAMES]
    return sorted(found)


def main() -> None:
    """A line for each note."""
    sound = Path(sys.argv[2]).read_bytes()
    with Client() as client:
        client.create_model("basic-pitch", source=str(Path(sys.argv[1]).absolute()))
        notes = hear(client, "basic-pitch", sound)
        for begin_s, number in notes:
            print(f"{begin_s:6.2f} s  {NAMES[number % 12]}{number // 12 - 1}")
        if not notes:
            print(f"no notes are heard in {sys.argv[2]}")


if __name__ == "__main__":
    try:
        main()
    except (OSError, InferdError) as error:  # a file that is missing or none of that kind; what the kernel says
        raise SystemExit(f"{Path(sys.argv[0]).name}: {error}") from None
