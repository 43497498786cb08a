"""`make swaps`: three models of which two fit serve a random mix of tasks, so that they come and go all the time.

Clients ask one task after the other, each of a model that is drawn, and check each answer. No task may fail; what all
processes of the kernel but itself take is measured all the time and may never be more than the kernel may give, and
once the models are unloaded it has to be back. Prints progress, then one JSON line.
"""

import argparse
import asyncio
import json
import random
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from inferd.testing.kernel import kernel_process, write_fake_model
from inferd_client import AsyncClient
from inferd_client.errors import InferdError

MIB = 1 << 20
NAMES = ("a", "b", "c")
WORDS = "the quick brown fox"
TAKES_BYTES, NEEDS_BYTES = 100 * MIB, 200 * MIB  # of a model of the FakeBackend: what it takes, with its process
ROOM = 2.6  # of models: two, and the beginning of the process of a third one, which waits for its memory
WAIT_S = 300.0  # most that a client waits for an answer
BACK = 0.05  # most of what was taken that may not be back behind an unload
SAMPLE_S = 0.05


class Memory(threading.Thread):
    """Measures what the descendants of a kernel take, shared pages in parts, until it is stopped.

    Attributes:
        most_bytes: Most that was seen.
        samples: How often it looked.
    """

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.most_bytes = self.samples = 0
        self._kernel = psutil.Process(pid)
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.wait(SAMPLE_S):
            self.most_bytes = max(self.most_bytes, self.now())
            self.samples += 1

    def now(self) -> int:
        """What they take now, in bytes."""
        return sum(map(_proportional_bytes, self._kernel.children(recursive=True)))

    def all_now(self) -> int:
        """The same, with the kernel itself."""
        return self.now() + _proportional_bytes(self._kernel)

    def stop(self) -> None:
        """Look no more."""
        self._over.set()
        self.join()


def _proportional_bytes(process: psutil.Process) -> int:
    with suppress(psutil.Error, OSError):
        return int(process.memory_full_info().pss)
    return 0  # it has ended


@dataclass
class Mix:
    """Tasks that are still to be asked, and what became of the others.

    Attributes:
        names: The models that are to be asked, one after the other.
        answer: What each has to answer; None where only that it answers counts.
    """

    names: list[str]
    answer: str | None
    done: int = 0
    wrong: list[str] = field(default_factory=list)
    longest_s: float = 0.0

    async def ask(self, client: AsyncClient) -> None:
        """Ask one task after the other, until there is none."""
        while self.names:
            name, began = self.names.pop(), time.monotonic()
            try:
                told = await client.generate(
                    name, [{"role": "user", "content": WORDS}], max_tokens=32, temperature=0.0, timeout_s=WAIT_S
                )
            except InferdError as error:
                self.wrong.append(f"{name}: {type(error).__name__}: {error}")
                continue
            self.longest_s = max(self.longest_s, time.monotonic() - began)
            text = told.text
            if text and self.answer in (text, None):
                self.done += 1
            else:
                self.wrong.append(f"{name}: the answer was {text!r}")
            if self.done % 25 == 0:
                print(f"{self.done} done, {len(self.names)} left", file=sys.stderr)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is served.

    Attributes:
        file: Of each model.
        answer: See `Mix`.
        room_bytes: What the kernel may give.
        device: Of what.
        backends: Which it has, besides the FakeBackend.
    """

    file: Path
    answer: str | None
    room_bytes: int
    device: str
    backends: str


def fake_plan(folder: Path) -> Plan:
    """Of models of the FakeBackend that really take memory."""
    file = write_fake_model(folder, "m", take_bytes=TAKES_BYTES, weights_bytes=NEEDS_BYTES)
    return Plan(file, WORDS, int(ROOM * NEEDS_BYTES), "fake:0", "[]")


def real_plan(file: Path, needs_bytes: int) -> Plan:
    """Of a file that the backend `cpu` loads, which says that it needs so much."""
    return Plan(file, None, int(ROOM * needs_bytes), "cpu:0", '["cpu"]')


async def serve(address: str, pid: int, plan: Plan, *, tasks: int, clients: int, seed: int) -> dict[str, Any]:
    """Ask so many tasks of the kernel that listens there and is in this process; what was seen."""
    draw, memory = random.Random(seed), Memory(pid)
    mix = Mix([draw.choice(NAMES) for _ in range(tasks)], plan.answer)
    async with AsyncClient(address) as client:
        for name in NAMES:
            await client.create_model(name, str(plan.file))
        began, before_bytes = time.monotonic(), memory.all_now()
        memory.start()
        await asyncio.gather(*(mix.ask(client) for _ in range(clients)))
        took_s = time.monotonic() - began
        loaded_bytes, told_bytes = memory.all_now(), 0
        for name in NAMES:
            told_bytes += (await client.unload_model(name, timeout_s=WAIT_S)).returned_bytes
        memory.stop()
        after_bytes = memory.all_now()
    taken_bytes = max(1, loaded_bytes - before_bytes)
    return {
        "tasks": mix.done,
        "failed_tasks": len(mix.wrong),
        "first_failures": mix.wrong[:3],
        "longest_task_s": round(mix.longest_s, 1),
        "took_s": round(took_s, 1),
        "samples": memory.samples,
        "room_mib": plan.room_bytes // MIB,
        "most_mib": memory.most_bytes // MIB,
        "loaded_mib": taken_bytes // MIB,
        "told_returned_mib": told_bytes // MIB,
        "not_back": round((after_bytes - before_bytes) / taken_bytes, 4),
    }


def problems(seen: dict[str, Any], tasks: int) -> list[str]:
    """What is not as it has to be."""
    found = []
    if seen["failed_tasks"] or seen["tasks"] != tasks:
        found.append(f"{seen['tasks']} of {tasks} tasks were done")
    if seen["most_mib"] > seen["room_mib"]:
        found.append(f"{seen['most_mib']} MiB were taken where {seen['room_mib']} may be")
    if seen["not_back"] > BACK:
        found.append(f"{seen['not_back']:.1%} of the memory is not back")
    return found


def environment(plan: Plan) -> dict[str, str]:
    """The settings of a kernel for a plan."""
    return {
        "INFERD_BACKENDS": plan.backends,
        "INFERD_ELASTIC__DRAIN_S": "0.5",  # so that they come and go often
        "INFERD_DEVICES__MEMORY_BYTES": json.dumps({plan.device: plan.room_bytes}),
    }


def main(tasks: int, clients: int, seed: int, model: Path | None, needs_bytes: int) -> int:
    """Serve a mix; 1 where anything went wrong."""
    with tempfile.TemporaryDirectory() as folder:
        plan = fake_plan(Path(folder)) if model is None else real_plan(model, needs_bytes)
        with kernel_process(Path(folder) / "kernel", environment=environment(plan)) as kernel:
            seen = asyncio.run(serve(kernel.address, kernel.pid, plan, tasks=tasks, clients=clients, seed=seed))
            loads = (kernel.folder / "kernel.log").read_text(encoding="utf-8").count("worker exited")
    wrong = problems(seen, tasks)
    print(json.dumps({**seen, "loads": loads, "problems": wrong}))
    return 1 if wrong else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="swaps", description=__doc__)
    parser.add_argument("--tasks", type=int, default=500, help="tasks that are asked")
    parser.add_argument("--clients", type=int, default=4, help="clients that ask at once")
    parser.add_argument("--seed", type=int, default=1, help="of the mix")
    parser.add_argument("--model", type=Path, help="a file that the backend `cpu` loads; default: the FakeBackend")
    parser.add_argument("--needs-mib", type=int, default=0, help="what `inferd plan` says that the file needs")
    chosen = parser.parse_args()
    if chosen.model is not None and not chosen.needs_mib:
        parser.error("--model needs --needs-mib, as `inferd plan` tells it")
    sys.exit(main(chosen.tasks, chosen.clients, chosen.seed, chosen.model, chosen.needs_mib * MIB))
