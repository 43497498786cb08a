"""What a load really takes of the host's memory, in a process of its own.

    python -m inferd.testing.growth LOADER REQUEST

LOADER is the dotted path of the backend class, REQUEST a `LoadRequest` as a JSON object. The answer on standard output
is a JSON object of the bytes that a worker grew by when it loaded the model, its libraries included, and of the need
that was measured before.
"""

import gc
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from inferd.plugin import Backend, LoadRequest, MemoryNeed

TIMEOUT_S = 300.0
WARM = 2  # repeats after which libraries have what they keep
ROUND = 5  # most repeats of a round
ROUNDS = 5
STEADY_BYTES = 2 << 20  # by which most rounds must grow to be growth that does not end
PLENTY_BYTES = 32 << 20  # at which a round is over


@dataclass(frozen=True, slots=True)
class Growth:
    """What a load took, and what it was said to take."""

    grown_bytes: int
    need: MemoryNeed


def measure_growth(backend: Backend, request: LoadRequest) -> Growth:
    """Load a model in a fresh process, with this one's import path.

    Raises:
        RuntimeError: The process failed; the message holds what it said.
    """
    loader = f"{type(backend).__module__}:{type(backend).__qualname__}"
    done = subprocess.run(
        [sys.executable, "-m", "inferd.testing.growth", loader, json.dumps(asdict(request), default=str)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{loader} failed in a process of its own: {done.stderr}")
    answer = json.loads(done.stdout.splitlines()[-1])
    return Growth(answer["grown_bytes"], MemoryNeed(**answer["need"]))


def measure_repeats(repeat: Callable[[], None]) -> list[int]:
    """By how much this process grows in each of some rounds of the same work, in bytes.

    Memory that is only asked for counts as memory that is used. The middle one tells: a library that grows once does
    so in one round, and what others in the process give back makes one round small.
    """
    frozen = gc.get_freeze_count() > 0
    if not frozen:
        gc.freeze()  # rounds make none of what is there: a collection need not look through all that libraries brought
    try:
        for _ in range(WARM):
            repeat()
        return [_measure_round(repeat) for _ in range(ROUNDS)]
    finally:
        if not frozen:
            gc.unfreeze()


def _measure_round(repeat: Callable[[], None]) -> int:
    gc.collect()
    before = _sizes()
    for _ in range(ROUND):
        repeat()
        if _grown(before) >= PLENTY_BYTES:
            break
    gc.collect()
    return _grown(before)


def _grown(before: tuple[int, int]) -> int:
    return max(now - then for now, then in zip(_sizes(), before, strict=True))


def main() -> None:
    """Measure, load, and tell."""
    importlib.import_module("inferd.engine.token.loop")  # what a worker has loaded before
    loader, text = sys.argv[1:]
    fields = json.loads(text)
    request = LoadRequest(**{**fields, "path": Path(fields["path"])})
    before_bytes = _resident_bytes()
    module, _, name = loader.partition(":")
    backend: Backend = getattr(importlib.import_module(module), name)()
    need = backend.measure(request)
    model = backend.load(request, lambda _: None)
    gc.collect()
    grown_bytes = _resident_bytes() - before_bytes
    model.session.close()
    print(json.dumps({"grown_bytes": grown_bytes, "need": asdict(need)}))  # noqa: T201 - its answer


def _resident_bytes() -> int:
    return _sizes()[0]


def _sizes() -> tuple[int, int]:
    """Resident memory, and memory for data that was asked for, see proc(5)."""
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()
    size = os.sysconf("SC_PAGE_SIZE")
    return int(pages[1]) * size, int(pages[5]) * size


if __name__ == "__main__":
    main()
