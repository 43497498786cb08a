"""Gaps between the tokens of 16 streams beside a training under a lease, over those beside the same lease held idle.

The lease has one core and the memory of the training, so that the model that serves computes on the others. Both are
measured in turn within one kernel: streams while the lease is idle, then while a LoRA is trained under it, again and
again; the ratio is that of neighbours. What is told is the 99th percentile of all gaps of a run, first tokens left out:
those of all streams that a step gives count each. What is under way is told on stderr.
"""

import asyncio
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from limits import Figure
from served import load, run_case
from workload import WARM, Case

from inferd.testing.kernel import kernel_process
from inferd_api.v1 import training_pb2 as tp
from inferd_client import Client, claims

NAMES = ("training.gap.p99.idle", "training.gap.p99", "training.gap.ratio")
STREAMS = Case("beside", 16, 64, 256)
PAIRS = 3
WAIT_S = 600.0  # for an answer, on a machine that does much else
CORES, MEMORY_BYTES = 1, 3 << 30
ROWS = 400
RECIPE: dict[str, Any] = {"method": "lora", "batch": 4, "most_tokens": 64, "epochs": 50, "checkpoint_every": 1_000_000}


def figures(weights: Path, *, only: str) -> Iterator[Figure]:
    """Milliseconds at the 99th percentile, idle and beside a training, and the ratio."""
    if not any(name.startswith(only) for name in NAMES):
        return
    if find_spec("torch") is None:
        for name in NAMES:
            yield Figure(name=name, value=None, unit="", detail="torch is not installed: pip install 'inferd[torch]'")
        return
    environment = {"INFERD_BACKENDS": '["cpu", "torch"]', "INFERD_TRAIN": json.dumps({"threads": CORES})}
    with (
        tempfile.TemporaryDirectory() as folder,
        kernel_process(Path(folder), environment=environment) as process,
        Client(process.address, timeout_s=WAIT_S) as client,
        client.lease(claims.cores(CORES), claims.memory(MEMORY_BYTES), ttl_s=60) as lease,
    ):
        detail = load(client, weights)
        asyncio.run(run_case(process.address, WARM))
        pairs = [_pair(process.address, client, lease) for _ in range(PAIRS)]
    said = f"{STREAMS.sequences} streams, {PAIRS} pairs in turn, a lease of {CORES} core and 3 GiB; {detail}"
    for name, place in zip(NAMES, (0, 1), strict=False):
        value = round(statistics.median(pair[place] for pair in pairs) * 1e3, 2)
        yield Figure(name=name, value=value, unit="ms", detail=said)
    ratios = sorted(beside / idle for idle, beside, _ in pairs)
    more = f"{ratios[0]:.2f} to {ratios[-1]:.2f}; steps of the training meanwhile {[pair[2] for pair in pairs]}; {said}"
    yield Figure(name=NAMES[2], value=round(statistics.median(ratios), 3), unit="x", detail=more)


def _pair(address: str, client: Client, lease: Any) -> tuple[float, float, int]:
    """The gap while the lease is idle, that beside a training under it, and the steps that were done meanwhile."""
    idle = _gap(address)
    _say(f"idle: {idle * 1e3:.1f} ms; a training is loaded")
    begun = time.monotonic()
    rows = [{"text": f"Row {number} tells of the number {number * number}."} for number in range(ROWS)]
    made = client.train("beside", rows, recipe=RECIPE, model="bench", backend="torch", lease=lease, replace=True)
    for told in client.watch_training(made.training_id):
        if told.state not in {tp.TRAINING_STATE_QUEUED, tp.TRAINING_STATE_RUNNING}:
            raise RuntimeError(f"the training ended: {told.error.message}")
        if told.step:
            break
    before = client.get_training(made.training_id).step
    _say(f"loaded, and a step done, after {time.monotonic() - begun:.0f} s")
    beside = _gap(address)
    done = client.get_training(made.training_id).step - before
    _say(f"beside {done} steps: {beside * 1e3:.1f} ms, {beside / idle:.2f} times as much")
    client.cancel_training(made.training_id)
    if not done:
        raise RuntimeError("the training did no step meanwhile: the machine does too much else to measure this")
    return idle, beside, done


def _gap(address: str) -> float:
    """The 99th percentile of all gaps between tokens, in seconds."""
    _, arrivals = asyncio.run(run_case(address, STREAMS))
    gaps = sorted(later - sooner for times in arrivals for sooner, later in itertools.pairwise(times))
    return gaps[int(len(gaps) * 0.99)]


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)
