"""Questions to workers that wait for their answers."""

import asyncio
from collections import Counter
from typing import NamedTuple

from inferd.core.ids import InstanceId, ModelName, Tenant
from inferd.errors import InferdError, LimitExceededError
from inferd.plugin.patience import patience
from inferd.runtime.frames import query_frame
from inferd.runtime.worker import Worker
from inferd_api.worker.v1 import task_pb2

Pending = asyncio.Future[task_pb2.Answer]


class Asker(NamedTuple):
    """Who asks, and which model."""

    tenant: Tenant
    model: ModelName


class Queries:
    """The open queries of all workers. One writer: the driver, on its event loop.

    Args:
        limit: Most that wait at once.
        share: A model may have so many times what is free, a tenant too, and of a model so many times what that may
            still get (`scheduler.tenant_share`): whoever asks next finds room.
        timeout_s: Longest wait for one answer, in seconds.
    """

    def __init__(self, *, limit: int, share: float, timeout_s: float) -> None:
        self._limit = limit
        self._share = share
        self._timeout_s = timeout_s
        self._pending: dict[tuple[InstanceId, int], tuple[Asker, Pending]] = {}
        self._open: Counter[Asker | str] = Counter()
        self._asked = 0

    async def ask(self, worker: Worker, given: object, asker: Asker) -> task_pb2.Answer:
        """Ask a worker for the tokens of a text or a conversation, or for the text of tokens.

        Raises:
            LimitExceededError: Too many wait already, at all or of that tenant or model, or the answer did not come in
                time.
            InferdError: What the worker answered, or how it died.
        """
        self._check(asker)
        self._asked += 1
        key = worker.instance_id, self._asked
        future: Pending = asyncio.get_running_loop().create_future()
        self._pending[key] = asker, future
        self._open.update(_counts(asker))
        worker.send(query_frame(self._asked, given))
        try:
            async with patience(self._timeout_s):
                return await future
        except TimeoutError:
            limit_s = f"{self._timeout_s:g}"
            raise _over("workers.query_timeout_s", limit_s, limit_s, "seconds passed without an answer") from None

    def answer(self, instance_id: InstanceId, answer: task_pb2.Answer, error: InferdError | None) -> None:
        """A worker has answered. Only now its place is free: a question is computed whoever still waits for it."""
        future = self._take((instance_id, answer.query_id))
        if future is None or future.done():
            return
        if error is None:
            future.set_result(answer)
        else:
            future.set_exception(error)

    def fail(self, instance_id: InstanceId, error: InferdError) -> None:
        """A worker is gone: so are its answers."""
        for key in [key for key in self._pending if key[0] == instance_id]:
            future = self._take(key)
            if future is not None and not future.done():
                future.set_exception(error)

    def _take(self, key: tuple[InstanceId, int]) -> Pending | None:
        asker, future = self._pending.pop(key, (None, None))
        if asker is not None:
            self._open.subtract(_counts(asker))
            for each in _counts(asker):
                if not self._open[each]:
                    del self._open[each]
        return future

    def _check(self, asker: Asker) -> None:
        total = len(self._pending)
        free = self._limit - total
        if free < 1:
            raise _over("limits.queries", total, self._limit, "queries wait for their answers")
        of_tenant, of_model = self._open[_tenant(asker)], self._open[_model(asker)]
        room = self._share * free - of_model  # what the model may still get
        for have, most, whose in (
            (of_model, self._share * free, f"model {asker.model!r}"),
            (of_tenant, self._share * free, f"tenant {asker.tenant!r}"),
            (self._open[asker], self._share * room, f"tenant {asker.tenant!r} at model {asker.model!r}"),
        ):
            if have + 1 > most:
                raise LimitExceededError(
                    f"{have} queries of {whose} wait for their answers, and {free} places of {self._limit} "
                    "(limits.queries) are free for all (scheduler.tenant_share); try again later",
                    metadata={"bound": "scheduler.tenant_share", "value": str(have), "free": str(free)},
                    retry_after_s=1.0,
                )


def _tenant(asker: Asker) -> str:
    return f"tenant {asker.tenant}"


def _model(asker: Asker) -> str:
    return f"model {asker.model}"


def _counts(asker: Asker) -> tuple[Asker | str, ...]:
    """What a question counts for."""
    return asker, _tenant(asker), _model(asker)


def _over(bound: str, value: object, limit: object, words: str) -> LimitExceededError:
    return LimitExceededError(
        f"{value} {words} and {bound} is {limit}",
        metadata={"bound": bound, "value": str(value), "limit": str(limit)},
        retry_after_s=1.0,
    )
