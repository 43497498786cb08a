"""`make chaos HOSTS=250`: so many times something befalls one of three hosts or their kernel, while streams flow.

Hosts are networks of their own, each with an agent and one link to the kernels (TLS, one store in PostgreSQL, one
leads). In turn the link of a host is down, takes what is sent and says nothing, or is slow, and comes back; an agent is
killed and started again; and the kernel that leads is killed and started again. Each stream must be as it is
undisturbed, each task that was acknowledged be there once, and nothing be taken from who had lost (`fencing`). A JSON
line for each round, appended to a report where one is named: many rounds are run in parts (`--from`).
"""

import argparse
import asyncio
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from chaos import Request, Told, requests
from fenced import commits, record_commits
from fencing import losers
from histories import undisturbed
from networks import Link, links
from ordeal import smollm2
from postgres_server import PostgresServer
from rounds import ROUND_S, SETTINGS, Kernels, Round, judge, leader_of, stream, summary, tell

from inferd.cli.cert_authority import CertAuthority
from inferd.testing.kernel import FAKE_PLUGIN, write_fake_model
from inferd_api.v1.model_pb2 import PlacementRules
from inferd_client import AsyncClient

if TYPE_CHECKING:
    from inferd_api.v1.task_pb2 import TaskEvent

NAME = "chaos.hosts"
HOSTS = 3
OUTPUT_TOKENS, REAL_TOKENS = 90, 24  # the latter at least twice the `min_tokens` of some
STEP_S = 0.02
STRUCK_S = 0.9  # from the first output to the blow, at most
CUT_S = (0.2, 5.0)  # how long a link is not as it should be: less than a host may be silent, or more
MANNERS = ("down", "silent", "slow", "host", "kernel")
DEADLINE_S = 60.0


@dataclass(slots=True)
class Host:
    """A host: its network, and its agent.

    Attributes:
        name: As the kernel knows it.
        link: To it.
        folder: Its own.
        environment: Of its agent.
        joins: Where the kernels are, as seen from there.
        process: Its agent, while there is one.
    """

    name: str
    link: Link
    folder: Path
    environment: dict[str, str]
    joins: Sequence[str]
    process: subprocess.Popen[str] | None = None

    def start(self, token: str = "") -> None:
        """Start its agent, and wait until it is attached; with an invitation where it has no credential yet."""
        words = ["--ca-file", str(self.folder.parent / "ca" / "ca.pem"), "host", "--name", self.name]
        words += [word for address in self.joins for word in ("--join", address)]
        log = (self.folder / "agent.log").open("a", encoding="utf-8")
        with log:
            self.process = subprocess.Popen(
                [*self.link.enter, sys.executable, "-m", "inferd", *words, *(["--token-file", "-"] if token else [])],
                env=self.environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        if self.process.stdin is None or self.process.stdout is None:
            raise RuntimeError("it has no pipes")
        self.process.stdin.write(token)
        self.process.stdin.close()
        if "is attached" not in (said := self.process.stdout.readline()):
            raise RuntimeError(f"the agent of {self.name} says {said!r}; see {self.folder}/agent.log")

    def end(self, number: int = signal.SIGTERM) -> None:
        """End its agent."""
        if self.process is None:
            return
        process, self.process = self.process, None
        process.send_signal(number)
        try:
            process.wait(DEADLINE_S)
        finally:
            if process.stdout is not None:
                process.stdout.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """How an ordeal is run.

    Attributes:
        model: "fake" or "smollm2".
        begin: The number of its first round.
        count: How many there are.
        seed: Of all that is drawn.
        streams: In a round.
        kernels: How many have the store; of one there is no standby.
        kinds: How many tasks are known, of which each round has some.
        report: Where the line of each round is appended; None for nowhere.
        manners: What befalls them, in turn.
    """

    model: str = "fake"
    begin: int = 0
    count: int = 50
    seed: int = 1
    streams: int = 64
    kernels: int = 2
    kinds: int = 32
    report: Path | None = None
    manners: Sequence[str] = MANNERS


@dataclass(slots=True)
class Ground:
    """What is fought for. One writer: the ordeal.

    Attributes:
        course: How.
        kernels: They.
        hosts: They.
        server: Of the store.
        database: Of that.
        asked: Tasks, with what each tells undisturbed.
    """

    course: Course
    kernels: Kernels
    hosts: list[Host]
    server: PostgresServer
    database: str
    asked: list[tuple[Request, Told]] = field(default_factory=list)

    def model_of(self, place: int) -> str:
        """The model of a stream: each is on one host."""
        return f"{self.course.model}-{place % len(self.hosts)}"


async def _round(ground: Ground, number: int) -> Round:
    course = ground.course
    chance = random.Random(f"{course.seed}.{number}")
    done = Round(course.manners[number % len(course.manners)])
    chosen = [chance.choice(ground.asked) for _ in range(course.streams)]
    told: list[list[TaskEvent]] = [[] for _ in chosen]
    flowing = asyncio.Event()
    async with AsyncClient(ground.kernels.addresses) as client, asyncio.timeout(ROUND_S):
        streams = [
            asyncio.create_task(
                stream(client, ground.model_of(place), request, key=f"{number}.{place}", told=events, flowing=flowing)
            )
            for place, ((request, _), events) in enumerate(zip(chosen, told, strict=True))
        ]
        await flowing.wait()
        await asyncio.to_thread(time.sleep, chance.random() * STRUCK_S)
        await asyncio.to_thread(_strike, ground, done, chance)
        ends = await asyncio.gather(*streams, return_exceptions=True)
        listed = [task.task_id async for task in client.list_tasks()]
    judge(done, chosen, told, ends, listed)
    done.stale += losers(await asyncio.to_thread(commits, ground.server, ground.database))
    return done


def _strike(ground: Ground, done: Round, chance: random.Random) -> None:
    """Do to a host, or to the kernel that leads, what is to be done, and let it be over."""
    host = chance.choice(ground.hosts)
    match done.manner:
        case "host":
            struck = time.monotonic()
            host.end(signal.SIGKILL)
            host.start()
            done.away_s = time.monotonic() - struck
        case "kernel":
            before, struck = leader_of(ground.server, ground.database), time.monotonic()
            killed = ground.kernels.number_of(before)
            ground.kernels.kill(killed)
            if ground.course.kernels == 1:
                ground.kernels.start(killed)
            leader_of(ground.server, ground.database, but=before)
            done.leads_s, done.followed = time.monotonic() - struck, True
        case manner:
            host.link.break_(manner)
            threading.Event().wait(chance.uniform(*CUT_S))  # as long as it is cut: nothing ends it earlier
            host.link.mend()


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        made = [stack.enter_context(socket.create_server(("", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in made]


async def ordeal(server: PostgresServer, folder: Path, course: Course) -> list[Round]:
    """Its rounds, each told as a line.

    Raises:
        UnavailableError: This system gives no networks.
    """
    with links(HOSTS) as made:
        ground = _prepare(server, folder, course, made)
        try:
            return await _run(ground)
        finally:
            for host in ground.hosts:
                with suppress(subprocess.TimeoutExpired):
                    await asyncio.to_thread(host.end)
            await asyncio.to_thread(ground.kernels.end_all)


def _prepare(server: PostgresServer, folder: Path, course: Course, made: Sequence[Link]) -> Ground:
    authority = CertAuthority.create(folder / "ca", name="ordeal", days=2)
    near = [link.address for link in made]
    _, cert_file, key_file = authority.issue("kernel", hosts=near, uris=(), days=2, out=folder, replace=False)
    backends = {} if course.model == "fake" else {"INFERD_BACKENDS": "cpu"}
    database, ports = server.make_database(), _free_ports(course.kernels)
    environment = {
        **SETTINGS,
        **backends,
        "INFERD_STORE__KEY_FILE": str(folder / "store.key"),
        "INFERD_AUTH__PEPPER_FILE": str(folder / "pepper"),
        "INFERD_STORE__URL": server.url(database),
        "INFERD_TLS__CERT_FILE": str(cert_file),
        "INFERD_TLS__KEY_FILE": str(key_file),
    }
    kernels = Kernels(folder, environment, course.kernels, [[f"tls:0.0.0.0:{port}"] for port in ports])
    hosts = []
    for number, link in enumerate(made):
        own = folder / f"h{number}"
        own.mkdir()
        agent = {
            **{f"INFERD_{name}_DIR": str(own / name.lower()) for name in ("DATA", "STATE")},
            "INFERD_PLUGIN_MODULES": f'["{FAKE_PLUGIN}"]',
            "INFERD_BACKENDS": "[]",
            **backends,
        }
        joins = [f"tls:{link.address}:{port}" for port in ports]
        hosts.append(Host(f"h{number}", link, own, {**os.environ, **agent}, joins))
    return Ground(course, kernels, hosts, server, database)


async def _run(ground: Ground) -> list[Round]:
    course, kernels = ground.course, ground.kernels
    fake, folder = course.model == "fake", ground.hosts[0].folder.parent
    source = str(write_fake_model(folder, step_s=STEP_S, blocks=8192, max_sequences=32)) if fake else smollm2()
    tasks = requests(course.seed, output_tokens=OUTPUT_TOKENS if fake else REAL_TOKENS)[: course.kinds]
    await kernels.start_all()
    async with AsyncClient(kernels.addresses) as client:
        for number, host in enumerate(ground.hosts):
            token = (await client.create_invite(host.name)).credential
            await asyncio.to_thread(host.start, token)
            rules = PlacementRules(selector={"host": host.name})
            await client.create_model(ground.model_of(number), source=source, placement=rules)
        found, _ = await undisturbed(client, ground.model_of(0), tasks)
        for number in range(1, len(ground.hosts)):
            await client.load_model(ground.model_of(number))
    ground.asked = list(zip(tasks, found, strict=True))
    record_commits(ground.server, ground.database)
    rounds = []
    for number in range(course.begin, course.begin + course.count):
        await kernels.start_all()
        begun = time.monotonic()
        rounds.append(done := await _round(ground, number))
        tell(f"{NAME}.{course.model}", number, done, time.monotonic() - begun, course.report)
    return rounds


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--from", dest="begin", type=int, default=0, help="number of the first round")
    parser.add_argument("--rounds", type=int, default=250, help="how many, by each manner in turn")
    parser.add_argument("--kernels", type=int, default=2, help="1: the kernel is killed without a standby")
    parser.add_argument("--streams", type=int, default=64, help="in a round")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--models", nargs="+", choices=("fake", "smollm2"), default=["fake"])
    parser.add_argument("--manners", nargs="+", choices=MANNERS, default=MANNERS, help="what befalls them, in turn")
    parser.add_argument("--report", type=Path, help="file to append the line of each round to")
    chosen = parser.parse_args()
    server, right = PostgresServer(), True
    try:
        for model in chosen.models:
            with tempfile.TemporaryDirectory(prefix="hosts-") as folder:
                course = Course(
                    model=model,
                    begin=chosen.begin,
                    count=chosen.rounds,
                    seed=chosen.seed,
                    streams=chosen.streams,
                    kernels=chosen.kernels,
                    manners=chosen.manners,
                    report=chosen.report,
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
