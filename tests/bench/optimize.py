"""What `OptimizeModel` finds, against a grid of settings that is run by hand in the same sitting.

- `optimize.throughput`: the rate with the settings found over that with the best of 24 from a grid. Both are measured
  here, by a client, and by the same load; the optimisation measures for itself. Each of the grid has a short
  load first, the `BEST` quickest the whole one. The best of the grid and what was found are loaded side by side
  then and measured in turns, `PAIRS` times each, so that what a host does meanwhile falls on both.

What it takes is reckoned, not measured, for two cores that read 230 tokens a second and write 118 for eight tasks, as
SmolLM2 does on a slow AVX2 processor, with 4 s for loading it: 280 s of trials, 170 s of short loads, 40 s of whole
ones and 65 s in turns.
"""

import asyncio
import itertools
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from corpus import read_corpus
from limits import Figure
from workload import Case

from inferd.plugin.host import count_cores
from inferd.testing.kernel import kernel_process
from inferd_api.v1.optimize_pb2 import OptimizationReport
from inferd_client import AsyncClient, Client

LOAD = Case("grid", 8, 64, 48)
SHORT = Case("short", 8, 32, 16)
WARM = Case("warm", 2, 16, 4)
TRIALS = 12
TRIALS_S = 300.0  # most that they take together; the best of those that were measured by then is what was found
TEXT_TOKENS = 768
TEXT_CHARACTERS = 12_000
MOST_LOSS = 0.01
BEST = 4
PAIRS = 5
Settings = Mapping[str, str]

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
    bounds = {"INFERD_OPTIMIZE__MOST_S": f"{TRIALS_S:g}"}
    with tempfile.TemporaryDirectory() as folder, kernel_process(Path(folder), environment=bounds) as process:
        began = time.monotonic()
        with Client(process.address) as client:
            report, took_s = _optimize(client, weights)
            found, grid = dict(report.settings), [*_grid()]
            quick = _ranked(client, weights, grid, SHORT)[:BEST]
            best = _ranked(client, weights, quick, LOAD)[0]
            pairs = _in_turns(client, weights, (found, best))
        whole_s = time.monotonic() - began
    rate, least = (statistics.median(side) for side in zip(*pairs, strict=True))
    measured = report.best.measurement
    detail = (
        f"{_words(found)}: {rate:.1f} tok/s, perplexity {measured.loss:+.2%}, agreement {measured.agreement:.1%},"
        f" after {len(report.trials)} trials in {took_s:.0f} s; the best of {len(grid)}, {_words(best)}: {least:.1f}"
        f" tok/s; medians of {PAIRS} in turns; {LOAD.sequences} tasks of {LOAD.prompt_tokens} + {LOAD.output_tokens}"
        f" tokens; all in {whole_s:.0f} s; {weights.name}"
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


def _ranked(client: Client, weights: Path, grid: Sequence[Settings], case: Case) -> list[Settings]:
    """The settings, the quickest with this load first."""
    rates = {}
    for number, settings in enumerate(grid):
        with _loaded(client, weights, "tried", settings):
            rates[number] = _rate(client.address, "tried", case)
    return [grid[number] for number in sorted(rates, key=lambda number: -rates[number])]


def _in_turns(client: Client, weights: Path, both: tuple[Settings, Settings]) -> list[tuple[float, float]]:
    """The rates of two models that are loaded side by side, measured in turns; which is first changes, too."""
    with _loaded(client, weights, "found", both[0]), _loaded(client, weights, "best", both[1]):
        pairs = []
        for turn in range(PAIRS):
            order = ("found", "best") if turn % 2 == 0 else ("best", "found")
            rates = {name: _rate(client.address, name, LOAD) for name in order}
            pairs.append((rates["found"], rates["best"]))
        return pairs


@contextmanager
def _loaded(client: Client, weights: Path, name: str, settings: Settings) -> Iterator[None]:
    """A model with these settings, warm, taken away behind the block."""
    client.create_model(name, str(weights), settings=dict(settings))
    try:
        client.load_model(name)
        asyncio.run(_run(client.address, name, WARM))
        yield
    finally:
        client.delete_model(name, force=True)


def _rate(address: str, name: str, case: Case) -> float:
    """Output tokens a second."""
    return case.figure[0] / asyncio.run(_run(address, name, case))


async def _run(address: str, name: str, case: Case) -> float:
    """How long a case takes, in seconds."""
    async with AsyncClient(address) as client:
        began = time.perf_counter()
        await asyncio.gather(
            *(
                client.generate(
                    name,
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
