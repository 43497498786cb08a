"""`inferd.v1.TaskService`."""

from collections.abc import Collection
from contextlib import aclosing
from typing import Any

from inferd.core.ids import TaskId
from inferd.core.task import Task, TaskState
from inferd.errors import InvalidFieldError
from inferd.runtime.front import tasks as front
from inferd.runtime.front.blobs import Blobs
from inferd.runtime.front.uploads import Uploads
from inferd.services.calls import Call
from inferd.services.extents import Extents
from inferd.services.pages import number_of, size_of, token_of
from inferd.services.run_requests import read_create, read_run
from inferd.services.task_orders import TaskOrders
from inferd.services.task_values import ends_well, read_interval, request_bytes, write_responses, write_task
from inferd.services.uploads import find_named
from inferd_api.v1 import task_pb2 as pb
from inferd_api.v1 import task_service_pb2 as ts


class Tasks:
    """Translates; see the proto for what each call means. Streams write to their call: no generator between."""

    def __init__(
        self,
        tasks: front.Tasks,
        uploads: Uploads,
        blobs: Blobs,
        *,
        prompt_limit_bytes: int,
        message_limit_bytes: int,
        extents: Extents,
    ) -> None:
        self._tasks = tasks
        self._uploads = uploads
        self._blobs = blobs
        self._prompt_limit_bytes = prompt_limit_bytes
        self._message_limit_bytes = message_limit_bytes
        self._extents = extents

    async def RunTask(self, request: ts.RunTaskRequest, call: Call) -> ts.RunTaskResponse | None:  # noqa: N802 - the wire's name
        """Create a task and watch it; the message with its end is the answer, which goes with the status."""
        last: ts.RunTaskResponse | None = None
        interval_s, several = read_interval(request.output_interval), request.several_events
        named = await find_named(self._uploads, self._blobs, call.caller, request.spec)
        spec = read_run(
            request,
            call.caller,
            prompt_limit_bytes=self._prompt_limit_bytes,
            named=named,
            may_run=call.admission.may_run,
        )
        running = self._tasks.run(spec, size_bytes=request_bytes(request.spec, spec))
        del spec, named  # it stays with the core, for as long as that needs it
        async with running as stream:
            async for batch in stream.follow(0, interval_s, gathers=several):
                ends = ends_well(batch)
                for response in write_responses(
                    stream.task_id, batch, self._message_limit_bytes, ts.RunTaskResponse, several=several, ends=ends
                ):
                    if last is not None:
                        await call.write(last)
                    last = response
                if last is not None and not ends:
                    await call.write(last)
                    last = None
        return last

    async def CreateTask(self, request: ts.CreateTaskRequest, call: Call) -> ts.CreateTaskResponse:  # noqa: N802 - the wire's name
        """Create a task that outlives its client."""
        named = await find_named(self._uploads, self._blobs, call.caller, request.spec)
        spec = read_create(
            request,
            call.caller,
            self._tasks.clock,
            prompt_limit_bytes=self._prompt_limit_bytes,
            named=named,
            may_run=call.admission.may_run,
            repeated=self._tasks.knows(call.caller, request.request_id),
        )
        with self._tasks.holding(spec.tenant, request_bytes(request.spec, spec)):
            return ts.CreateTaskResponse(task=self._write(await self._tasks.create(spec)))

    async def WatchTask(self, request: ts.WatchTaskRequest, call: Call) -> None:  # noqa: N802 - the wire's name
        """Watch a task."""
        interval_s, several = read_interval(request.output_interval), request.several_events
        after = request.after_sequence
        async with self._tasks.watch(TaskId(request.task_id), call.caller, after=after) as stream:
            async for batch in stream.follow(after, interval_s, gathers=several):
                for response in write_responses(
                    request.task_id, batch, self._message_limit_bytes, ts.WatchTaskResponse, several=several
                ):
                    await call.write(response)

    async def RunTasks(self, _: Any, call: Call) -> None:  # noqa: N802 - the wire's name
        """Run and watch many tasks."""
        orders = TaskOrders(
            self._tasks,
            self._uploads,
            self._blobs,
            call,
            extents=self._extents,
            prompt_limit_bytes=self._prompt_limit_bytes,
            message_limit_bytes=self._message_limit_bytes,
        )
        await orders.serve()

    async def GetTask(self, request: ts.GetTaskRequest, call: Call) -> ts.GetTaskResponse:  # noqa: N802 - the wire's name
        """Read a task."""
        return ts.GetTaskResponse(task=self._write(await self._tasks.get(TaskId(request.task_id), call.caller)))

    async def ListTasks(self, request: ts.ListTasksRequest, call: Call) -> ts.ListTasksResponse:  # noqa: N802 - the wire's name
        """List the tenant's tasks, newest first."""
        states = _read_states(request.states)
        after, size = number_of(request.page_token), size_of(request.page_size)
        page = await self._tasks.list(call.caller, states, after=after, size=size, trials=request.trials)
        return ts.ListTasksResponse(
            tasks=[self._write(task) for task in page.records], next_page_token=token_of(page, lambda task: task.number)
        )

    async def WatchTasks(self, request: ts.WatchTasksRequest, call: Call) -> None:  # noqa: N802 - the wire's name
        """Watch the tenant's tasks."""
        watched = self._tasks.watch_list(call.caller, _read_states(request.states), trials=request.trials)
        async with aclosing(watched) as parts:
            async for part in parts:
                tasks = [self._write(task) for task in part.tasks]
                await call.write(
                    ts.WatchTasksResponse(
                        anew=part.anew, tasks=tasks, forgotten_task_ids=part.forgotten, more=part.more
                    )
                )

    async def CancelTask(self, request: ts.CancelTaskRequest, call: Call) -> ts.CancelTaskResponse:  # noqa: N802 - the wire's name
        """End a task."""
        await self._tasks.cancel(TaskId(request.task_id), call.caller)
        task = await self._tasks.settled(TaskId(request.task_id), call.caller)
        return ts.CancelTaskResponse(task=self._write(task))

    async def SuspendTask(self, request: ts.SuspendTaskRequest, call: Call) -> ts.SuspendTaskResponse:  # noqa: N802 - the wire's name
        """Stop a task for a while."""
        await self._tasks.suspend(TaskId(request.task_id), call.caller)
        task = await self._tasks.settled(TaskId(request.task_id), call.caller)
        return ts.SuspendTaskResponse(task=self._write(task))

    async def ResumeTask(self, request: ts.ResumeTaskRequest, call: Call) -> ts.ResumeTaskResponse:  # noqa: N802 - the wire's name
        """Let a task go on."""
        await self._tasks.resume(TaskId(request.task_id), call.caller)
        task = await self._tasks.settled(TaskId(request.task_id), call.caller)
        return ts.ResumeTaskResponse(task=self._write(task))

    def _write(self, task: Task) -> pb.Task:
        return write_task(task, self._tasks.stream(task), self._tasks.clock)


def _read_states(states: Collection[int]) -> set[TaskState]:
    try:
        return {TaskState(state) for state in states}
    except ValueError:
        raise InvalidFieldError(f"states {list(states)} has an unknown one", field="states") from None
