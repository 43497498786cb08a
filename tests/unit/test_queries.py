import asyncio
from typing import TYPE_CHECKING, Any, cast

import pytest

from inferd.core.ids import InstanceId, ModelName, Tenant
from inferd.errors import LimitExceededError, WorkerDiedError
from inferd.runtime.queries import Asker, Queries
from inferd_api.worker.v1 import task_pb2
from inferd_api.worker.v1 import worker_pb2 as wire

if TYPE_CHECKING:
    from inferd.runtime.worker import Worker


class DeafWorker:
    """Takes frames and says nothing."""

    def __init__(self, name: str) -> None:
        self.instance_id = InstanceId(name)
        self._frames: asyncio.Queue[wire.KernelFrame] = asyncio.Queue()

    def send(self, frame: wire.KernelFrame) -> None:
        self._frames.put_nowait(frame)

    async def asked(self) -> int:
        """The id of the next question."""
        return (await asyncio.wait_for(self._frames.get(), 60)).query.query_id


def ask(queries: Queries, worker: DeafWorker, tenant: str = "a", model: str = "m") -> "asyncio.Task[task_pb2.Answer]":
    coroutine: Any = queries.ask(
        cast("Worker", worker), task_pb2.Input(prompt="x"), Asker(Tenant(tenant), ModelName(model))
    )
    return asyncio.create_task(coroutine)


async def test_answers_find_their_questions() -> None:
    """Each answer goes to its own question, in any order; one that nobody waits for is dropped."""
    queries, worker = Queries(share=4.0, limit=2, timeout_s=60), DeafWorker("a")
    first, second = ask(queries, worker), ask(queries, worker)
    ids = [await worker.asked(), await worker.asked()]
    for query_id in (ids[1], ids[0], ids[0], 99):
        queries.answer(worker.instance_id, task_pb2.Answer(query_id=query_id, text=str(query_id)), None)
    assert [(await first).text, (await second).text] == [str(ids[0]), str(ids[1])]


async def test_too_many_questions() -> None:
    """Over the bound a question is refused with both numbers; a place is free with its answer, not with its asker."""
    queries, worker = Queries(share=4.0, limit=1, timeout_s=60), DeafWorker("a")
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


async def test_who_asks_much_leaves_room_for_others() -> None:
    """One tenant with one model leaves room for others at that model, and all at that model leave room for others."""
    queries, worker = Queries(share=4.0, limit=100, timeout_s=60), DeafWorker("w")
    waiting: list[asyncio.Task[task_pb2.Answer]] = []

    async def fill(tenant: str, model: str) -> tuple[int, str]:
        """How many questions are taken until one is refused, and who is told to have too many."""
        for number in range(200):
            asked = ask(queries, worker, tenant, model)
            await asyncio.sleep(0)  # until it has asked, or was refused
            if asked.done():
                error = asked.exception()
                assert isinstance(error, LimitExceededError)
                assert error.metadata["bound"] == "scheduler.tenant_share"
                return number, error.message
            waiting.append(asked)
        raise AssertionError("no bound")

    counts = [await fill(*each) for each in (("a", "m"), ("b", "m"), ("a", "n"), ("c", "n"))]
    taken = [number for number, _ in counts]
    assert sum(taken[:2]) == 80  # four fifths for the model
    assert taken[0] > 70
    assert all(taken[:2])
    assert taken[0] + taken[2] <= 80  # for the tenant, over all models
    assert taken[3] > 10
    assert "queries of tenant 'a' at model 'm'" in counts[0][1]
    queries.fail(worker.instance_id, WorkerDiedError("it died"))
    await asyncio.gather(*waiting, return_exceptions=True)
    waiting.clear()
    assert [await fill(*each) for each in (("a", "m"), ("b", "m"), ("a", "n"), ("c", "n"))] == counts
    queries.fail(worker.instance_id, WorkerDiedError("it died"))
    await asyncio.gather(*waiting, return_exceptions=True)


async def test_no_answer_in_time() -> None:
    """A worker that does not answer costs its caller the named time, no more."""
    with pytest.raises(LimitExceededError, match=r"workers\.query_timeout_s"):
        await ask(Queries(share=4.0, limit=1, timeout_s=0.01), DeafWorker("a"))


async def test_a_dead_worker_fails_its_own_questions() -> None:
    """The death of a worker ends the questions to it, and to no other."""
    queries, dead, alive = Queries(share=4.0, limit=9, timeout_s=60), DeafWorker("dead"), DeafWorker("alive")
    lost, kept = ask(queries, dead), ask(queries, alive)
    await dead.asked()
    queries.fail(dead.instance_id, WorkerDiedError("it died"))
    with pytest.raises(WorkerDiedError):
        await lost
    queries.answer(alive.instance_id, task_pb2.Answer(query_id=await alive.asked()), None)
    await kept
