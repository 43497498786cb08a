"""What is said? Whisper, as Optimum exports it, writes it down while it listens.

optimum-cli export onnx --model openai/whisper-base whisper-base
inferd serve &
python examples/tensors/transcribe.py whisper-base speech.wav [language]
"""

import sys
from collections.abc import Iterator
from pathlib import Path

from inferd_client import Client, InferdError


def hear(client: Client, model: str, sound: Path, *, language: str = "") -> Iterator[str]:
    """The text of a sound, piece by piece; in the language that the model hears, where none is named."""
    inputs = {"audio": bytearray(sound.read_bytes())} | ({"language": [language]} if language else {})
    for outputs in client.infer_stream(model, inputs, outputs=["text"]):
        yield from outputs["text"]


def main() -> None:
    """The text, as it comes."""
    sound = Path(sys.argv[2])
    sound.stat()
    with Client() as client:
        client.create_model("whisper", source=str(Path(sys.argv[1]).absolute()))
        for piece in hear(client, "whisper", sound, language="".join(sys.argv[3:4])):
            print(piece, end="", flush=True)
        print()


if __name__ == "__main__":
    try:
        main()
    except (OSError, InferdError) as error:  # a file that is missing or no sound; what the kernel says
        raise SystemExit(f"{Path(sys.argv[0]).name}: {error}") from None
