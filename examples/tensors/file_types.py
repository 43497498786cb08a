"""Of which types are these files? magika says it, from their first and last bytes.

pip download --no-deps magika==1.0.3 && unzip magika-*.whl 'magika/models/*'
cp examples/tensors/recipes/magika.toml magika/models/standard_v3_3/recipe.toml
inferd serve &
python examples/tensors/file_types.py magika/models/standard_v3_3 README.md Makefile …

Or for one file: inferd infer magika/models/standard_v3_3 file=@README.md
"""

import sys
from pathlib import Path

from inferd_client import Client, InferdError

END_BYTES = 4096  # of each end the model looks at so many at most: of a large file the rest need not be sent


def read_ends(path: Path) -> bytearray:
    """A file, or both ends of a large one."""
    content = path.read_bytes()
    return bytearray(content if len(content) <= 2 * END_BYTES else content[:END_BYTES] + content[-END_BYTES:])


def classify(client: Client, model: str, content: bytearray) -> tuple[str, float]:
    """The type of a file and how sure the model is."""
    told = client.infer(model, {"file": content})
    return told["type"][0, 0], float(told["type_score"][0, 0])


def main() -> None:
    """A line for each file."""
    files = {path: read_ends(path) for path in map(Path, sys.argv[2:])}
    with Client() as client:
        client.create_model("magika", source=str(Path(sys.argv[1]).absolute()))
        for path, ends in files.items():
            label, score = classify(client, "magika", ends) if ends else ("empty", 1.0)  # there is nothing to look at
            print(f"{score:4.0%}  {label:<12} {path}")


if __name__ == "__main__":
    try:
        main()
    except (OSError, InferdError) as error:  # a file that is missing or none of that kind; what the kernel says
        raise SystemExit(f"{Path(sys.argv[0]).name}: {error}") from None
