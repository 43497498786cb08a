"""`make chaos COUNT=300`: so many kernels are killed at failpoints under load; one JSON line, appended to the report.

Histories of `LIVES` kernels each begin with an empty store. What is found wrong is printed, with the seed of its life.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from histories import History, Setting, Tally, wanted_of
from ordeal import quantile, smollm2

from inferd.testing.kernel import write_fake_model

if TYPE_CHECKING:
    from chaos import Told

LIVES = 15
SETTINGS = {
    "INFERD_BACKENDS": "[]",
    "INFERD_STORE__OUTPUT_INTERVAL_S": "0.01",
    "INFERD_WORKERS__RESTART_BACKOFF_S": "0.05",
    "INFERD_LIMITS__STREAM_BYTES": "8192",
    "INFERD_SCHEDULER__TENANT_SHARE": "100",
}


@contextmanager
def setting(model: str, store: str, folder: Path, name: str) -> Iterator[Setting]:
    """What is killed in a history; its store is empty."""
    fake = model == "fake"
    place = {"INFERD_STORE__URL": f"sqlite:{folder}/store"}
    if store != "sqlite":
        place = {"INFERD_STORE__URL": store, "INFERD_STORE__POSTGRES__SCHEMA_NAME": f"chaos_{name}"}
    environment = {**SETTINGS, **place, **({} if fake else {"INFERD_BACKENDS": "cpu"})}
    source = str(write_fake_model(folder, step_s=0.002, blocks=8192, max_sequences=6)) if fake else smollm2()
    yield Setting(
        environment=environment,
        model=model,
        source=source,
        output_tokens=40 if fake else 24,  # at least twice the `min_tokens` of some
        life_s=4.0 if fake else 25.0,
    )


async def ordeal(model: str, store: str, *, begin: int, count: int, seed: int) -> Tally:
    """So many kills, from that of a number on."""
    tally = Tally()
    wanted: Sequence[Told] = ()
    for first in range(begin, begin + count, LIVES):
        lives = range(first, min(first + LIVES, begin + count))
        with tempfile.TemporaryDirectory() as name, setting(model, store, Path(name), f"{seed}_{first}") as chosen:
            tasks = wanted_of(chosen, seed)
            before = len(tally.wrong)
            history = History(chosen, Path(name), tasks, tally, wanted)
            await history.run(lives, seed)
            wanted = history.wanted
        for line in tally.wrong[before:]:
            print(f"lives {lives.start} to {lives.stop - 1}: {line}", file=sys.stderr)
        print(
            f"{model}: {sum(tally.kills.values())} of {count} kills, {tally.tasks} tasks, {len(tally.wrong)} wrong",
            file=sys.stderr,
            flush=True,
        )
    return tally


def figures(
    model: str, store: str, tally: Tally, *, begin: int, count: int, seed: int, took_s: float
) -> dict[str, object]:
    """As they are appended."""
    return {
        "name": f"chaos.kernels.{model}",
        "store": store.partition(":")[0],
        "seed": seed,
        "from": begin,
        "count": count,
        "kills": dict(sorted(tally.kills.items())),
        "tasks": tally.tasks,
        "wrong": len(tally.wrong),
        "start_p50_s": round(quantile(tally.starts_s, 0.5), 2),
        "start_p99_s": round(quantile(tally.starts_s, 0.99), 2),
        "took_s": round(took_s),
    }


def summary(lines: Sequence[str]) -> str:
    """What all parts of a report say together, by model and store."""
    sums: dict[tuple[str, str], list[int]] = {}
    for part in map(json.loads, lines):
        total = sums.setdefault((part["name"], part["store"]), [0, 0, 0])
        for place, number in enumerate((sum(part["kills"].values()), part["tasks"], part["wrong"])):
            total[place] += number
    return "\n".join(
        f"{name} on {store}: {kills} kills, {tasks} tasks, {wrong} wrong"
        for (name, store), (kills, tasks, wrong) in sums.items()
    )


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--from", dest="begin", type=int, default=0, help="number of the first kill")
    parser.add_argument("--count", type=int, default=100, help="how many kernels are killed of each model")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--models", nargs="+", choices=("fake", "smollm2"), default=["fake", "smollm2"])
    parser.add_argument("--store", default="sqlite", help="sqlite, or the URL of a PostgreSQL database")
    parser.add_argument("--report", type=Path, help="file to append the figures to")
    chosen = parser.parse_args()
    right = True
    for model in chosen.models:
        begun = time.monotonic()
        part = {"begin": chosen.begin, "count": chosen.count, "seed": chosen.seed}
        tally = asyncio.run(ordeal(model, chosen.store, **part))
        line = json.dumps(figures(model, chosen.store, tally, **part, took_s=time.monotonic() - begun))
        print(line, flush=True)
        if chosen.report is not None:
            with chosen.report.open("a", encoding="utf-8") as report:
                report.write(f"{line}\n")
            print(summary(chosen.report.read_text(encoding="utf-8").splitlines()), file=sys.stderr)
        right &= not tally.wrong
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
