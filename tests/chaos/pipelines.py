"""`python tests/chaos/pipelines.py --kills 50`: the kernel of a pipeline is killed so often; one JSON line tells of it.

Real text of so many bytes is cleaned line by line, joined in batches and cleaned again, by calls of a function; the
kernel is killed with SIGKILL at random moments, and the next one goes on. Its output must have the digest that the same
pipeline has undisturbed, no event may come twice or be lost, and nothing that was kept may be done again.
"""

import argparse
import hashlib
import json
import random
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from inferd.testing.kernel import KernelProcess, kernel_process
from inferd_api.v1.pipeline_pb2 import PIPELINE_STATE_SUCCEEDED, PipelineEvent, PipelineRun
from inferd_client import Client
from inferd_client.errors import InferdError

TRIES = 3  # of starting a kernel
LINE_BYTES = 16 << 10
"""So much text is one line: a call takes some milliseconds, however short its text is."""


def declared(in_flight: int) -> dict[str, Any]:
    """The pipeline."""

    def clean(name: str, over: str, text: str, batch: int) -> dict[str, Any]:
        call = {"function": "clean", "input": {"text": text}}
        return {"name": name, "map": {"over": over, "in_flight": in_flight, "batch": batch}, "call": call}

    return {
        "name": "chaos",
        "steps": [clean("lines", "{input}", "{item}", 0), clean("pages", "{lines}", "{item | lines}", 4)],
    }


def text_of(size_bytes: int) -> bytes:
    """Lines of the texts in the standard library's own files, each with its number: no two are alike."""
    source = b" ".join(b" ".join(path.read_bytes().split()) for path in sorted(Path(json.__file__).parent.glob("*.py")))
    lines = []
    for number in range(max(1, size_bytes // LINE_BYTES)):
        at = number * 997 % max(1, len(source) - LINE_BYTES)
        lines.append(f"{number} ".encode() + source[at : at + LINE_BYTES - 8].decode(errors="ignore").encode())
    return b"\n".join(lines)


@dataclass(slots=True)
class Tally:
    """What came of it."""

    bytes: int = 0
    items: int = 0
    kills: int = 0
    kernels: int = 0
    took_s: float = 0.0
    undisturbed_s: float = 0.0
    digest: str = ""
    wrong: list[str] = field(default_factory=list)


@contextmanager
def kernel(folder: Path) -> Iterator[tuple[KernelProcess, Client]]:
    """A kernel with the store in the folder and the functions for texts."""
    environment = {
        "INFERD_STORE__URL": f"sqlite:{folder}/store",
        "INFERD_BACKENDS": "[]",
        "INFERD_FUNCTIONS__PACKAGES": "[]",
        "INFERD_FUNCTIONS__MODULES": '["inferd_functions.plugin"]',
        "INFERD_FUNCTIONS__CALLS": "2",
        "INFERD_DRAIN_S": "0",
    }
    with ExitStack() as stack:
        for left in reversed(range(TRIES)):
            try:
                process = stack.enter_context(kernel_process(folder, environment=environment))
                break
            except RuntimeError:  # it took too long to start, on a host that has much else to do
                if not left:
                    raise
        yield process, stack.enter_context(Client(process.address))


def follow(client: Client, run_id: str, told: list[PipelineEvent], until: int, tally: Tally) -> bool:
    """Read on behind what was told until there are so many events; whether the run has ended."""
    after = told[-1].sequence if told else 0
    for event in client.watch_pipeline_run(run_id, after_sequence=after):
        if event.sequence != len(told) + 1:
            tally.wrong.append(f"event {event.sequence} came behind event {len(told)}")
        told.append(event)
        if event.HasField("finished"):
            return True
        if len(told) >= until:
            return False
    return True


def undisturbed(folder: Path, text: bytes, in_flight: int) -> PipelineRun:
    """The run of a kernel that nobody kills."""
    with kernel(folder) as (_, client):
        blob = client.put_blob(text).digest
        run = client.create_pipeline_run(declared(in_flight), blob=blob, form="lines")
        for _ in client.watch_pipeline_run(run.run_id):
            pass
        return client.get_pipeline_run(run.run_id)


def ordeal(folder: Path, text: bytes, *, kills: int, seed: int, in_flight: int, limit_s: float) -> Tally:
    """So many kills of one run, or as many as there are in so long."""
    tally, dice, began = Tally(bytes=len(text)), random.Random(seed), time.monotonic()
    whole = undisturbed(folder / "whole", text, in_flight)
    tally.undisturbed_s = time.monotonic() - began
    tally.items = sum(step.items for step in whole.steps)
    note(f"undisturbed: {tally.items} items in {tally.undisturbed_s:.0f} s")
    began = time.monotonic()
    told: list[PipelineEvent] = []
    moments = sorted(dice.sample(range(1, whole.last_sequence), min(kills, whole.last_sequence - 1)))
    run_id, place = "", folder / "killed"
    while True:
        with kernel(place) as (process, client):
            tally.kernels += 1
            if not run_id:
                blob = client.put_blob(text).digest
                run_id = client.create_pipeline_run(declared(in_flight), blob=blob, form="lines").run_id
            late = time.monotonic() - began > limit_s
            until = moments.pop(0) if moments and not late else whole.last_sequence + 1
            ended = follow(client, run_id, told, max(until, len(told) + 1), tally)
            if not ended:
                threading.Event().wait(dice.random() * 0.05)  # the moment of a kill is no moment of an event
                process.process.send_signal(signal.SIGKILL)
                process.process.wait(30)
                tally.kills += 1
                note(f"{tally.kills} kills, {len(told)} of {whole.last_sequence} events")
                continue
            run = client.get_pipeline_run(run_id)
            digest = hashlib.sha256()
            with suppress(InferdError):
                for item in client.read_pipeline_output(run_id):
                    digest.update(json.dumps(item, ensure_ascii=False, separators=(",", ":")).encode() + b"\n")
            break
    tally.digest = run.output.digest
    if run.state != PIPELINE_STATE_SUCCEEDED:
        tally.wrong.append(f"the run ended with {run.state}: {run.error.message}")
    if run.output.digest != whole.output.digest:
        tally.wrong.append(f"digest {run.output.digest}, undisturbed {whole.output.digest}")
    if f"sha256:{digest.hexdigest()}" != run.output.digest:
        tally.wrong.append("what is read has another digest than what is told")
    done = [(event.item.step, event.item.index) for event in told if event.HasField("item")]
    if len(done) != len(set(done)) or len(done) != tally.items:
        tally.wrong.append(f"{len(done)} items were done, {len(set(done))} different ones, of {tally.items}")
    tally.took_s = time.monotonic() - began
    return tally


def note(line: str) -> None:
    """Tell how far it is."""
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    """Run what the command line asks for."""
    options = argparse.ArgumentParser(description="pipelines whose kernels are killed")
    options.add_argument("--kills", type=int, default=50)
    options.add_argument("--bytes", type=int, default=20_000_000)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--in-flight", type=int, default=4)
    options.add_argument("--limit-s", type=float, default=7200.0, help="kill none after so long")
    asked = options.parse_args()
    with tempfile.TemporaryDirectory() as name:
        chosen = {"kills": asked.kills, "seed": asked.seed, "in_flight": asked.in_flight, "limit_s": asked.limit_s}
        tally = ordeal(Path(name), text_of(asked.bytes), **chosen)
    print(json.dumps({"name": "chaos.pipelines", "seed": asked.seed, **asdict(tally)}))
    sys.exit(bool(tally.wrong))


if __name__ == "__main__":
    main()
