"""`inferd.v1.TaskService`."""

import uuid
from typing import Any

import grpc

from inferd.core.ids import TaskId, Tenant
from inferd.core.task import Task, TaskState
from inferd.errors import InvalidFieldError
from inferd.runtime.driver import Driver
from inferd.runtime.shelf import Shelf
from inferd.runtime.streams import TaskStream
from inferd.services.bounds import Bound, ByteBound
from inferd.services.calls import check_request_id, deadline_of, lease_of, tenant_of
from inferd.services.extents import Extents
from inferd.services.pages import number_of, size_of, token_of
from inferd.services.status import abort
from inferd.services.task_orders import TaskOrders
from inferd.services.task_values import read_interval, read_spec, request_bytes, write_event, write_task
from inferd_api.v1 import task_pb2 as pb
from inferd_api.v1 import task_service_pb2 as ts
from inferd_api.v1 import task_service_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]


class Tasks(task_service_pb2_grpc.TaskServiceServicer):
    """Translates; see the proto for what each call means. Streams write to their context: no generator between."""

    def __init__(
        self,
        driver: Driver,
        shelf: Shelf,
        *,
        prompt_limit_bytes: int,
        tenant_streams: int,
        requests: ByteBound,
        extents: Extents,
    ) -> None:
        self._driver = driver
        self._shelf = shelf
        self._prompt_limit_bytes = prompt_limit_bytes
        self._streams = Bound("scheduler.tenant_streams", tenant_streams, "streams of tasks")
        self._requests = requests
        self._extents = extents

    async def RunTask(self, request: ts.RunTaskRequest, context: Context) -> None:  # type: ignore[override]  # noqa: N802 - the wire's name
        """Create a task and watch it."""
        check_request_id(request.request_id)
        tenant, interval_s = tenant_of(context), read_interval(request.output_interval)
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
        self._driver.attendance.attend(stream, tenant, detached=request.detach_on_disconnect)
        return stream

    async def _run(self, stream: TaskStream, tenant: Tenant, interval_s: float, context: Context) -> None:
        try:
            async for batch in stream.follow(0, interval_s):
                for numbered in batch:
                    await context.write(ts.RunTaskResponse(event=write_event(stream.task_id, numbered)))
        finally:
            self._driver.attendance.leave(stream, tenant)  # the client has gone, or was too slow

    async def WatchTask(self, request: ts.WatchTaskRequest, context: Context) -> None:  # type: ignore[override]  # noqa: N802 - the wire's name
        """Watch a task."""
        tenant = tenant_of(context)
        interval_s = read_interval(request.output_interval)
        stream = self._driver.watch(TaskId(request.task_id), tenant, after=request.after_sequence)
        with self._streams.place(tenant):
            async for batch in stream.follow(request.after_sequence, interval_s):
                for numbered in batch:
                    await context.write(ts.WatchTaskResponse(event=write_event(request.task_id, numbered)))

    async def RunTasks(self, _: Any, context: Context) -> None:  # type: ignore[override]  # noqa: N802 - the wire's name
        """Run and watch many tasks."""
        orders = TaskOrders(
            self._driver,
            self._shelf,
            tenant_of(context),
            extents=self._extents,
            places=self._streams,
            prompt_limit_bytes=self._prompt_limit_bytes,
        )
        await orders.serve(context)

    async def GetTask(self, request: ts.GetTaskRequest, context: Context) -> ts.GetTaskResponse:  # noqa: N802 - the wire's name
        """Read a task."""
        return ts.GetTaskResponse(task=self._read(request.task_id, context))

    async def ListTasks(self, request: ts.ListTasksRequest, context: Context) -> ts.ListTasksResponse:  # noqa: N802 - the wire's name
        """List the tenant's tasks, newest first."""
        tenant = tenant_of(context)
        states = _read_states(request)
        after, size = number_of(request.page_token), size_of(request.page_size)
        page = self._driver.views.tasks(tenant, states, after=after, size=size)
        return ts.ListTasksResponse(
            tasks=[self._write(task) for task in page.records], next_page_token=token_of(page, lambda task: task.number)
        )

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
        return self._write(self._driver.views.task(TaskId(task_id), tenant_of(context)))

    def _write(self, task: Task) -> pb.Task:
        return write_task(task, self._driver.streams.get(task.spec.task_id), self._driver.clock)


def _read_states(request: ts.ListTasksRequest) -> set[TaskState]:
    try:
        return {TaskState(state) for state in request.states}
    except ValueError:
        raise InvalidFieldError(f"states {list(request.states)} has an unknown one", field="states") from None
