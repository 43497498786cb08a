"""Questions to workers that wait for their answers."""

import asyncio

from inferd.core.ids import InstanceId
from inferd.core.task import TaskInput
from inferd.errors import InferdError, LimitExceededError
from inferd.plugin.patience import patience
from inferd.runtime.frames import query_frame
from inferd.runtime.worker_process import WorkerProcess
from inferd_api.worker.v1 import task_pb2

Pending = asyncio.Future[task_pb2.Answer]


class Queries:
    """The open queries of all workers. One writer: the driver, on its event loop.

    Args:
        limit: Most that wait at once.
        timeout_s: Longest wait for one answer, in seconds.
    """

    def __init__(self, *, limit: int, timeout_s: float) -> None:
        self._limit = limit
        self._timeout_s = timeout_s
        self._pending: dict[tuple[InstanceId, int], Pending] = {}
        self._asked = 0

    async def ask(self, worker: WorkerProcess, task_input: TaskInput) -> task_pb2.Answer:
        """Ask a worker for the tokens of a text or a conversation, or for the text of tokens.

        Raises:
            LimitExceededError: Too many wait already, or the answer did not come in time.
            InferdError: What the worker answered, or how it died.
        """
        if len(self._pending) >= self._limit:
            raise _over("limits.queries", len(self._pending), self._limit, "queries wait for their answers")
        self._asked += 1
        key = worker.instance_id, self._asked
        future: Pending = asyncio.get_running_loop().create_future()
        self._pending[key] = future
        worker.send(query_frame(self._asked, task_input))
        try:
            async with patience(self._timeout_s):
                return await future
        except TimeoutError:
            limit_s = f"{self._timeout_s:g}"
            raise _over("workers.query_timeout_s", limit_s, limit_s, "seconds passed without an answer") from None

    def answer(self, instance_id: InstanceId, answer: task_pb2.Answer, error: InferdError | None) -> None:
        """A worker has answered. Only now its place is free: a question is computed whoever still waits for it."""
        future = self._pending.pop((instance_id, answer.query_id), None)
        if future is None or future.done():
            return
        if error is None:
            future.set_result(answer)
        else:
            future.set_exception(error)

    def fail(self, instance_id: InstanceId, error: InferdError) -> None:
        """A worker is gone: so are its answers."""
        for key in [key for key in self._pending if key[0] == instance_id]:
            future = self._pending.pop(key)
            if not future.done():
                future.set_exception(error)


def _over(bound: str, value: object, limit: object, words: str) -> LimitExceededError:
    return LimitExceededError(
        f"{value} {words} and {bound} is {limit}",
        metadata={"bound": bound, "value": str(value), "limit": str(limit)},
        retry_after_s=1.0,
    )
