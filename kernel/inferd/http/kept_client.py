"""A client whose tasks are kept: those of a batch go on over the end of the gateway and of the kernel."""

from __future__ import annotations

import asyncio
from contextlib import aclosing, suppress
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

from inferd.http.problems import Refusal
from inferd.http.tasks import GATHERED_S
from inferd_api.v1.task_pb2 import TaskState
from inferd_client.errors import TaskNotFoundError, from_status

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from inferd_api.v1.task_pb2 import Task, TaskEvent
    from inferd_client import AsyncClient

MARK: Final = "openai.batch"
"""The mark of a task that has the batch it is of."""
GOING: Final = (TaskState.TASK_STATE_QUEUED, TaskState.TASK_STATE_RUNNING, TaskState.TASK_STATE_SUSPENDED)
CREATED_S: Final = 10.0  # how long whoever is cancelled waits whether a task was made


class KeptClient:
    """Runs what a request of a batch asks for as kept tasks of class LOW; all else is as the client it stands for.

    The same request of the same batch is the same task, whoever asks for it again and when: its id follows from both.

    Args:
        client: The caller's.
        batch: What its tasks are marked with.
        request_id: Of the request of the batch.
    """

    def __init__(self, client: AsyncClient, batch: str, request_id: str) -> None:
        self._client = client
        self._batch = batch
        self._request_id = request_id

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    # what is remembered for it is that of the client, and forgotten with it
    def __eq__(self, other: object) -> bool:
        return self._client is (other._client if isinstance(other, KeptClient) else other)

    def __hash__(self) -> int:
        return hash(self._client)

    async def run(self, model: str, prompt: Any, **options: Any) -> AsyncGenerator[TaskEvent]:
        """As the client's `run`; leaving it early leaves the task alone."""
        for name in ("output_interval_s", "detach_on_disconnect", "request_id"):
            options.pop(name, None)
        said = sha256(repr((model, prompt, sorted(options.items(), key=lambda one: one[0]))).encode()).hexdigest()
        labels = {**(options.pop("labels", None) or {}), MARK: self._batch}
        options = {"priority": "low", **options, "labels": labels, "request_id": f"{self._request_id}-{said[:16]}"}
        try:
            task = await self._create(model, prompt, options)
        except (TypeError, ValueError) as error:
            raise Refusal(str(error)) from None
        async with aclosing(self._client.watch(task.task_id, output_interval_s=GATHERED_S)) as events:
            async for event in events:
                yield event
                if event.HasField("finished") and event.finished.HasField("error"):
                    raise from_status(event.finished.error)

    async def _create(self, model: str, prompt: Any, options: dict[str, Any]) -> Task:
        """A task; whoever is cancelled meanwhile leaves once the kernel has it, so that it can be found and ended."""
        creating = asyncio.ensure_future(self._client.create_task(model, prompt, **options))
        try:
            return await asyncio.shield(creating)
        except asyncio.CancelledError:
            await asyncio.wait({creating}, timeout=CREATED_S)
            creating.cancel()
            await asyncio.gather(creating, return_exceptions=True)
            raise


async def end_tasks(client: AsyncClient, batch: str) -> None:
    """Cancel what goes on of a batch in the kernel, whichever gateway asked for it.

    Raises:
        InferdError: The kernel does not answer.
    """
    async with aclosing(client.list_tasks(states=GOING)) as tasks:
        going = [task.task_id async for task in tasks if task.labels.get(MARK) == batch]
    for task_id in going:
        with suppress(TaskNotFoundError):
            await client.cancel_task(task_id)
