"""`python tests/chaos/pipeline_journal.py --kills 50`: the process of a run is killed so often; one JSON line.

Only what is durable of a run is here, its steps, its journal and a store in SQLite, in a process forked for each
life and killed with SIGKILL after a random time; tasks change the case of real text. So many kills take seconds. With
kernels, workers and real functions: `pipelines.py`.
"""

import argparse
import asyncio
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from inferd.core.expressions import Value
from inferd.core.ids import NO_LEASE, Tenant
from inferd.core.pipeline import Pipeline, Step
from inferd.core.priority import Priority
from inferd.pipeline_settings import Pipelines
from inferd.runtime.pipelines.journal import Happened, Journal
from inferd.runtime.pipelines.order import Order
from inferd.runtime.pipelines.running import Made, PipelineLimits, Run
from inferd.services.pipeline_values import PipelineWire
from inferd.store.sqlite import SqliteStore
from inferd.store.store import Store, Write
from inferd_client.pipeline_declarations import declare

LINE_BYTES = 4 << 10
MOST = 1 << 30
LONGEST_S = 600.0  # of a life
LIMITS = PipelineLimits(items=1_000_000, value_bytes=MOST, prompt_bytes=MOST)
ORDER = Order(
    run_id="r",
    tenant=Tenant("t"),
    number=1,
    written=b"",
    created=0.0,
    expires=1.0,
    priority=Priority.NORMAL,
    lease_id=NO_LEASE,
    seed=1,
    labels={},
)


def graph() -> Pipeline:
    """Lines, then pages of eight of them."""

    def step(name: str, over: str, text: str, batch: int) -> dict[str, Any]:
        each = {"over": over, "in_flight": 8, "batch": batch}
        return {"name": name, "map": each, "generate": {"model": "m", "prompt": text}}

    steps = [step("lines", "{input}", "{item}", 0), step("pages", "{lines}", "{item | lines}", 8)]
    read = PipelineWire(Pipelines(), MOST).read(declare({"steps": steps}).SerializeToString())
    read.check()
    return read


def lines_of(size_bytes: int) -> list[str]:
    """Lines of the standard library's own files, each with its number: no two are alike."""
    source = " ".join(" ".join(path.read_text().split()) for path in sorted(Path(json.__file__).parent.glob("*.py")))
    count = max(1, size_bytes // LINE_BYTES)
    return [f"{n} {source[n * 31 % (len(source) - LINE_BYTES) :][: LINE_BYTES - 8]}" for n in range(count)]


@dataclass
class Rows:
    """A store that is used at once; after so many writes the process is killed, where that is said."""

    store: Store
    left: int = -1

    async def read(self, reading: Callable[[Store], Any]) -> Any:
        """What is found."""
        return reading(self.store)

    async def keep_records(self, records: Sequence[Write]) -> None:
        """Written, with those that wait meanwhile."""
        await asyncio.sleep(0)
        self.store.write(records)
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


class Tasks:
    """Tasks that turn the case of a text, each after others had their turn."""

    async def run(self, step: Step, texts: Sequence[str], *, order: Order, seed: int) -> Made:
        """As `Runner.run`."""
        await asyncio.sleep(0)
        swapped = f"{step.name}{order.seed}{bool(seed)} {texts[0].swapcase()}"
        return Made(raw=json.dumps(swapped), prompt_tokens=1, output_tokens=1)


async def live(store: Path, given: Value, writes: int = -1) -> tuple[str, int]:
    """Carry the run to its end; its digest, and how many entries of items come twice."""
    pipeline, kept = graph(), SqliteStore(store)
    try:
        journal = Journal(Rows(kept, writes), "t", "r", steps=2, most_bytes=MOST)
        await journal.replay()
        ended = await Run(ORDER, pipeline, journal, given, Tasks(), LIMITS).go()
        done = [(e.step, e.number) for e in journal.entries(0, journal.last) if e.kind is Happened.DONE]
        return ended.digest, len(done) - len(set(done))
    finally:
        kept.close()


def life(store: Path, given: Value, told: Path, after_s: float, writes: int = -1) -> bool:
    """A process that carries the run on, and is killed after so long, or so many writes; whether it came to its end."""
    child = os.fork()
    if child == 0:
        try:
            (made := told.with_suffix(".new")).write_text(json.dumps(asyncio.run(live(store, given, writes))))
            made.rename(told)
        finally:
            os._exit(0)
    until = time.monotonic() + after_s
    while time.monotonic() < until:
        ended, how = os.waitpid(child, os.WNOHANG)
        if ended:
            return not os.WIFSIGNALED(how)
        select_s = min(0.005, max(0.0, until - time.monotonic()))
        signal.sigtimedwait([signal.SIGCHLD], select_s)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


@dataclass(slots=True)
class Told:
    """What came of it."""

    bytes: int
    kills: int = 0
    same: bool = False
    twice: int = 0
    undisturbed_s: float = 0.0
    took_s: float = 0.0


def ordeal(folder: Path, *, size_bytes: int, kills: int, seed: int, by_writes: int = 0) -> Told:
    """So many kills of one run, spread over about as long as it takes undisturbed; or each after some writes."""
    dice, lines = random.Random(seed), lines_of(size_bytes)
    told, given, began = Told(sum(map(len, lines))), Value.of(lines), time.monotonic()
    whole, _ = asyncio.run(live(folder / "whole.db", given))
    told.undisturbed_s = time.monotonic() - began
    began, said = time.monotonic(), folder / "told"
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
    try:
        while told.kills < kills and not said.exists():
            left_s = LONGEST_S if by_writes else told.undisturbed_s / kills * dice.uniform(0.2, 1.6)
            writes = dice.randint(1, by_writes) if by_writes else -1
            told.kills += not life(folder / "killed.db", given, said, left_s, writes)
        if not said.exists():
            life(folder / "killed.db", given, said, LONGEST_S)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
    digest, told.twice = json.loads(said.read_text())
    told.same, told.took_s = digest == whole, time.monotonic() - began
    return told


def main() -> None:
    """Run what the command line asks for."""
    options = argparse.ArgumentParser(description="journals of runs whose processes are killed")
    options.add_argument("--kills", type=int, default=50)
    options.add_argument("--bytes", type=int, default=20_000_000)
    options.add_argument("--seed", type=int, default=1)
    asked = options.parse_args()
    with tempfile.TemporaryDirectory() as name:
        told = ordeal(Path(name), size_bytes=asked.bytes, kills=asked.kills, seed=asked.seed)
    print(json.dumps({"name": "chaos.pipeline_journal", "seed": asked.seed, **asdict(told)}))
    sys.exit(not told.same or bool(told.twice))


if __name__ == "__main__":
    main()
