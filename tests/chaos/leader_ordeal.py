"""`make chaos LEADERS=150`: so many times the kernel that leads is ended in mid-stream, and another one follows it.

Three kernels have one store in PostgreSQL. In each round a client that knows all of them creates tasks, and runs some
that are detached; while these flow the leader is killed, stopped, or its connections to the database are cut. Each
stream must be as it is undisturbed, each task that was acknowledged be there once, and nothing be taken from who had
lost (`fencing`). A JSON line for each round, appended to a report where one is named, so that many rounds are run in
parts (`--from`, the manners taking turns); and what all of that say together.
"""

import argparse
import asyncio
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from chaos import Request, Told, requests
from fenced import commits, record_commits
from fencing import losers
from histories import undisturbed
from ordeal import smollm2
from postgres_server import PostgresServer
from rounds import ROUND_S, SETTINGS, Kernels, Round, judge, leader_of, stream, summary, tell

from inferd.testing.kernel import write_fake_model
from inferd_client import AsyncClient

if TYPE_CHECKING:
    from inferd_api.v1.task_pb2 import TaskEvent

KERNELS = 3
STREAMS = 8  # in a round
OUTPUT_TOKENS = 90
REAL_TOKENS = 24  # at least twice the `min_tokens` of some
STEP_S = 0.02
STRUCK_S = 0.9  # from the first output to the blow, at most
NAME = "chaos.leaders"
MANNERS = ("stopped", "killed", "cut")


def _strike(manner: str, pid: int, server: PostgresServer, database: str) -> None:
    if manner == "cut":
        server.cut(database)
    else:
        os.kill(pid, signal.SIGKILL if manner == "killed" else signal.SIGSTOP)


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """What is fought for: a store, its kernels, and a model.

    Attributes:
        kernels: They.
        server: Of the store.
        database: Of that.
        model: The name of the model.
        tasks: What is asked of it.
        wanted: What each of these tells undisturbed, as far as it is asked for, by number.
    """

    kernels: Kernels
    server: PostgresServer
    database: str
    model: str
    tasks: Sequence[Request]
    wanted: Mapping[int, Told]


async def _round(ground: Field, *, number: int, seed: int) -> Round:
    chance = random.Random(f"{seed}.{number}")
    kernels, server, database, tasks = ground.kernels, ground.server, ground.database, ground.tasks
    done = Round(MANNERS[number % len(MANNERS)])
    chosen = chance.sample(sorted(ground.wanted), STREAMS)
    told: list[list[TaskEvent]] = [[] for _ in chosen]
    flowing = asyncio.Event()
    before = await asyncio.to_thread(leader_of, server, database)
    async with AsyncClient(kernels.addresses) as client, asyncio.timeout(ROUND_S):
        streams = [
            asyncio.create_task(
                stream(client, ground.model, tasks[n], key=f"{number}.{place}", told=told[place], flowing=flowing)
            )
            for place, n in enumerate(chosen)
        ]
        await flowing.wait()
        await asyncio.to_thread(time.sleep, chance.random() * STRUCK_S)
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
        listed = [task.task_id async for task in client.list_tasks()]
    judge(done, [(tasks[n], ground.wanted[n]) for n in chosen], told, ends, listed)
    done.stale += losers(await asyncio.to_thread(commits, server, database))
    return done


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """How an ordeal is run.

    Attributes:
        model: "fake" or "smollm2".
        begin: The number of its first round.
        count: How many there are.
        seed: Of all that is drawn.
        kernels: How many have the store.
        kinds: How many tasks are known, of which each round has some.
        report: Where the line of each round is appended; None for nowhere.
    """

    model: str = "fake"
    begin: int = 0
    count: int = 50
    seed: int = 1
    kernels: int = KERNELS
    kinds: int = 32
    report: Path | None = None


async def ordeal(server: PostgresServer, folder: Path, course: Course) -> list[Round]:
    """Its rounds, each told as a line."""
    fake, database = course.model == "fake", server.make_database()
    environment = {
        **SETTINGS,
        **({} if fake else {"INFERD_BACKENDS": "cpu"}),
        "INFERD_STORE__KEY_FILE": str(folder / "store.key"),
        "INFERD_AUTH__PEPPER_FILE": str(folder / "pepper"),
        "INFERD_STORE__URL": server.url(database),
    }
    kernels = Kernels(folder, environment, course.kernels)
    source = str(write_fake_model(folder, step_s=STEP_S, blocks=8192, max_sequences=STREAMS)) if fake else smollm2()
    tasks = requests(course.seed, output_tokens=OUTPUT_TOKENS if fake else REAL_TOKENS)[: course.kinds]
    rounds: list[Round] = []
    try:
        await kernels.start_all()
        async with AsyncClient(kernels.addresses) as client:
            await client.create_model(course.model, source=source)
            found, _ = await undisturbed(client, course.model, tasks)
        record_commits(server, database)
        ground = Field(
            kernels=kernels,
            server=server,
            database=database,
            model=course.model,
            tasks=tasks,
            wanted=dict(enumerate(found)),
        )
        for number in range(course.begin, course.begin + course.count):
            await kernels.start_all()
            begun = time.monotonic()
            done = await _round(ground, number=number, seed=course.seed)
            rounds.append(done)
            tell(f"{NAME}.{course.model}", number, done, time.monotonic() - begun, course.report)
    finally:
        await asyncio.to_thread(kernels.end_all)
    return rounds


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--from", dest="begin", type=int, default=0, help="number of the first round")
    parser.add_argument("--rounds", type=int, default=150, help="how often the leader is ended, by each manner in turn")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--models", nargs="+", choices=("fake", "smollm2"), default=["fake"])
    parser.add_argument("--report", type=Path, help="file to append the line of each round to")
    chosen = parser.parse_args()
    server, right = PostgresServer(), True
    try:
        for model in chosen.models:
            with tempfile.TemporaryDirectory(prefix="leaders-") as folder:
                course = Course(
                    model=model, begin=chosen.begin, count=chosen.rounds, seed=chosen.seed, report=chosen.report
                )
                rounds = asyncio.run(ordeal(server, Path(folder), course))
            right &= all(each.is_right for each in rounds)
    finally:
        server.remove()
    if chosen.report is not None:
        print(summary(chosen.report.read_text(encoding="utf-8").splitlines(), NAME), file=sys.stderr)
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
