"""`make chaos LEADERS=50`: so many times the kernel that leads is ended in mid-stream, and another one follows it.

Three kernels have one store in PostgreSQL. In each round a client that knows all of them creates tasks, and runs some
that are detached; while these flow the leader is killed, stopped, or its connections to the database are cut. Each
stream must be as it is undisturbed, and each task that was acknowledged be there once. A JSON line for each round, and
one for all.
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
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chaos import Request, Told, requests
from histories import told_of, undisturbed
from ordeal import differences, quantile
from postgres_server import PostgresServer

from inferd.testing.kernel import KernelProcess, kernel_process, write_fake_model
from inferd_api.v1.task_pb2 import TaskEvent
from inferd_client import AsyncClient

KERNELS = 3
STREAMS = 8  # in a round
OUTPUT_TOKENS = 90
STEP_S = 0.02
ROUND_S = 240.0  # most that one takes
TRIES = 3  # of starting a kernel
MANNERS = ("stopped", "killed", "cut")
LEADS = """
    SELECT k.pid FROM inferd.kernels k JOIN inferd.inferd_store s ON s.epoch = k.epoch
    WHERE k.seen > clock_timestamp() - interval '2 s'
"""
SETTINGS = {
    "INFERD_BACKENDS": "[]",
    "INFERD_STORE__OUTPUT_INTERVAL_S": "0.02",
    "INFERD_WORKERS__RESTART_BACKOFF_S": "0.05",
    "INFERD_SCHEDULER__TENANT_SHARE": "100",
}


@dataclass(slots=True)
class Round:
    """What came of a round.

    Attributes:
        manner: How the leader was ended.
        tasks: How many were acknowledged.
        lost: Which of them are not there, or did not succeed.
        doubled: Events that came twice, and tasks that nobody asked for.
        wrong: How streams differ from the undisturbed ones.
        pause_s: The longest time between two events of a stream, behind its first output.
        leads_s: From the end of a leader to when another one has begun its epoch; 0 where connections alone were cut.
        followed: Whether another kernel leads now.
    """

    manner: str
    tasks: int = 0
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    pause_s: float = 0.0
    leads_s: float = 0.0
    followed: bool = False

    @property
    def is_right(self) -> bool:
        """Whether nothing is wrong."""
        return not (self.lost or self.doubled or self.wrong)


class Kernels:
    """The kernels of a store, each in a process of its own. One writer: the ordeal.

    Args:
        folder: Theirs.
        environment: Of all of them.
        count: How many there are.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str], count: int) -> None:
        self._folder = folder
        self._count = count
        self._environment = environment
        self._living: dict[int, tuple[ExitStack, KernelProcess]] = {}

    @property
    def addresses(self) -> str:
        """Where they listen, as clients are told it."""
        return ",".join(f"unix:{self._folder}/k{number}" for number in range(self._count))

    def start(self, number: int) -> None:
        """Start one, and wait until it serves or stands by; on a busy machine once more."""
        for tries in range(1, TRIES + 1):
            stack = ExitStack()
            started = kernel_process(
                self._folder / str(number),
                environment={**self._environment, "INFERD_DATA_DIR": str(self._folder / "data")},
                listen=f"unix:{self._folder}/k{number}",
            )
            try:
                self._living[number] = stack, stack.enter_context(started)
            except RuntimeError:
                if tries == TRIES:
                    raise
            else:
                return

    async def start_all(self) -> None:
        """Start all that do not live."""
        missing = [number for number in range(self._count) if number not in self._living]
        await asyncio.gather(*(asyncio.to_thread(self.start, number) for number in missing))

    def number_of(self, pid: int) -> int:
        """The kernel of a process."""
        return next(number for number, (_, process) in self._living.items() if process.pid == pid)

    def end(self, number: int) -> None:
        """Have nothing left of one."""
        stack, process = self._living.pop(number)
        if process.process.poll() is None:
            process.process.send_signal(signal.SIGCONT)
        stack.close()

    def end_all(self) -> None:
        """Have nothing left of any."""
        for number in tuple(self._living):
            self.end(number)


def leader_of(server: PostgresServer, database: str, *, but: int = 0) -> int:
    """The process that leads, another one than `but`; waits for it.

    Raises:
        TimeoutError: There is none.
    """
    deadline = time.monotonic() + ROUND_S
    with server.connect(database) as connection:
        while time.monotonic() < deadline:
            rows = [int(str(pid)) for (pid,) in connection.execute(LEADS).fetchall() if pid != but]
            if rows:
                return rows[0]
            connection.execute("SELECT pg_sleep(0.05)")
    raise TimeoutError("no kernel leads")


async def _follow(events: Any, told: list[TaskEvent], flowing: asyncio.Event) -> float:
    """Read a stream to its end; the longest pause behind its first output."""
    last, pause_s = 0.0, 0.0
    async for event in events:
        told.append(event)
        now = time.monotonic()
        if last:
            pause_s = max(pause_s, now - last)
        if event.HasField("output"):
            last = now
            flowing.set()
    return pause_s


async def _stream(
    client: AsyncClient, request: Request, key: str, told: list[TaskEvent], flowing: asyncio.Event, *, detached: bool
) -> float:
    if detached:
        run = client.run("fake", request.prompt, request_id=key, detach_on_disconnect=True, **request.options)
        return await _follow(run, told, flowing)
    task = await client.create_task("fake", request.prompt, request_id=key, **request.options)
    return await _follow(client.watch(task.task_id), told, flowing)


def _strike(manner: str, pid: int, server: PostgresServer, database: str) -> None:
    if manner == "cut":
        server.cut(database)
    else:
        os.kill(pid, signal.SIGKILL if manner == "killed" else signal.SIGSTOP)


async def _round(
    kernels: Kernels, server: PostgresServer, database: str, *, number: int, seed: int, wanted: Mapping[int, Told]
) -> Round:
    chance = random.Random(f"{seed}.{number}")
    done = Round(MANNERS[number % len(MANNERS)])
    tasks, chosen = requests(seed, output_tokens=OUTPUT_TOKENS), chance.sample(sorted(wanted), STREAMS)
    told: list[list[TaskEvent]] = [[] for _ in chosen]
    flowing = asyncio.Event()
    before = await asyncio.to_thread(leader_of, server, database)
    async with AsyncClient(kernels.addresses) as client, asyncio.timeout(ROUND_S):
        streams = [
            asyncio.create_task(
                _stream(client, tasks[n], f"{number}.{n}", told[place], flowing, detached=place % 2 == 1)
            )
            for place, n in enumerate(chosen)
        ]
        await flowing.wait()
        await asyncio.to_thread(time.sleep, chance.random() * OUTPUT_TOKENS * STEP_S / 2)
        await asyncio.to_thread(_strike, done.manner, before, server, database)
        if done.manner != "cut":
            struck = time.monotonic()
            await asyncio.to_thread(leader_of, server, database, but=before)
            done.leads_s = time.monotonic() - struck
        if done.manner == "stopped":
            await asyncio.to_thread(time.sleep, chance.random())
            os.kill(before, signal.SIGCONT)
        ends = await asyncio.gather(*streams, return_exceptions=True)
        done.followed = await asyncio.to_thread(leader_of, server, database) != before
        if done.manner == "killed":
            await asyncio.to_thread(kernels.end, kernels.number_of(before))
        listed = Counter([task.task_id async for task in client.list_tasks()])
    _judge(done, chosen, tasks, told=told, ends=ends, wanted=wanted)
    known = {events[0].task_id for events in told if events}
    done.lost += [f"{each} is not listed" for each in known - listed.keys()]
    done.doubled += [f"{each} is listed {count} times" for each, count in listed.items() if count > 1]
    return done


def _judge(
    done: Round,
    chosen: Sequence[int],
    tasks: Sequence[Request],
    *,
    told: Sequence[list[TaskEvent]],
    ends: Sequence[float | BaseException],
    wanted: Mapping[int, Told],
) -> None:
    for number, events, end in zip(chosen, told, ends, strict=True):
        done.tasks += bool(events)
        if isinstance(end, BaseException):
            done.lost.append(f"{number}: {type(end).__name__}: {end}")
            continue
        done.pause_s = max(done.pause_s, end)
        numbers = [event.sequence for event in events]
        if numbers != sorted(set(numbers)) or len({event.task_id for event in events}) != 1:
            done.doubled.append(f"{number}: events {numbers}")
        done.wrong += differences([tasks[number]], [told_of(events)], [wanted[number]])


async def ordeal(
    server: PostgresServer, folder: Path, *, count: int, seed: int, kernels: int = KERNELS, kinds: int = 32
) -> list[Round]:
    """So many rounds, each told as a line; with so many kernels, and kinds of tasks."""
    database = server.make_database()
    key = {"INFERD_STORE__KEY_FILE": str(folder / "store.key"), "INFERD_AUTH__PEPPER_FILE": str(folder / "pepper")}
    having = Kernels(folder, {**SETTINGS, **key, "INFERD_STORE__URL": server.url(database)}, kernels)
    source = str(write_fake_model(folder, step_s=STEP_S, blocks=8192, max_sequences=STREAMS))
    rounds: list[Round] = []
    try:
        await having.start_all()
        async with AsyncClient(having.addresses) as client:
            await client.create_model("fake", source=source)
            asked = requests(seed, output_tokens=OUTPUT_TOKENS)[:kinds]
            found, _ = await undisturbed(client, "fake", asked)
        wanted = dict(enumerate(found))
        for number in range(count):
            await having.start_all()
            begun = time.monotonic()
            done = await _round(having, server, database, number=number, seed=seed, wanted=wanted)
            rounds.append(done)
            for line in (*done.lost, *done.doubled, *done.wrong):
                print(f"round {number} ({done.manner}): {line}", file=sys.stderr)
            print(json.dumps(_line(number, done, time.monotonic() - begun)), flush=True)
    finally:
        await asyncio.to_thread(having.end_all)
    return rounds


def _line(number: int, done: Round, took_s: float) -> dict[str, object]:
    return {
        "name": "chaos.leaders.round",
        "round": number,
        "manner": done.manner,
        "followed": done.followed,
        "tasks": done.tasks,
        "lost": len(done.lost),
        "double": len(done.doubled),
        "wrong": len(done.wrong),
        "leads_s": round(done.leads_s, 2),
        "pause_s": round(done.pause_s, 2),
        "took_s": round(took_s, 1),
    }


def figures(rounds: Sequence[Round], seed: int) -> dict[str, object]:
    """What came of all rounds."""
    pauses = {manner: [each.pause_s for each in rounds if each.manner == manner] for manner in MANNERS}
    leads = {manner: [each.leads_s for each in rounds if each.manner == manner] for manner in ("killed", "stopped")}
    return {
        "name": "chaos.leaders",
        "seed": seed,
        "rounds": len(rounds),
        "tasks": sum(each.tasks for each in rounds),
        "lost": sum(len(each.lost) for each in rounds),
        "double": sum(len(each.doubled) for each in rounds),
        "wrong": sum(len(each.wrong) for each in rounds),
        "followed": sum(each.followed for each in rounds),
        **{f"leads_{manner}_p50_s": round(quantile(found, 0.5), 2) for manner, found in leads.items()},
        **{f"leads_{manner}_max_s": round(max(found, default=0.0), 2) for manner, found in leads.items()},
        **{f"pause_{manner}_p50_s": round(quantile(found, 0.5), 2) for manner, found in pauses.items()},
        **{f"pause_{manner}_max_s": round(max(found, default=0.0), 2) for manner, found in pauses.items()},
    }


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=50, help="how often the leader is ended")
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    server = PostgresServer()
    try:
        with tempfile.TemporaryDirectory(prefix="leaders-") as folder:
            rounds = asyncio.run(ordeal(server, Path(folder), count=chosen.rounds, seed=chosen.seed))
    finally:
        server.remove()
    print(json.dumps(figures(rounds, chosen.seed)), flush=True)
    return 0 if all(each.is_right for each in rounds) else 1


if __name__ == "__main__":
    sys.exit(main())
