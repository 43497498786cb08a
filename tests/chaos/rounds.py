"""What ordeals of kernels have in common: the kernels of a store, streams in a round, and what came of it."""

import asyncio
import json
import signal
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chaos import Request, Told
from fenced import attempts
from fencing import losers
from histories import told_of
from ordeal import differences, quantile
from postgres_server import PostgresServer

from inferd.testing.kernel import KernelProcess, kernel_process
from inferd_api.v1.task_pb2 import TaskEvent
from inferd_client import AsyncClient, KernelUnreachableError

ROUND_S = 240.0  # most that one takes
TRIES = 3  # of starting a kernel
COUNTED = ("tasks", "lost", "double", "wrong", "stale")
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
        manner: What was done in it.
        tasks: How many were acknowledged.
        lost: Which of them are not there, or did not succeed.
        doubled: Events that came twice, and tasks that nobody asked for.
        wrong: How streams differ from the undisturbed ones.
        stale: What was taken from who had lost: an older epoch, or attempt.
        pause_s: The longest time between two events of a stream, behind its first output.
        leads_s: From the end of a leader to when another one has begun its epoch; 0 where none was ended.
        away_s: From the end of a host to when it was attached again, for which its models have no other place.
        followed: Whether another kernel leads now.
    """

    manner: str
    tasks: int = 0
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    stale: list[str] = field(default_factory=list)
    pause_s: float = 0.0
    leads_s: float = 0.0
    away_s: float = 0.0
    followed: bool = False

    @property
    def is_right(self) -> bool:
        """Whether nothing is wrong."""
        return not (self.lost or self.doubled or self.wrong or self.stale)


class Kernels:
    """The kernels of a store, each in a process of its own. One writer: the ordeal.

    Args:
        folder: Theirs.
        environment: Of all of them.
        count: How many there are.
        besides: Where each listens besides its socket.
    """

    def __init__(
        self, folder: Path, environment: Mapping[str, str], count: int, besides: Sequence[Sequence[str]] = ()
    ) -> None:
        self._folder = folder
        self._besides = besides
        self._count = count
        self._environment = environment
        self._living: dict[int, tuple[ExitStack, KernelProcess]] = {}

    @property
    def addresses(self) -> str:
        """Where they listen, as clients are told it."""
        return ",".join(f"unix:{self._folder}/k{number}" for number in range(self._count))

    def start(self, number: int) -> None:
        """Start one, and wait until it serves or stands by; on a busy machine once more."""
        reached = f"unix:{self._folder}/k{number}"
        own = {"INFERD_DATA_DIR": str(self._folder / "data"), "INFERD_STANDBY__ADVERTISE": json.dumps([reached])}
        for tries in range(1, TRIES + 1):
            stack = ExitStack()
            started = kernel_process(
                self._folder / str(number),
                environment={**self._environment, **own},
                listen=reached,
                besides=self._besides[number] if self._besides else (),
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

    def kill(self, number: int) -> None:
        """Kill one."""
        self._living[number][1].process.kill()
        self.end(number)

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


async def follow_stream(client: AsyncClient, events: Any, told: list[TaskEvent], flowing: asyncio.Event) -> float:
    """Read a stream to its end; the longest pause behind its first output.

    A client gives up after some time in which no kernel answers, and on a busy machine one takes longer to be started:
    then the task is watched on from where it was.
    """
    last, pause_s = 0.0, 0.0
    while True:
        try:
            async for event in events:
                told.append(event)
                now = time.monotonic()
                if last:
                    pause_s = max(pause_s, now - last)
                if event.HasField("output"):
                    last = now
                    flowing.set()
        except KernelUnreachableError:
            if not told:
                raise
            events = client.watch(told[-1].task_id, told[-1].sequence)
        else:
            return pause_s


async def stream(
    client: AsyncClient, model: str, request: Request, *, key: str, told: list[TaskEvent], flowing: asyncio.Event
) -> float:
    """Have a task run, odd ones as detached ones, and read its stream."""
    if int(key.rpartition(".")[2]) % 2:
        run = client.run(model, request.prompt, request_id=key, detach_on_disconnect=True, **request.options)
        return await follow_stream(client, run, told, flowing)
    task = await client.create_task(model, request.prompt, request_id=key, **request.options)
    return await follow_stream(client, client.watch(task.task_id), told, flowing)


def judge(
    done: Round,
    asked: Sequence[tuple[Request, Told]],
    told: Sequence[list[TaskEvent]],
    ends: Sequence[float | BaseException],
    listed: Sequence[str],
) -> None:
    """See what is wrong with the streams of a round.

    Args:
        done: Where it is told.
        asked: What was asked for, with what it tells undisturbed.
        told: What each stream told.
        ends: The longest pause of each, or how it failed.
        listed: The ids of all tasks that the kernel has.
    """
    for number, ((request, wanted), events, end) in enumerate(zip(asked, told, ends, strict=True)):
        done.tasks += bool(events)
        if isinstance(end, BaseException):
            done.lost.append(f"{number}: {type(end).__name__}: {end}")
            continue
        done.pause_s = max(done.pause_s, end)
        numbers = [event.sequence for event in events]
        if numbers != sorted(set(numbers)) or len({event.task_id for event in events}) != 1:
            done.doubled.append(f"{number}: events {numbers}")
        done.wrong += differences([request], [told_of(events)], [wanted])
    known, counts = {events[0].task_id for events in told if events}, Counter(listed)
    done.lost += [f"{each} is not listed" for each in known - counts.keys()]
    done.doubled += [f"{each} is listed {count} times" for each, count in counts.items() if count > 1]
    done.stale += losers(entry for events in told for entry in attempts(events))


def line_of(number: int, done: Round, took_s: float) -> dict[str, Any]:
    """A round, as it is told and appended."""
    return {
        "round": number,
        "manner": done.manner,
        "followed": done.followed,
        "tasks": done.tasks,
        "lost": len(done.lost),
        "double": len(done.doubled),
        "wrong": len(done.wrong),
        "stale": len(done.stale),
        "leads_s": round(done.leads_s, 2),
        "away_s": round(done.away_s, 2),
        "pause_s": round(done.pause_s, 2),
        "took_s": round(took_s, 1),
    }


def tell(name: str, number: int, done: Round, took_s: float, report: Path | None) -> None:
    """Print a round, with all that is wrong, and append it to a report where there is one."""
    for wrong in (*done.lost, *done.doubled, *done.wrong, *done.stale):
        sys.stderr.write(f"{name}, round {number} ({done.manner}): {wrong}\n")
    line = json.dumps({"name": name, **line_of(number, done, took_s)})
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
    if report is not None:
        with report.open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")


def summary(lines: Sequence[str], begins: str) -> str:
    """What all rounds of a report say together whose name begins so, by model and manner."""
    by: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for line in map(json.loads, lines):
        if line["name"].startswith(begins):
            by.setdefault((line["name"], line["manner"]), []).append(line)
    told = []
    for (name, manner), rounds in sorted(by.items()):
        sums = ", ".join(f"{sum(each[key] for each in rounds)} {key}" for key in COUNTED)
        times = ", ".join(
            f"{key} {quantile(found, 0.5):.1f} (at most {max(found):.1f})"
            for key in ("leads_s", "away_s", "pause_s")
            for found in [[each.get(key, 0.0) for each in rounds]]
        )
        told.append(f"{name} {manner}: {len({each['round'] for each in rounds})} rounds, {sums}, {times}")
    return "\n".join(told)
