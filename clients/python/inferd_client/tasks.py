"""Tasks: run, watch, read, list, suspend, resume and cancel. `Tasks` and `AsyncTasks` differ in `await` only."""

from __future__ import annotations

import warnings
from contextlib import aclosing
from functools import cached_property
from secrets import token_hex
from typing import TYPE_CHECKING, Any, Final

from inferd_api.v1.sampling_pb2 import SamplingParams
from inferd_api.v1.task_pb2 import (
    EmbeddingParams,
    FinishReason,
    Pooling,
    Task,
    TaskEvent,
    TaskSpec,
)
from inferd_api.v1.task_service_pb2 import (
    CancelTaskRequest,
    GetTaskRequest,
    ListTasksRequest,
    ResumeTaskRequest,
    RunOrder,
    RunTaskRequest,
    SuspendTaskRequest,
    WatchTaskRequest,
    WatchTasksRequest,
    WatchTasksResponse,
)
from inferd_api.v1.task_service_pb2_grpc import TaskServiceStub
from inferd_client.channel import AsyncConnection, Connection, bounded_s
from inferd_client.claims import class_number, span
from inferd_client.creating import create, create_async, create_request
from inferd_client.followers import AsyncFollower, Follower
from inferd_client.generations import Generation, collect
from inferd_client.holding import lease_id_of
from inferd_client.mailboxes import MESSAGE_BYTES
from inferd_client.options import (
    DEFAULT_MAX_TOKENS,
    DefaultLimitWarning,
    RunOptions,
    TaskOptions,
    bounded,
    check_names,
    strict,
)
from inferd_client.orders import LINGER
from inferd_client.prompts import Prompt, write_prompt
from inferd_client.rankings import Ranked
from inferd_client.singly import singly, singly_async
from inferd_client.values import States, check_values, with_texts

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator, Iterable, Sequence
    from typing import Unpack

    from inferd_api.v1.task_service_pb2_grpc import TaskServiceAsyncStub

_GATHERED_S: Final = 10.0  # how often a kernel sends what nobody looks at before all of it is there


@with_texts
def run_request(model: str, prompt: Prompt, options: RunOptions) -> RunTaskRequest:
    """The request that runs `prompt` on `model`.

    Raises:
        ValueError: The prompt is empty or mixes kinds, or a value is out of range.
        TypeError: There is no such option, or its value is of another kind.
    """
    check_names(options, RunOptions.__annotations__, "a task")
    check_values(options)
    sampling: dict[str, Any] = {name: options.get(name) for name in SamplingParams.DESCRIPTOR.fields_by_name}
    sampling["max_tokens"] = None if sampling["max_tokens"] == "all" else sampling["max_tokens"]
    sampling["fit_max_tokens"] = sampling["fit_max_tokens"] or False
    spec = TaskSpec(
        model=model,
        labels=options.get("labels", {}),
        sampling=SamplingParams(**sampling),
        prefix_cache=options.get("prefix_cache"),
        adapter=options.get("adapter", ""),
        embedding=options.get("embedding"),
        priority=class_number(options.get("priority")),
    )
    write_prompt(spec, prompt, options)
    return RunTaskRequest(
        spec=spec,
        request_id=options.get("request_id", ""),
        detach_on_disconnect=options.get("detach_on_disconnect", False),
        output_interval=span(options.get("output_interval_s")),
    )


def run_order(model: str, prompt: Prompt, options: RunOptions) -> RunOrder:
    """The order that runs `prompt` on `model`; a second one like it would follow the same task. Raises as above."""
    request = run_request(model, prompt, options)
    request.request_id = request.request_id or token_hex(16)
    lease = options.get("lease")
    return RunOrder(
        request=request,
        timeout=span(bounded_s(options.get("timeout_s"))),
        lease_id="" if lease is None else lease_id_of(lease),
        linger=None if request.detach_on_disconnect else LINGER,
    )


def _is_large(order: RunOrder) -> bool:
    return order.ByteSize() > MESSAGE_BYTES


def _embedding_params(*, mean: bool | None, normalize: bool) -> EmbeddingParams:
    asked = {None: Pooling.POOLING_UNSPECIFIED, False: Pooling.POOLING_LAST, True: Pooling.POOLING_MEAN}
    return EmbeddingParams(pooling=asked[mean], normalize=normalize)


def _ranking(scores: Iterable[tuple[int, list[float]]]) -> list[Ranked]:
    return sorted((Ranked(index, values[0]) for index, values in scores), key=lambda each: -each.score)


def _embedding(events: Iterable[TaskEvent]) -> list[float]:
    return [value for event in events for value in event.output.embedding.values]


@strict
class Tasks(Connection):
    """The tasks of a synchronous client."""

    @cached_property
    def _tasks(self) -> TaskServiceStub:
        return TaskServiceStub(self._channel)

    @cached_property
    def _follower(self) -> Follower:
        return self._make_follower()

    def _make_follower(self) -> Follower:
        self._check_open()
        return Follower(
            lambda requests: self._tasks.RunTasks(requests, metadata=self._metadata),
            self.address,
            self._is_back,
            self._check_open,
            lambda run, watch: singly(self._stream, self._tasks, run, watch),
            failure=self._told,
        )

    def _follow(self, order: RunOrder) -> Generator[TaskEvent]:
        """The events of a new task, and the error that it ended with."""
        return self._alone(order) if _is_large(order) else self._follower.events(run=order)

    def _alone(self, order: RunOrder) -> Generator[TaskEvent]:
        """The events of a large task, on a call of its own: the kernel may refuse it for its size alone."""
        follower = self._make_follower()
        try:
            yield from follower.events(run=order)
        finally:
            follower.close()

    def close(self) -> None:
        """Close the connection; tasks that hang on it end."""
        if "_follower" in self.__dict__:
            self._follower.close()
        super().close()

    def run(self, model: str, prompt: Prompt, **options: Unpack[RunOptions]) -> Generator[TaskEvent]:
        """Run a task and give its events; `Finished` is the last one.

        The task starts with the first event asked for. Closing the generator before the last one cancels the task,
        unless `detach_on_disconnect`.

        Raises:
            InferdError: The task was refused, or did not succeed: then after its `Finished` event was given.
        """
        return self._follow(run_order(model, prompt, bounded(options)))

    def stream(self, model: str, prompt: Prompt, **options: Unpack[RunOptions]) -> Generator[str]:
        """Run a task and give its text as it comes. Raises as `run`.

        Warns with DefaultLimitWarning where the text ended at 512 tokens because `max_tokens` was not given.
        """
        cut = False
        for event in self.run(model, prompt, **options):
            cut = cut or _is_cut(event)
            if event.output.text:
                yield event.output.text
        _warn(options, cut=cut)

    def generate(self, model: str, prompt: Prompt, **options: Unpack[RunOptions]) -> Generation:
        """Run a task and wait for all that it gives. Raises as `run`, warns as `stream`."""
        generation = collect(self.run(model, prompt, **_gathered(options)))
        _warn(options, cut=generation.cut, level=4)
        return generation

    def embed(
        self,
        model: str,
        prompt: Prompt,
        *,
        mean: bool | None = None,
        normalize: bool = True,
        **options: Unpack[TaskOptions],
    ) -> list[float]:
        """The embedding of a prompt: the `mean` of all tokens or of the last, by default as the model's file says.

        Raises:
            InferdError: As `run`; UnsupportedInputError where the model's backend gives none.
        """
        params = _embedding_params(mean=mean, normalize=normalize)
        return _embedding(self.run(model, prompt, embedding=params, **options))

    def rerank(self, model: str, query: str, documents: Sequence[str], **options: Unpack[TaskOptions]) -> list[Ranked]:
        """The documents in the order of their scores for a query, best first; scores are as the model gives them.

        Raises:
            InferdError: As `run`; UnsupportedInputError where the model has no head that gives scores.
        """
        params = EmbeddingParams(pooling=Pooling.POOLING_RANK, query=query)
        scores = (_embedding(self.run(model, text, embedding=params, **options)) for text in documents)
        return _ranking(enumerate(scores))

    def watch(
        self, task_id: str, after_sequence: int = 0, *, output_interval_s: float | None = None
    ) -> Generator[TaskEvent]:
        """The events of a task behind `after_sequence`, up to `Finished`, over the end of kernels; it is left alone.

        Raises:
            InferdError: TaskNotFoundError, EventsDroppedError. That the task failed is told by `Finished` only.
        """
        interval = span(output_interval_s)
        request = WatchTaskRequest(task_id=task_id, after_sequence=after_sequence, output_interval=interval)
        yield from self._follower.events(watch=request)

    def create_task(self, model: str, prompt: Prompt, **options: Unpack[RunOptions]) -> Task:
        """Create a task that outlives this client and the kernel: it is kept when this returns; see `watch`.

        It expires after `timeout_s`. `detach_on_disconnect` and `output_interval_s` mean nothing. Raises as `run`, with
        the `request_id` in `metadata`. When the answer is lost with the kernel, the next one is asked for it.
        """
        request = create_request(run_request(model, prompt, bounded(options)), options)
        return create(lambda r: self._wait(self._tasks.CreateTask, r, self._timeout_s, options.get("lease")), request)

    def get_task(self, task_id: str) -> Task:
        """Read a task. Raises TaskNotFoundError."""
        return self._call(self._tasks.GetTask, GetTaskRequest(task_id=task_id)).task

    def list_tasks(self, *, states: States = (), trials_too: bool = False) -> Generator[Task]:
        """All tasks in one of `states` (default: any), newest first; those that measure trials by `trials_too`."""
        for page in self._pages(self._tasks.ListTasks, ListTasksRequest(states=states, trials=trials_too)):
            yield from page.tasks

    def watch_tasks(self, *, states: States = (), trials_too: bool = False) -> Generator[WatchTasksResponse]:
        """The tasks in one of `states` (default: any), then each change; `anew` where the kernel is started again."""
        yield from self._watched(self._tasks.WatchTasks, WatchTasksRequest(states=states, trials=trials_too))

    def cancel_task(self, task_id: str) -> Task:
        """End a task now; one that has ended is returned as it is. Raises TaskNotFoundError."""
        return self._call(self._tasks.CancelTask, CancelTaskRequest(task_id=task_id)).task

    def suspend_task(self, task_id: str) -> Task:
        """Stop a task and give its place and KV back; what it produced stays, and its deadline goes on.

        Raises:
            InferdError: TaskNotFoundError; TaskStateError when it has ended.
        """
        return self._call(self._tasks.SuspendTask, SuspendTaskRequest(task_id=task_id)).task

    def resume_task(self, task_id: str) -> Task:
        """Let a suspended task go on where it stopped; it waits for a place like others. Raises as `suspend_task`."""
        return self._call(self._tasks.ResumeTask, ResumeTaskRequest(task_id=task_id)).task


@strict
class AsyncTasks(AsyncConnection):
    """The tasks of an asynchronous client; each method is as its namesake in `Tasks`."""

    @cached_property
    def _tasks(self) -> TaskServiceAsyncStub:
        return TaskServiceStub(self._channel)

    @cached_property
    def _follower(self) -> AsyncFollower:
        return self._make_follower()

    def _make_follower(self) -> AsyncFollower:
        self._check_open()
        return AsyncFollower(
            lambda requests: self._tasks.RunTasks(requests, metadata=self._metadata),
            self.address,
            self._is_back,
            self._check_open,
            lambda run, watch: singly_async(self._stream, self._tasks, run, watch),
            failure=self._told,
        )

    def _follow(self, order: RunOrder) -> AsyncGenerator[TaskEvent]:
        return self._alone(order) if _is_large(order) else self._follower.events(run=order)

    async def _alone(self, order: RunOrder) -> AsyncGenerator[TaskEvent]:
        """The events of a large task, on a call of its own: the kernel may refuse it for its size alone."""
        follower = self._make_follower()
        try:
            async with aclosing(follower.events(run=order)) as events:
                async for event in events:
                    yield event
        finally:
            await follower.close()

    async def close(self) -> None:
        """Close the connection; tasks that hang on it end."""
        if "_follower" in self.__dict__:
            await self._follower.close()
        await super().close()

    def run(self, model: str, prompt: Prompt, **options: Unpack[RunOptions]) -> AsyncGenerator[TaskEvent]:
        """Run a task and give its events; `Finished` is the last one.

        The task starts with the first event asked for. Closing the generator before the last one, or cancelling the
        asyncio task that reads it, cancels the task, unless `detach_on_disconnect`. Wrap it in `contextlib.aclosing`
        where a loop over it may be left early.

        Raises:
            InferdError: The task was refused, or did not succeed: then after its `Finished` event was given.
        """
        return self._follow(run_order(model, prompt, bounded(options)))

    async def stream(self, model: str, prompt: Prompt, **options: Unpack[RunOptions]) -> AsyncGenerator[str]:
        """Run a task and give its text as it comes. Raises as `run`, warns as `stream` of `Tasks`."""
        events, cut = self.run(model, prompt, **options), False
        try:
            async for event in events:
                cut = cut or _is_cut(event)
                if event.output.text:
                    yield event.output.text
        finally:
            await events.aclose()
        _warn(options, cut=cut)

    async def generate(self, model: str, prompt: Prompt, **options: Unpack[RunOptions]) -> Generation:
        """Run a task and wait for all that it gives. Raises as `run`, warns as `stream`."""
        generation = collect([event async for event in self.run(model, prompt, **_gathered(options))])
        _warn(options, cut=generation.cut)
        return generation

    async def embed(
        self,
        model: str,
        prompt: Prompt,
        *,
        mean: bool | None = None,
        normalize: bool = True,
        **options: Unpack[TaskOptions],
    ) -> list[float]:
        """The embedding of a prompt: the `mean` of all tokens or of the last, by default as the model's file says.

        Raises:
            InferdError: As `run`; UnsupportedInputError where the model's backend gives none.
        """
        params = _embedding_params(mean=mean, normalize=normalize)
        return _embedding([event async for event in self.run(model, prompt, embedding=params, **options)])

    async def rerank(
        self, model: str, query: str, documents: Sequence[str], **options: Unpack[TaskOptions]
    ) -> list[Ranked]:
        """The documents in the order of their scores for a query, best first; scores are as the model gives them.

        Raises:
            InferdError: As `run`; UnsupportedInputError where the model has no head that gives scores.
        """
        params = EmbeddingParams(pooling=Pooling.POOLING_RANK, query=query)
        scores = [
            _embedding([event async for event in self.run(model, text, embedding=params, **options)])
            for text in documents
        ]
        return _ranking(enumerate(scores))

    async def watch(
        self, task_id: str, after_sequence: int = 0, *, output_interval_s: float | None = None
    ) -> AsyncGenerator[TaskEvent]:
        """The events of a task behind `after_sequence`, up to `Finished`; the task is left alone.

        Raises:
            InferdError: TaskNotFoundError, EventsDroppedError. That the task failed is told by `Finished` only.
        """
        interval = span(output_interval_s)
        request = WatchTaskRequest(task_id=task_id, after_sequence=after_sequence, output_interval=interval)
        events = self._follower.events(watch=request)
        try:
            async for event in events:
                yield event
        finally:
            await events.aclose()

    async def create_task(self, model: str, prompt: Prompt, **options: Unpack[RunOptions]) -> Task:
        """As `Tasks.create_task`."""
        request = create_request(run_request(model, prompt, bounded(options)), options)
        lease = options.get("lease")
        return await create_async(lambda r: self._wait(self._tasks.CreateTask, r, self._timeout_s, lease), request)

    async def get_task(self, task_id: str) -> Task:
        """Read a task. Raises TaskNotFoundError."""
        return (await self._call(self._tasks.GetTask, GetTaskRequest(task_id=task_id))).task

    async def list_tasks(self, *, states: States = (), trials_too: bool = False) -> AsyncGenerator[Task]:
        """All tasks in one of `states` (default: any), newest first; those that measure trials by `trials_too`."""
        async for page in self._pages(self._tasks.ListTasks, ListTasksRequest(states=states, trials=trials_too)):
            for task in page.tasks:
                yield task

    async def watch_tasks(self, *, states: States = (), trials_too: bool = False) -> AsyncGenerator[WatchTasksResponse]:
        """The tasks in one of `states` (default: any), then each change, until the generator is closed."""
        responses = self._watched(self._tasks.WatchTasks, WatchTasksRequest(states=states, trials=trials_too))
        try:
            async for response in responses:
                yield response
        finally:
            await responses.aclose()

    async def cancel_task(self, task_id: str) -> Task:
        """End a task now; one that has ended is returned as it is. Raises TaskNotFoundError."""
        return (await self._call(self._tasks.CancelTask, CancelTaskRequest(task_id=task_id))).task

    async def suspend_task(self, task_id: str) -> Task:
        """Stop a task and give its place and KV back; what it produced stays, and its deadline goes on.

        Raises:
            InferdError: TaskNotFoundError; TaskStateError when it has ended.
        """
        return (await self._call(self._tasks.SuspendTask, SuspendTaskRequest(task_id=task_id))).task

    async def resume_task(self, task_id: str) -> Task:
        """Let a suspended task go on where it stopped; it waits for a place like others. Raises as `suspend_task`."""
        return (await self._call(self._tasks.ResumeTask, ResumeTaskRequest(task_id=task_id))).task


def _gathered(options: RunOptions) -> RunOptions:
    interval_s = options.get("output_interval_s")
    return {**options, "output_interval_s": _GATHERED_S if interval_s is None else interval_s}


def _is_cut(event: TaskEvent) -> bool:
    return FinishReason.FINISH_REASON_MAX_TOKENS in (event.finished.reason, event.output.finish_reason)


def _warn(options: RunOptions, *, cut: bool, level: int = 3) -> None:
    """Tell where the client's own bound ended an output; `level` is where the caller is, see `warnings.warn`."""
    if cut and options.get("max_tokens") is None:
        message = f"the output ended at {DEFAULT_MAX_TOKENS} tokens, or where the context was full; set max_tokens"
        warnings.warn(message, DefaultLimitWarning, stacklevel=level)
