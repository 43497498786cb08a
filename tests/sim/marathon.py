"""`make sim`: many long runs on all cores; progress, then one JSON line. `--seed N` replays one of them.

A failing seed is printed; it fails again, at the same event, with the same numbers of tasks and leases.
"""

import argparse
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass

from simulation import Simulation

PROGRESS_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What came of a run; `failure` is "" when every rule held."""

    seed: int
    tasks: int
    grants: int
    events: int
    ends: dict[str, int]
    failure: str


def run(seed: int, tasks: int, leases: int) -> Result:
    """One run. Whatever goes wrong in it is a finding."""
    simulation = Simulation(seed, tasks=tasks, leases=leases)
    failure = ""
    try:
        simulation.run()
    except Exception as error:  # noqa: BLE001 - the edge of a run: a defect of the machine is named with its seed
        failure = f"{type(error).__name__}: {error}"
    mirror = simulation.mirror
    return Result(
        seed=seed,
        tasks=mirror.tasks.accepted,
        grants=mirror.leases.grants,
        events=simulation.events,
        ends={state.name: count for state, count in mirror.tasks.ends.items()},
        failure=failure,
    )


def run_all(seeds: range, tasks: int, leases: int) -> Iterator[Result]:
    """Runs on all cores, in the order of their seeds."""
    with ProcessPoolExecutor(max_workers=os.cpu_count()) as pool:
        yield from pool.map(run, seeds, [tasks] * len(seeds), [leases] * len(seeds), chunksize=1)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=1400, help="so many runs")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--tasks", type=int, default=1000, help="tasks submitted in a run")
    parser.add_argument("--leases", type=int, default=2000, help="leases created in a run")
    parser.add_argument("--seed", type=int, help="replay this one")
    options = parser.parse_args()
    if options.seed is not None:
        Simulation(options.seed, tasks=options.tasks, leases=options.leases).run()
        return 0
    began = shown = time.monotonic()
    seeds = range(options.first, options.first + options.seeds)
    total, ends, failures = Counter[str](), Counter[str](), []
    for result in run_all(seeds, options.tasks, options.leases):
        total += Counter(runs=1, tasks=result.tasks, grants=result.grants, events=result.events)
        ends.update(result.ends)
        if result.failure:
            failures.append(asdict(result))
            print(f"seed {result.seed}: {result.failure}", file=sys.stderr, flush=True)
        if time.monotonic() > shown + PROGRESS_S:
            shown = time.monotonic()
            print(f"{total['runs']} of {len(seeds)} runs, {dict(total)}", file=sys.stderr, flush=True)
    seconds = round(time.monotonic() - began, 1)
    print(json.dumps({**total, "ends": ends, "failures": failures[:10], "seconds": seconds}))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
