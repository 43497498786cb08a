"""A step of 64 sequences of which each fourth has the same one of 16 adapters, over one in which none has any.

Both are computed in turns by one session with one thread, and timed by the processor time of that: whatever else the
machine does takes none of it. The adapters are random, of rank 16, and change every projection of each layer.
"""

import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import engine
from limits import Figure

NAMES = ("lora.b64", "lora.b64.none", "lora.ratio", "lora.mib")
ADAPTERS, RANK, PAIRS, SEQUENCES, BEGIN = 16, 16, 9, 64, 20
PARTS = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")


def figures(weights: Path, *, only: str) -> Iterator[Figure]:
    """Milliseconds of a step with and without adapters, the ratio, and what all adapters take of memory."""
    if not any(name.startswith(only) for name in NAMES):
        return
    from inferd_cpu.backend import CpuBackend  # noqa: PLC0415 - the engine's bench sets the environment
    from inferd_cpu.plugin import SPEC  # noqa: PLC0415 - as above

    model = engine.load(CpuBackend(), SPEC, weights, kv_tokens="20480", max_sequences=str(SEQUENCES), threads="1")
    size_bytes = hold(model.session, weights)
    pairs = [measure(model.session, turn) for turn in range(PAIRS)]
    model.session.close()
    detail = (
        f"{SEQUENCES} sequences, {ADAPTERS} adapters of rank {RANK} on all projections of {weights.name}, one thread;"
        f" {model.description.compute_format}"
    )
    for figure, name in (("lora.b64", "adapted"), ("lora.b64.none", "none")):
        value = 1000 * statistics.median(pair[name] for pair in pairs)
        yield Figure(name=figure, value=round(value, 1), unit="ms of processor", detail=detail)
    ratios = [pair["none"] / pair["adapted"] for pair in pairs]
    said = f"median of {PAIRS} pairs in turn, {min(ratios):.2f} to {max(ratios):.2f}; {detail}"
    yield Figure(name="lora.ratio", value=round(statistics.median(ratios), 3), unit="x", detail=said)
    yield Figure(name="lora.mib", value=round(size_bytes / 2**20, 1), unit="MiB", detail=f"of memory, all {ADAPTERS}")


def hold(session: Any, weights: Path) -> int:
    """Have a session hold random adapters; what they take of memory."""
    size_bytes = 0
    with tempfile.TemporaryDirectory() as folder:
        for slot in range(ADAPTERS):
            read = session.read_adapter(write(weights, Path(folder) / f"{slot}.gguf", seed=slot))
            session.add_adapter(slot, read)
            size_bytes += read.memory_bytes
    return size_bytes


def measure(session: Any, turn: int) -> dict[str, float]:
    """Seconds of a step of each kind; which comes first alternates."""
    import numpy as np  # noqa: PLC0415 - the engine's bench sets the environment

    from inferd.testing.batches import Part, make_batch  # noqa: PLC0415 - as above

    parts = [Part(token_ids=[1000 + n], begin=BEGIN, blocks=range(4 * n, 4 * n + 4)) for n in range(SEQUENCES)]
    plain = make_batch(parts)
    slots = np.array([n % ADAPTERS for n in range(SEQUENCES)], np.int32)
    batches = {"none": plain, "adapted": replace(plain, adapters=slots)}
    seconds = {}
    for name in [*batches][:: -1 if turn % 2 else 1]:
        started = time.thread_time()
        session.step(batches[name])
        seconds[name] = time.thread_time() - started
    return seconds


def write(weights: Path, path: Path, *, seed: int) -> Path:
    """A GGUF adapter of random matrices for a model."""
    import gguf  # noqa: PLC0415 - of the tests
    import numpy as np  # noqa: PLC0415 - the engine's bench sets the environment

    from inferd_weights.gguf import GgufFile  # noqa: PLC0415 - as above

    rng, file = np.random.default_rng(seed), GgufFile(weights)
    writer = gguf.GGUFWriter(path, file.metadata.text("general.architecture"))
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(RANK))
    for name, tensor in file.tensors.items():
        if name.split(".")[-2] in PARTS:
            rows, columns = tensor.shape
            writer.add_tensor(f"{name}.lora_a", rng.normal(0, 0.01, (RANK, columns)).astype(np.float32))
            writer.add_tensor(f"{name}.lora_b", rng.normal(0, 0.01, (rows, RANK)).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
