"""Loads damaged ONNX files, one after the other, in one process: python onnx_child.py FOLDER SEED FIRST CASES.

Each is a sound file of `onnx_seeds` with some wounds. A line on standard output says what became of it; only a
LoadError that names it may refuse it, and what loads is closed again. The file that is being tried lies in FOLDER.
"""

import random
import sys
from collections.abc import Iterator
from pathlib import Path

import onnx_seeds

from inferd.plugin import LoadError, LoadRequest
from inferd.plugin.backend import read_settings
from inferd_onnx.backend import OnnxBackend
from inferd_onnx.plugin import SPEC

CAPACITY_BYTES = 1 << 30
WOUNDS = (1, 1, 1, 2, 3, 6)


def wound(data: bytearray, rng: random.Random) -> None:
    """Damage a file in one place."""
    at = rng.randrange(len(data))
    size = min(1 << rng.randrange(6), len(data) - at)
    match rng.randrange(6):
        case 0:
            data[at] ^= 1 << rng.randrange(8)
        case 1:
            data[at : at + size] = rng.randbytes(size)
        case 2:
            del data[at : at + size]
        case 3:
            data[at:at] = data[at : at + size]
        case 4:
            data[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
        case _:
            other = rng.randrange(len(data))
            data[at : at + size] = data[other : other + size]


def cases(seed: int, first: int, count: int) -> Iterator[tuple[int, str, bytes]]:
    """The number, the ending and the content of each file."""
    sound = onnx_seeds.contents()
    for case in range(first, first + count):
        rng = random.Random(f"{seed} {case}")
        ending, content = rng.choice(sound)
        data = bytearray(content)
        for _ in range(rng.choice(WOUNDS)):
            if data:
                wound(data, rng)
        yield case, ending, bytes(data)


def main() -> None:
    """Try them."""
    folder, seed, first, count = Path(sys.argv[1]), *map(int, sys.argv[2:5])
    backend, settings = OnnxBackend(), read_settings(SPEC, {"intra_threads": "1"})
    for case, ending, data in cases(seed, first, count):
        path = folder / f"case{ending}"
        path.write_bytes(data)
        request = LoadRequest(path=path, device="cpu:0", settings=settings, capacity_bytes=CAPACITY_BYTES)
        try:
            backend.measure(request)
            backend.load(request, lambda _: None).session.close()
        except LoadError as error:
            if str(path) not in str(error):
                raise
            sys.stdout.write(f"refused {case}\n")
        else:
            sys.stdout.write(f"loaded {case}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
