"""Tasks each on a call of its own, `RunTask` or `WatchTask`: for kernels that have no call for many tasks yet.

The events are the same; a task ends when its connection breaks, unless it is detached.
"""

from __future__ import annotations

from contextlib import aclosing, contextmanager
from typing import TYPE_CHECKING, Any

import grpc

from inferd_client.errors import StatusError, TaskExpiredError
from inferd_client.parts import Parts

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator, Iterator

    from inferd_api.v1.task_pb2 import TaskEvent
    from inferd_api.v1.task_service_pb2 import RunOrder, WatchTaskRequest
    from inferd_api.v1.task_service_pb2_grpc import TaskServiceAsyncStub, TaskServiceStub


def singly(
    stream: Callable[..., Generator[Any]],
    tasks: TaskServiceStub,
    run: RunOrder | None,
    watch: WatchTaskRequest | None,
) -> Generator[TaskEvent]:
    """The events of a task that is run or watched.

    Args:
        stream: Gives the responses of a call; a connection's.
        tasks: The service.
        run: The order to run it; or None.
        watch: The order to watch it, if it is not run.

    Raises:
        InferdError: As the call; TaskExpiredError where its deadline ended it.
    """
    with _expiring():
        responses = stream(tasks.WatchTask, watch) if run is None else stream(tasks.RunTask, *_of_its_own(run))
        parts = Parts()
        for response in responses:
            if (event := parts.take(response.event)) is not None:
                yield event


async def singly_async(
    stream: Callable[..., AsyncGenerator[Any]],
    tasks: TaskServiceAsyncStub,
    run: RunOrder | None,
    watch: WatchTaskRequest | None,
) -> AsyncGenerator[TaskEvent]:
    """As `singly`."""
    with _expiring():
        responses = stream(tasks.WatchTask, watch) if run is None else stream(tasks.RunTask, *_of_its_own(run))
        async with aclosing(responses):
            parts = Parts()
            async for response in responses:
                if (event := parts.take(response.event)) is not None:
                    yield event


def _of_its_own(run: RunOrder) -> tuple[Any, ...]:
    """What a call of its own is given of an order: the request, its deadline in seconds, its lease."""
    timeout_s = run.timeout.ToNanoseconds() / 1e9 if run.HasField("timeout") else None
    return run.request, timeout_s, run.lease_id or None


@contextmanager
def _expiring() -> Iterator[None]:
    """The deadline of the call is that of its task, and gRPC may end it before the kernel has said so."""
    try:
        yield
    except StatusError as error:
        if error.code != grpc.StatusCode.DEADLINE_EXCEEDED.name:
            raise
        raise TaskExpiredError("the task's deadline passed") from None
