"""Loading with the native engine, in a fresh process each time: `native.load_s`, `native.resident_ratio`."""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from limits import Figure

RUNS = 5
TOKENS = 64  # of the step behind the load, so that what it touches first is counted


def figures(weights: Path, *, only: str) -> Iterator[Figure]:
    """Seconds to load from a warm page cache, and what is then resident of the model, relative to its file."""
    names = ("native.load_s", "native.resident_ratio", "native.peak_ratio")
    if not any(name.startswith(only) for name in names):
        return
    weights.read_bytes()  # warms the page cache
    runs = [run(weights) for _ in range(RUNS)]
    size = weights.stat().st_size
    detail = f"median of {RUNS} processes; {weights.name}, {runs[0]['compute_format']}"
    memory = f"of {size / 2**20:.0f} MiB, with workspace; {detail}"
    for name, value, unit, said in (
        (names[0], statistics.median(run["seconds"] for run in runs), "s", detail),
        (
            names[1],
            statistics.median(run["resident"] for run in runs) / size,
            "of the file",
            f"after a step of {TOKENS} tokens, their KV included, {memory}",
        ),
        (names[2], statistics.median(run["peak"] for run in runs) / size, "of the file", f"while loading, {memory}"),
    ):
        if name.startswith(only):
            yield Figure(name=name, value=round(value, 3), unit=unit, detail=said)


def run(weights: Path) -> dict[str, float]:
    """What a process of its own says of a load."""
    done = subprocess.run([sys.executable, __file__, str(weights)], check=True, stdout=subprocess.PIPE, text=True)
    result: dict[str, float] = json.loads(done.stdout)
    return result


def load(weights: Path) -> dict[str, float | str]:
    """Load in this process and compute a step. Memory in bytes, without what this process had before."""
    import numpy as np  # noqa: PLC0415 - the parent does not need it

    from inferd.plugin import LoadRequest, TokenBatch  # noqa: PLC0415 - as above
    from inferd.plugin.backend import read_settings  # noqa: PLC0415 - as above
    from inferd_cpu.backend import CpuBackend  # noqa: PLC0415 - as above
    from inferd_cpu.plugin import SPEC  # noqa: PLC0415 - as above

    backend, settings = CpuBackend(), read_settings(SPEC, {"compute": "native", "kv_tokens": str(TOKENS)})
    before = _read_memory()
    started = time.perf_counter()
    request = LoadRequest(path=weights, device="cpu:0", settings=settings, capacity_bytes=8 << 30)
    model = backend.load(request, lambda _: None)
    seconds = time.perf_counter() - started
    loaded = _read_memory()
    batch = TokenBatch(
        token_ids=np.arange(TOKENS, dtype=np.int32),
        positions=np.arange(TOKENS, dtype=np.int32),
        starts=np.array([0, TOKENS], np.int32),
        lengths=np.array([TOKENS], np.int32),
        block_tables=np.arange(TOKENS, dtype=np.int32)[None, : -(-TOKENS // model.session.limits.block_tokens)],
        logit_rows=np.array([TOKENS - 1], np.int32),
    )
    model.session.step(batch)
    return {
        "seconds": seconds,
        "resident": _read_memory()["VmRSS"] - before["VmRSS"],
        "peak": loaded["VmHWM"] - before["VmRSS"],
        "compute_format": model.description.compute_format,
    }


def _read_memory() -> dict[str, int]:
    """Resident memory now and at most, in bytes; mapped files count."""
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines if words[0] in {"VmRSS:", "VmHWM:"}}


if __name__ == "__main__":
    print(json.dumps(load(Path(sys.argv[1]))))
