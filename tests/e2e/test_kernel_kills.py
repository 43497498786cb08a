"""A kernel that is killed, and the one that is started after it with the same store."""

import random
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from stores import Stores

from inferd.testing.kernel import KernelProcess, kernel_process, write_fake_model
from inferd_api.v1.task_pb2 import TaskEvent, TaskState
from inferd_client import Client
from inferd_client.errors import InferdError

pytestmark = pytest.mark.e2e

TOKENS = 200
TASKS = 12


@contextmanager
def kernel(folder: Path, listen: str = "", *, url: str = "") -> Iterator[tuple[KernelProcess, Client]]:
    """A kernel with a store, by default in the folder, which is there for the next one."""
    environment = {"INFERD_STORE__URL": url or f"sqlite:{folder}/store", "INFERD_STORE__OUTPUT_INTERVAL_S": "0.01"}
    environment["INFERD_BACKENDS"] = "[]"
    environment["INFERD_DRAIN_S"] = "0"  # what runs is left to the next one, not ended before
    with kernel_process(folder, environment=environment, listen=listen) as process, Client(process.address) as client:
        yield process, client


def kill(process: KernelProcess) -> None:
    process.process.send_signal(signal.SIGKILL)
    process.process.wait(60)


def follow(client: Client, task_id: str, told: list[TaskEvent], least: int) -> None:
    """Read on behind what was told, until there are so many events more, or the kernel is gone."""
    if told and told[-1].HasField("finished"):
        return
    events = client.watch(task_id, told[-1].sequence if told else 0)
    try:
        for event in events:
            told.append(event)
            least -= 1
            if least <= 0:
                return
    except InferdError:
        return


def text_of(told: list[TaskEvent]) -> str:
    return "".join(event.output.text for event in told)


def test_nothing_that_was_acknowledged_is_lost_with_a_killed_kernel(tmp_path: Path, stores: Stores) -> None:
    """Over two kills at any moment each created task ends once, in its order, and its stream has no gap and no echo.

    Each time some tasks run, some wait and some have ended; a client reads on where it was, and asks for all anew.
    """
    rng, ids = random.Random(17), dict[str, str]()
    told: dict[str, list[TaskEvent]] = {}
    for life in range(2):  # each costs seconds
        with kernel(tmp_path, url=stores.settings["url"]) as (process, client):
            if life == 0:
                path = write_fake_model(tmp_path, max_sequences=2, step_s=0.001)
                client.create_model("fake", source=str(path))
            for number in range(TASKS if life else TASKS // 2):  # acknowledged before, or new
                request = f"request {number}"
                task = client.create_task("fake", "la", max_tokens=TOKENS, temperature=0, request_id=request)
                assert ids.setdefault(request, task.task_id) == task.task_id
                told.setdefault(task.task_id, [])
            running = next(iter(ids.values())) if life == 0 else list(ids.values())[rng.randrange(TASKS)]
            follow(client, running, told[running], rng.randrange(1, 40))
            kill(process)
    with kernel(tmp_path, url=stores.settings["url"]) as (_, client):
        for task_id in ids.values():
            follow(client, task_id, told[task_id], 1 << 30)
        tasks = [client.get_task(task_id) for task_id in ids.values()]
        assert {task.task_id for task in client.list_tasks()} == set(ids.values())
        replayed = {task_id: list(client.watch(task_id)) for task_id in ids.values()}
    for task_id, events in told.items():
        assert text_of(events) == text_of(replayed[task_id]) == "la" * (TOKENS // 2)
        for stream in (events, replayed[task_id]):
            numbers = [event.sequence for event in stream]
            assert numbers == sorted(set(numbers))
            assert [event.HasField("finished") for event in stream].count(True) == 1
    assert {task.state for task in tasks} == {TaskState.TASK_STATE_SUCCEEDED}
    started = [task.start_time.ToNanoseconds() for task in tasks]
    assert started == sorted(started)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_a_client_reads_on_by_itself_from_the_kernel_after_this_one(tmp_path: Path, signum: int) -> None:
    """One loop over a created task's events sees each once, though its kernel ends, or is killed, and another comes."""
    listen = f"unix:{tmp_path}/kernel.sock"
    with ExitStack() as kernels:
        process, client = kernels.enter_context(kernel(tmp_path, listen))
        path = write_fake_model(tmp_path, step_s=0.002)
        client.create_model("fake", source=str(path))
        task = client.create_task("fake", "la", max_tokens=TOKENS, temperature=0)
        told: list[TaskEvent] = []
        for event in client.watch(task.task_id):
            told.append(event)
            if len(told) == 10:
                process.process.send_signal(signum)
                process.process.wait(60)
                kernels.enter_context(kernel(tmp_path, listen))
        numbers = [event.sequence for event in told]
        assert numbers == sorted(set(numbers))
        assert text_of(told) == "la" * (TOKENS // 2)
        assert client.get_task(task.task_id).attempt == 2
