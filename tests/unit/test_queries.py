import asyncio
from typing import TYPE_CHECKING, Any, cast

import pytest

from inferd.core.ids import InstanceId
from inferd.core.task import TextInput
from inferd.errors import LimitExceededError, WorkerDiedError
from inferd.runtime.queries import Queries
from inferd_api.worker.v1 import task_pb2
from inferd_api.worker.v1 import worker_pb2 as wire

if TYPE_CHECKING:
    from inferd.runtime.worker_process import WorkerProcess


class DeafWorker:
    """Takes frames and says nothing."""

    def __init__(self, name: str) -> None:
        self.instance_id = InstanceId(name)
        self._frames: asyncio.Queue[wire.KernelFrame] = asyncio.Queue()

    def send(self, frame: wire.KernelFrame) -> None:
        self._frames.put_nowait(frame)

    async def asked(self) -> int:
        """The id of the next question."""
        return (await asyncio.wait_for(self._frames.get(), 10)).query.query_id


def ask(queries: Queries, worker: DeafWorker) -> "asyncio.Task[task_pb2.Answer]":
    coroutine: Any = queries.ask(cast("WorkerProcess", worker), TextInput("x"))
    return asyncio.create_task(coroutine)


async def test_answers_find_their_questions() -> None:
    """Each answer goes to its own question, in any order; one that nobody waits for is dropped."""
    queries, worker = Queries(limit=2, timeout_s=60), DeafWorker("a")
    first, second = ask(queries, worker), ask(queries, worker)
    ids = [await worker.asked(), await worker.asked()]
    for query_id in (ids[1], ids[0], ids[0], 99):
        queries.answer(worker.instance_id, task_pb2.Answer(query_id=query_id, text=str(query_id)), None)
    assert [(await first).text, (await second).text] == [str(ids[0]), str(ids[1])]


async def test_too_many_questions() -> None:
    """Over the bound a question is refused with both numbers; a place is free with its answer, not with its asker."""
    queries, worker = Queries(limit=1, timeout_s=60), DeafWorker("a")
    waiting = ask(queries, worker)
    await worker.asked()
    with pytest.raises(LimitExceededError) as caught:
        await ask(queries, worker)
    assert caught.value.metadata == {"bound": "limits.queries", "value": "1", "limit": "1"}
    waiting.cancel()
    await asyncio.wait([waiting])
    with pytest.raises(LimitExceededError):
        await ask(queries, worker)
    queries.answer(worker.instance_id, task_pb2.Answer(query_id=1, text="x"), None)
    again = ask(queries, worker)
    queries.answer(worker.instance_id, task_pb2.Answer(query_id=await worker.asked(), text="y"), None)
    assert (await again).text == "y"


async def test_no_answer_in_time() -> None:
    """A worker that does not answer costs its caller the named time, no more."""
    with pytest.raises(LimitExceededError, match=r"workers\.query_timeout_s"):
        await ask(Queries(limit=1, timeout_s=0.01), DeafWorker("a"))


async def test_a_dead_worker_fails_its_own_questions() -> None:
    """The death of a worker ends the questions to it, and to no other."""
    queries, dead, alive = Queries(limit=9, timeout_s=60), DeafWorker("dead"), DeafWorker("alive")
    lost, kept = ask(queries, dead), ask(queries, alive)
    await dead.asked()
    queries.fail(dead.instance_id, WorkerDiedError("it died"))
    with pytest.raises(WorkerDiedError):
        await lost
    queries.answer(alive.instance_id, task_pb2.Answer(query_id=await alive.asked()), None)
    await kept
