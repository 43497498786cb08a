"""What `OptimizeModel` finds, against a grid of settings that is run by hand in the same sitting.

- `optimize.throughput`: the rate with the settings found over that with the best of 24 from a grid. Both are measured
  here, by a client, and by the same load; the optimisation measures for itself. The best of the grid and what was found
  are measured again in turns, `PAIRS` times each, so that what a host does meanwhile falls on both.
"""

import asyncio
import itertools
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from corpus import read_corpus
from limits import Figure
from workload import Case

from inferd.plugin.host import count_cores
from inferd.testing.kernel import kernel_process
from inferd_api.v1.optimize_pb2 import OptimizationReport
from inferd_client import AsyncClient, Client

LOAD = Case("grid", 8, 128, 64)
WARM = Case("warm", 2, 16, 8)
TRIALS = 16
TEXT_TOKENS = 1024
TEXT_CHARACTERS = 16_000
MOST_LOSS = 0.01
PAIRS = 5
GRID = {
    "quantization": ("auto", "8bit"),
    "kv_format": ("auto", "bf16"),
    "threads": ("1", "all"),
    "max_step_tokens": ("128", "512", "1024"),
}


def figures(weights: Path, *, only: str) -> Iterator[Figure]:
    """`optimize.throughput`."""
    if not "optimize.throughput".startswith(only):
        return
    with tempfile.TemporaryDirectory() as folder, kernel_process(Path(folder)) as process:
        with Client(process.address) as client:
            report, took_s = _optimize(client, weights)
        found = dict(report.settings)
        grid = [*_grid()]
        rates = {number: _rate(process.address, weights, grid[number]) for number in range(len(grid))}
        best = grid[max(rates, key=lambda number: rates[number])]
        pairs = [(_rate(process.address, weights, found), _rate(process.address, weights, best)) for _ in range(PAIRS)]
    rate, least = (statistics.median(side) for side in zip(*pairs, strict=True))
    measured = report.best.measurement
    detail = (
        f"{_words(found)}: {rate:.1f} tok/s, perplexity {measured.loss:+.2%}, agreement {measured.agreement:.1%},"
        f" after {len(report.trials)} trials in {took_s:.0f} s; the best of {len(grid)}, {_words(best)}: {least:.1f}"
        f" tok/s; medians of {PAIRS} in turns; {LOAD.sequences} tasks of {LOAD.prompt_tokens} + {LOAD.output_tokens}"
        f" tokens; {weights.name}"
    )
    yield Figure(
        name="optimize.throughput", value=round(rate / least, 3), unit="of the best of the grid", detail=detail
    )


def _optimize(client: Client, weights: Path) -> tuple[OptimizationReport, float]:
    """What is found, and how long it took, in seconds."""
    client.create_model("optimized", str(weights))
    began, report = time.monotonic(), OptimizationReport()
    for told in client.optimize_model(
        "optimized",
        read_corpus()[:TEXT_CHARACTERS],
        most_loss=MOST_LOSS,
        trials=TRIALS,
        text_tokens=TEXT_TOKENS,
        in_flight=LOAD.sequences,
        prompt_tokens=LOAD.prompt_tokens,
        output_tokens=LOAD.output_tokens,
    ):
        report = told.report
    return report, time.monotonic() - began


def _grid() -> Iterator[dict[str, str]]:
    """All settings of the grid."""
    for values in itertools.product(*GRID.values()):
        chosen = dict(zip(GRID, values, strict=True))
        yield {**chosen, "threads": str(count_cores()) if chosen["threads"] == "all" else chosen["threads"]}


def _rate(address: str, weights: Path, settings: Mapping[str, str]) -> float:
    """Output tokens a second of a model with these settings, loaded for that and taken away."""
    with Client(address) as client:
        client.create_model("tried", str(weights), settings=dict(settings))
        try:
            client.load_model("tried")
            asyncio.run(_run(address, WARM))
            return LOAD.figure[0] / asyncio.run(_run(address, LOAD))
        finally:
            client.delete_model("tried", force=True)


async def _run(address: str, case: Case) -> float:
    """How long a case takes, in seconds."""
    async with AsyncClient(address) as client:
        began = time.perf_counter()
        await asyncio.gather(
            *(
                client.generate(
                    "tried",
                    prompt,
                    max_tokens=case.output_tokens,
                    temperature=0,
                    ignore_eos=True,
                    prefix_cache=False,
                )
                for prompt in case.prompts()
            )
        )
        return time.perf_counter() - began


def _words(settings: Mapping[str, str]) -> str:
    return " ".join(f"{name}={value}" for name, value in sorted(settings.items())) or "as it is"
