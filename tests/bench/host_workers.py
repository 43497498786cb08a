"""What a worker of another host costs: the same model under the kernel and under an agent of this machine, in turn."""

import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from limits import Figure
from served import ROOM, least_median, run_case
from workload import CASES, WARM, Case

from inferd.testing.kernel import kernel_process
from inferd_api.v1.model_pb2 import PlacementRules
from inferd_client import Client

PAIRS = 3
ONE, MANY = (next(case for case in CASES if case.name == name) for name in ("b1", "b32"))
NAMES = ("host.b32", "host.step")


@contextmanager
def agent(folder: Path, address: str) -> Iterator[None]:
    """An agent in a process of its own, attached, ended in order."""
    process = subprocess.Popen(
        [sys.executable, "-m", "inferd", "host", "-o", "json", "--join", address, "--name", "far"],
        env={**os.environ, **{f"INFERD_{name}_DIR": str(folder / "agent" / name) for name in ("DATA", "STATE")}},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        told = process.stdout.readline()
        if json.loads(told).get("host") != "far":
            raise RuntimeError(told)
        yield
    finally:
        process.terminate()
        process.wait(60)


def figures(weights: Path, *, only: str) -> Iterator[Figure]:
    """`host.b32`, a share of the rate with a worker of the kernel's own; `host.step`, milliseconds more per token."""
    wanted = [name for name in NAMES if name.startswith(only)]
    if not wanted:
        return
    with (
        tempfile.TemporaryDirectory() as made,
        kernel_process(Path(made)) as kernel,
        agent(Path(made), kernel.address),
        Client(kernel.address, timeout_s=120) as client,
    ):
        near = next(client.list_hosts()).host_id  # the kernel's own is the first
        for name, host in (("near", near), ("far", "far")):
            rules = PlacementRules(selector={"host": host})
            client.create_model(name, source=str(weights), settings=ROOM, placement=rules)
            client.load_model(name)
            asyncio.run(run_case(kernel.address, WARM, model=name))
        if "host.b32" in wanted:
            pairs = in_turn(kernel.address, MANY)
            shares = [near_s / far_s for near_s, far_s in pairs]
            detail = (
                f"of {MANY.figure[0] / statistics.median(near_s for near_s, _ in pairs):.1f} output tok/s with the "
            )
            detail += f"kernel's own worker; median of {PAIRS} pairs, with 95 % at least {least_median(shares):.3f}"
            yield Figure(name="host.b32", value=round(statistics.median(shares), 3), unit="ratio", detail=detail)
        if "host.step" in wanted:
            pairs = in_turn(kernel.address, ONE)
            more = [(far_s - near_s) / ONE.output_tokens * 1e3 for near_s, far_s in pairs]
            detail = f"b1, median of {PAIRS} pairs, {min(more):.2f} to {max(more):.2f}"
            yield Figure(name="host.step", value=round(statistics.median(more), 3), unit="ms", detail=detail)


def in_turn(address: str, case: Case) -> list[tuple[float, float]]:
    """Seconds of a case with the near and with the far worker, so many times; who goes first changes."""
    pairs = []
    for number in range(PAIRS):
        took = {}
        for name in (("near", "far"), ("far", "near"))[number % 2]:
            took[name], _ = asyncio.run(run_case(address, case, model=name))
        pairs.append((took["near"], took["far"]))
    return pairs
