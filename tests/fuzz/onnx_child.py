"""Loads damaged ONNX files, one after the other, in one process: python onnx_child.py FOLDER SEED FIRST CASES.

Each is a sound file of `onnx_seeds` with some wounds. A line on standard output says what became of it; only a
LoadError that names it may refuse it, and what loads computes once and is closed again. The file that is being tried
lies in FOLDER. Memory is limited: a file of a kilobyte is no reason to take gigabytes.
"""

import random
import resource
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx_seeds
import psutil
from onnx_wounds import wound_bytes, wound_message

from inferd.plugin import ElementType, LoadError, LoadRequest, Tensor, TensorInfo, TensorSession
from inferd.plugin.backend import read_settings
from inferd.plugin.tensor import NUMPY
from inferd_onnx.backend import OnnxBackend
from inferd_onnx.plugin import SPEC
from inferd_onnx.session import OnnxSession
from inferd_onnx.values import PLAIN

CAPACITY_BYTES = 1 << 30
MEMORY_BYTES = 4 << 30
CALL_S = 5.0  # a loop may have been damaged into one that takes for ever: then it is stopped
FREE, MOST_ELEMENTS = 2, 1 << 20
WOUNDS = (1, 1, 1, 2, 3, 6)


def cases(seed: int, first: int, count: int) -> Iterator[tuple[int, str, bytes]]:
    """The number, the ending and the content of each file."""
    sound = onnx_seeds.contents()
    for case in range(first, first + count):
        rng = random.Random(f"{seed} {case}")
        ending, content = rng.choice(sound)
        wounds = rng.choice(WOUNDS)
        data = bytearray(content)
        if ending == ".onnx" and rng.randrange(4):
            data = bytearray(wound_message(content, rng, wounds))
            wounds = 0
        for _ in range(wounds):
            if data:
                wound_bytes(data, rng)
        yield case, ending, bytes(data)


def compute(session: TensorSession) -> None:
    """One call with zeros, whatever comes of it but the end of the process."""
    inputs = {}
    for info in session.signature.inputs:
        if info.element_type not in PLAIN or (made := _zeros(info)) is None:
            return
        inputs[info.name] = made
    assert isinstance(session, OnnxSession)
    timer = threading.Timer(CALL_S, session.stop, (threading.get_ident(),))
    timer.start()
    with suppress(Exception):
        session.predict(inputs, [info.name for info in session.signature.outputs])
    timer.cancel()
    timer.join()


def _zeros(info: TensorInfo) -> Tensor | None:
    shape = tuple(size if isinstance(size, int) else FREE for size in info.shape or ())
    if np.prod(shape, dtype=float) > MOST_ELEMENTS:
        return None
    kind = info.element_type
    array = np.full(shape, "") if kind is ElementType.STRING else np.zeros(shape, NUMPY[kind])
    return Tensor(element_type=kind, shape=shape, array=array.astype(NUMPY[kind]))


def main() -> None:
    """Try them."""
    limit_bytes = psutil.Process().memory_info().vms + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit_bytes, limit_bytes))
    folder, seed, first, count = Path(sys.argv[1]), *map(int, sys.argv[2:5])
    backend, settings = OnnxBackend(), read_settings(SPEC, {"intra_threads": "1"})
    for case, ending, data in cases(seed, first, count):
        path = folder / f"case{ending}"
        path.write_bytes(data)
        request = LoadRequest(path=path, device="cpu:0", settings=settings, capacity_bytes=CAPACITY_BYTES)
        try:
            backend.measure(request)
            session = backend.load(request, lambda _: None).session
            compute(session)
            session.close()
        except LoadError as error:
            if str(path) not in str(error):
                raise
            sys.stdout.write(f"refused {case}\n")
        else:
            sys.stdout.write(f"loaded {case}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
