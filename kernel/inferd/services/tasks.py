"""`inferd.v1.TaskService`."""

import uuid
from typing import Any

import grpc
from google.protobuf.duration_pb2 import Duration

from inferd.core.ids import TaskId, Tenant
from inferd.core.task import Task, TaskState
from inferd.errors import InvalidFieldError
from inferd.runtime.driver import Driver
from inferd.runtime.shelf import Shelf
from inferd.runtime.streams import TaskStream
from inferd.services.bounds import Bound, ByteBound
from inferd.services.calls import check_request_id, deadline_of, lease_of, page_of, tenant_of
from inferd.services.status import abort
from inferd.services.task_values import read_spec, request_bytes, write_event, write_task
from inferd.services.times import read_seconds
from inferd_api.v1 import task_pb2 as pb
from inferd_api.v1 import task_service_pb2 as ts
from inferd_api.v1 import task_service_pb2_grpc

NEWEST_FIRST = 10**18  # keys of pages ascend; the number of a task is taken from this

MOST_INTERVAL_S = 10.0  # between events with output

Context = grpc.aio.ServicerContext[Any, Any]


class Tasks(task_service_pb2_grpc.TaskServiceServicer):
    """Translates; see the proto for what each call means. Streams write to their context: no generator between."""

    def __init__(
        self, driver: Driver, shelf: Shelf, *, prompt_limit_bytes: int, tenant_streams: int, requests: ByteBound
    ) -> None:
        self._driver = driver
        self._shelf = shelf
        self._prompt_limit_bytes = prompt_limit_bytes
        self._streams = Bound("scheduler.tenant_streams", tenant_streams, "streams of tasks")
        self._requests = requests

    async def RunTask(self, request: ts.RunTaskRequest, context: Context) -> None:  # type: ignore[override]  # noqa: N802 - the wire's name
        """Create a task and watch it."""
        check_request_id(request.request_id)
        tenant, interval_s = tenant_of(context), _read_interval(request.output_interval)
        with self._streams.place(tenant), self._requests.place(tenant, request_bytes(request.spec)):
            await self._shelf.look_for(request.spec.model)
            stream = self._submit(request, tenant, context)
            await self._run(stream, tenant, interval_s, context)
        finished = stream.finished
        if finished is not None and finished.outcome.error is not None:
            await abort(context, finished.outcome.error)

    def _submit(self, request: ts.RunTaskRequest, tenant: Tenant, context: Context) -> TaskStream:
        """The stream of a new task, or of the one that the same `request_id` made; its spec stays with the core."""
        spec = read_spec(
            request.spec,
            task_id=uuid.uuid4().hex,
            tenant=tenant,
            deadline=deadline_of(context, self._driver.clock.now()),
            request_id=request.request_id,
            lease_id=lease_of(context),
            prompt_limit_bytes=self._prompt_limit_bytes,
            detached=request.detach_on_disconnect,
        )
        stream = self._driver.submit(spec)
        if request.detach_on_disconnect and not stream.detached:
            self._driver.detach(stream.task_id, tenant)
            stream.detached = True
        return stream

    async def _run(self, stream: TaskStream, tenant: Tenant, interval_s: float, context: Context) -> None:
        stream.runners += 1
        try:
            async for batch in stream.follow(0, interval_s):
                for numbered in batch:
                    await context.write(ts.RunTaskResponse(event=write_event(stream.task_id, numbered)))
        finally:
            stream.runners -= 1
            # The client has gone, or was too slow. Another call with the same request_id may still be there.
            if stream.finished is None and not stream.runners and not stream.detached:
                self._driver.cancel(stream.task_id, tenant)

    async def WatchTask(self, request: ts.WatchTaskRequest, context: Context) -> None:  # type: ignore[override]  # noqa: N802 - the wire's name
        """Watch a task."""
        tenant = tenant_of(context)
        interval_s = _read_interval(request.output_interval)
        task = self._driver.machine.task(TaskId(request.task_id), tenant)
        stream = self._driver.streams.get(task.spec.task_id)
        if request.after_sequence > stream.last_sequence:
            message = f"after_sequence is {request.after_sequence}; the newest event is {stream.last_sequence}"
            raise InvalidFieldError(message, field="after_sequence")
        with self._streams.place(tenant):
            async for batch in stream.follow(request.after_sequence, interval_s):
                for numbered in batch:
                    await context.write(ts.WatchTaskResponse(event=write_event(request.task_id, numbered)))

    async def GetTask(self, request: ts.GetTaskRequest, context: Context) -> ts.GetTaskResponse:  # noqa: N802 - the wire's name
        """Read a task."""
        return ts.GetTaskResponse(task=self._read(request.task_id, context))

    async def ListTasks(self, request: ts.ListTasksRequest, context: Context) -> ts.ListTasksResponse:  # noqa: N802 - the wire's name
        """List the tenant's tasks, newest first."""
        tenant = tenant_of(context)
        states = _read_states(request)
        chosen = [
            (f"{NEWEST_FIRST - task.number:019d}", task)
            for task in reversed(self._driver.machine.tasks.known.values())
            if task.spec.tenant == tenant and (not states or task.state in states)
        ]
        page, token = page_of(chosen, request.page_size, request.page_token)
        return ts.ListTasksResponse(tasks=[self._write(task) for task in page], next_page_token=token)

    async def CancelTask(self, request: ts.CancelTaskRequest, context: Context) -> ts.CancelTaskResponse:  # noqa: N802 - the wire's name
        """End a task."""
        self._driver.cancel(TaskId(request.task_id), tenant_of(context))
        return ts.CancelTaskResponse(task=self._read(request.task_id, context))

    async def SuspendTask(self, request: ts.SuspendTaskRequest, context: Context) -> ts.SuspendTaskResponse:  # noqa: N802 - the wire's name
        """Stop a task for a while."""
        self._driver.suspend(TaskId(request.task_id), tenant_of(context))
        return ts.SuspendTaskResponse(task=self._read(request.task_id, context))

    async def ResumeTask(self, request: ts.ResumeTaskRequest, context: Context) -> ts.ResumeTaskResponse:  # noqa: N802 - the wire's name
        """Let a task go on."""
        self._driver.resume(TaskId(request.task_id), tenant_of(context))
        return ts.ResumeTaskResponse(task=self._read(request.task_id, context))

    def _read(self, task_id: str, context: Context) -> pb.Task:
        return self._write(self._driver.machine.task(TaskId(task_id), tenant_of(context)))

    def _write(self, task: Task) -> pb.Task:
        return write_task(task, self._driver.streams.get(task.spec.task_id), self._driver.clock)


def _read_interval(span: Duration) -> float:
    interval_s = read_seconds(span, "output_interval")
    if not 0 <= interval_s <= MOST_INTERVAL_S:
        message = f"output_interval is {interval_s} s; it must be from 0 to {MOST_INTERVAL_S:g} s"
        raise InvalidFieldError(message, field="output_interval")
    return interval_s


def _read_states(request: ts.ListTasksRequest) -> set[TaskState]:
    try:
        return {TaskState(state) for state in request.states}
    except ValueError:
        raise InvalidFieldError(f"states {list(request.states)} has an unknown one", field="states") from None
