"""A task that outlives its client is asked for, and again where the answer was lost: it may have been made."""

from __future__ import annotations

import asyncio
import time
from secrets import token_hex
from typing import TYPE_CHECKING

from inferd_api.v1.task_service_pb2 import CreateTaskRequest
from inferd_client.channel import bounded_s
from inferd_client.claims import span
from inferd_client.errors import InferdError, KernelUnreachableError
from inferd_client.patience import PAUSE_S, Patience

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from inferd_api.v1.task_pb2 import Task
    from inferd_api.v1.task_service_pb2 import CreateTaskResponse, RunTaskRequest
    from inferd_client.options import InferOptions, RunOptions


def create_request(run: RunTaskRequest, options: RunOptions | InferOptions) -> CreateTaskRequest:
    """The request that creates what another one would run; asked for again it is the same task.

    Raises:
        ValueError: `timeout_s` is out of range.
    """
    request_id = run.request_id or token_hex(16)
    return CreateTaskRequest(spec=run.spec, request_id=request_id, ttl=span(bounded_s(options.get("timeout_s"))))


class _Patience(Patience):
    """An answer that was lost is asked for again; one that no kernel can have given is not."""

    def __init__(self, request_id: str) -> None:
        super().__init__(heard=False)
        self._request_id = request_id

    def check(self, error: InferdError) -> None:
        """Give up with the id by which the task can be asked for."""
        if isinstance(error, KernelUnreachableError) and not error.unsent:
            self._waits = True
        try:
            super().check(error)
        except InferdError as given_up:
            given_up.metadata["request_id"] = self._request_id
            raise


def create(ask: Callable[[CreateTaskRequest], CreateTaskResponse], request: CreateTaskRequest) -> Task:
    """The task of a request. Where the kernel ends before it has answered, the next one is asked.

    Raises:
        InferdError: It is refused, or no kernel has come for long; its metadata has the `request_id`.
    """
    patience = _Patience(request.request_id)
    while True:
        try:
            return ask(request).task
        except InferdError as error:
            patience.check(error)
            time.sleep(PAUSE_S)


async def create_async(
    ask: Callable[[CreateTaskRequest], Awaitable[CreateTaskResponse]], request: CreateTaskRequest
) -> Task:
    """As `create`."""
    patience = _Patience(request.request_id)
    while True:
        try:
            return (await ask(request)).task
        except InferdError as error:
            patience.check(error)
            await asyncio.sleep(PAUSE_S)
