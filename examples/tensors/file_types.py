"""Of which types are these files? magika says it, from their first and last bytes.

pip download --no-deps magika==1.0.3 && unzip magika-*.whl 'magika/models/*'
inferd serve &
python examples/tensors/file_types.py magika/models/standard_v3_3 README.md Makefile …
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from inferd_client import Client

READ_BYTES, PART, PADDING = 4096, 1024, 256  # the model sees 1024 bytes of each end, without white space around them


def features(content: bytes) -> list[int]:
    """What the model takes of a file: its first bytes, its last ones, and PADDING where there are none."""
    if len(content) <= READ_BYTES:
        first = last = content.strip()
    else:
        first, last = content[:READ_BYTES].lstrip(), content[-READ_BYTES:].rstrip()
    first, last = first[:PART], last[-PART:]
    return [*first, *[PADDING] * (2 * PART - len(first) - len(last)), *last]


def classify(client: Client, model: str, labels: Sequence[str], contents: Sequence[bytes]) -> list[tuple[str, float]]:
    """The type of each content and how sure the model is, all in one request."""
    rows = np.array([features(content) for content in contents], np.int32)
    scores = client.infer(model, {"bytes": rows})["target_label"]
    return [(labels[row.argmax()], float(row.max())) for row in scores]


def main() -> None:
    """A line for each file."""
    folder, paths = Path(sys.argv[1]).absolute(), [Path(name) for name in sys.argv[2:]]
    labels = json.loads((folder / "config.min.json").read_text())["target_labels_space"]
    with Client() as client:
        client.create_model("magika", source=str(folder / "model.onnx"))
        found = classify(client, "magika", labels, [path.read_bytes() for path in paths])
    for path, (label, score) in zip(paths, found, strict=True):
        print(f"{score:4.0%}  {label:<12} {path}")


if __name__ == "__main__":
    main()
