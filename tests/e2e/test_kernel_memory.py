"""A kernel that is filled to its bounds: its process grows by no more than they say."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from inferd.testing.kernel import KernelProcess, kernel_process, write_fake_model
from inferd_client import AsyncClient, Client, claims
from inferd_client.errors import EventsDroppedError, LimitExceededError, PromptTooLongError, QueueFullError

pytestmark = pytest.mark.e2e

KIB, MIB = 1 << 10, 1 << 20
DEADLINE_S = 120.0
IDS = [128 + number % 100 for number in range(262_144)]  # 1 MiB
TEXT = "x" * (3 * MIB // 2)
PLACES = 64
LIMITS = {
    "tasks": 400,
    "queued_tasks": 250,
    "queued_high": 10,
    "suspended_tasks": 40,
    "retained_tasks": 100,
    "input_bytes": 16 * MIB,
    "request_bytes": 48 * MIB,
    "events_bytes": 512 * KIB,
    "retained_bytes": MIB,
    "prompt_bytes": 2 * MIB,
    "models": 40,
    "calls": 500,
}
LEASES = {"leases": 200, "retained": 50}
LABELS = {f"{number:02}" + "k" * 61: "v" * 256 for number in range(16)}

TASK_BYTES = 16 * KIB  # of a task or a lease, its labels, ids and indices
CALL_BYTES = 80 * KIB  # of gRPC, its metadata and the coroutine that answers
MODEL_BYTES = 16 * KIB  # without settings
SLACK = 1.5  # of an allocator that gives back whole arenas only
MOST_BYTES = SLACK * (
    TASK_BYTES * (LIMITS["tasks"] + LIMITS["retained_tasks"] + LEASES["leases"] + LEASES["retained"])
    + CALL_BYTES * LIMITS["calls"]
    + MODEL_BYTES * LIMITS["models"]
    + sum(LIMITS[name] for name in ("input_bytes", "request_bytes", "events_bytes", "retained_bytes"))
)


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[KernelProcess]:
    environment = {f"INFERD_LIMITS__{name.upper()}": str(value) for name, value in LIMITS.items()}
    environment |= {f"INFERD_LEASES__{name.upper()}": str(value) for name, value in LEASES.items()}
    environment |= {"INFERD_WORKERS__STEP_TOKENS": "65536", "INFERD_SCHEDULER__HEADROOM": "0"}
    environment["INFERD_BACKENDS"] = "[]"
    with kernel_process(tmp_path, environment=environment) as one:
        with Client(one.address) as client:
            model = write_fake_model(
                tmp_path,
                "m0",
                step_s=0.05,
                max_sequences=PLACES,
                max_step_tokens=65536,
                blocks=65536,
                context_tokens=16384,
            )
            client.create_model("m0", source=str(model))
            client.generate("m0", "hello", max_tokens=1)
        yield one


def resident_bytes(kernel: KernelProcess) -> int:
    return int(psutil.Process(kernel.pid).memory_info().rss)


def test_refused_tasks_leave_nothing_behind(kernel: KernelProcess) -> None:
    """Of 30 tasks that their model refused, with a MiB and more of ids or text each, less is left than half of it."""
    with Client(kernel.address) as client:

        def refuse(count: int) -> int:
            for number in range(count):
                with pytest.raises(PromptTooLongError):
                    client.generate("m0", IDS if number % 3 == 0 else TEXT)
            return resident_bytes(kernel)

        begun = refuse(9)  # buffers are there now
        assert refuse(30) - begun < 20 * MIB


def test_large_tensors_leave_nothing_behind(tmp_path: Path) -> None:
    """Requests and answers of 1 MiB leave a kernel within 16 MiB of where it was, what it retains of them included."""
    environment = {"INFERD_LIMITS__RETAINED_BYTES": str(4 * MIB)}
    with kernel_process(tmp_path, environment=environment) as kernel, Client(kernel.address) as client:
        client.create_model("t", source=str(write_fake_model(tmp_path, "t", tensor="identity")))

        def infer(count: int, width: int) -> int:
            for _ in range(count):
                client.infer("t", {"x": np.zeros((1, width), np.float32)})
            return int(psutil.Process(kernel.pid).memory_full_info().uss)

        begun = infer(1, 1)
        assert infer(40, MIB // 4) - begun < 16 * MIB


def fill(make: Callable[[int], Any], limit: int, bound: str) -> list[Any]:
    """Make things until one is refused by its bound: all of them."""
    made: list[Any] = []
    while len(made) <= limit:
        try:
            made.append(make(len(made)))
        except LimitExceededError as error:
            if error.metadata["bound"] != bound:
                raise
            return made
    raise AssertionError(f"{len(made)} are more than {limit}")


def fill_models_and_leases(client: Client, folder: Path) -> None:
    """As many models as may be and leases as a tenant may have, and as many ended leases as are retained."""
    source = str(write_fake_model(folder, "more"))
    assert len(fill(lambda n: client.create_model(f"m{n + 1}", source=source), LIMITS["models"], "limits.models")) > 30

    def make_lease(number: int) -> Any:
        return client.create_lease(claims.memory(1), ttl_s=600, labels=LABELS, request_id=f"{number}" + "r" * 100)

    held = fill(make_lease, LEASES["leases"], "scheduler.tenant_share")
    assert len(held) == LEASES["leases"] * 4 // 5  # four times what is free
    for lease in held[: LEASES["retained"] + 10]:
        client.release_lease(lease.lease_id)


class Crowd:
    """Clients of several tenants, each with many open calls."""

    def __init__(self, address: str, group: asyncio.TaskGroup) -> None:
        self.clients = [AsyncClient(address, tenant=f"t{number}") for number in range(4)]
        self.tasks: list[tuple[AsyncClient, str]] = []
        self.refused = Counter[str]()
        self._group = group
        self._asking: list[asyncio.Task[None]] = []

    async def ask(self, count: int, prompt: Any, *, until: str = "queued", **options: Any) -> None:
        """Open so many calls; return when each has been refused or got an event of a kind."""
        came = [asyncio.Event() for _ in range(count)]
        for event in came:
            number = len(self._asking)
            client = self.clients[number % len(self.clients)]
            given = {"request_id": f"{number}" + "q" * 90, **options}
            self._asking.append(self._group.create_task(self._run(client, prompt, event, until, given)))
        for event in came:
            await event.wait()

    async def close(self) -> None:
        """Close all calls: their tasks end."""
        for asking in self._asking:
            asking.cancel()
        await asyncio.wait(self._asking)
        for client in self.clients:
            await client.close()

    async def _run(self, client: AsyncClient, prompt: Any, came: asyncio.Event, until: str, options: Any) -> None:
        try:
            events = client.run("m0", prompt, max_tokens=8000, ignore_eos=True, labels=LABELS, **options)
            async for event in events:
                if event.WhichOneof("kind") == until and not came.is_set():
                    self.tasks.append((client, event.task_id))
                    came.set()
        except (QueueFullError, LimitExceededError) as error:
            self.refused[error.metadata["bound"]] += 1
        except EventsDroppedError:
            pass  # this one was slower than its task
        finally:
            came.set()


async def suspend(crowd: Crowd, tasks: list[tuple[AsyncClient, str]]) -> int:
    """Suspend tasks until no more may be; how many are."""
    for number, (client, task_id) in enumerate(tasks):
        try:
            await client.suspend_task(task_id)
        except LimitExceededError:
            return number
    raise AssertionError(f"{len(tasks)} are suspended; {crowd.refused}")


async def drops_events(client: AsyncClient, task_id: str) -> bool:
    """Whether the first event of a task is held no longer."""
    try:
        async for _ in client.watch(task_id):
            return False
    except EventsDroppedError:
        return True
    raise AssertionError("no event")


async def fill_tasks(kernel: KernelProcess) -> int:
    """As many tasks as may be, running, waiting and suspended, large and small, each with an open call.

    Afterwards they have ended. The answer is what the process took when it was full.
    """
    async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as group:
        crowd = Crowd(kernel.address, group)
        await crowd.ask(PLACES, IDS[:768], until="output", echo=True)
        running = list(crowd.tasks)
        while not any([await drops_events(*task) for task in running]):  # they go on writing
            pass
        await crowd.ask(80, "hello")
        assert await suspend(crowd, crowd.tasks[PLACES:]) > 20
        await crowd.ask(150, "hello")
        assert not crowd.refused
        small = len(crowd.tasks)
        for _ in range(20):  # few at once: messages under way have a bound of their own
            await crowd.ask(4, TEXT)
        assert 5 < len(crowd.tasks) - small < 16
        assert crowd.refused.keys() <= {"limits.input_bytes", "limits.request_bytes", "scheduler.tenant_share"}
        full = resident_bytes(kernel)
        await crowd.close()
    return full


def test_a_full_kernel_takes_no_more_than_its_bounds_say(kernel: KernelProcess, tmp_path: Path) -> None:
    """Models, leases, tasks, inputs, labels, ids, events and open calls, each as many as may be, take what they may.

    When all have ended, what the kernel retains of them takes no more.
    """
    begun = resident_bytes(kernel)
    with Client(kernel.address) as client:
        fill_models_and_leases(client, tmp_path)
    full = asyncio.run(fill_tasks(kernel)) - begun
    left = resident_bytes(kernel) - begun
    assert full < MOST_BYTES
    assert left < MOST_BYTES
