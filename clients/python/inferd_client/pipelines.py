"""Pipelines and runs of them. `Pipelines` and `AsyncPipelines` differ in `await` only."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from functools import cached_property
from os import PathLike, fspath
from secrets import token_hex
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from inferd_api.v1.pipeline_pb2 import Pipeline, PipelineBlob, PipelineFormat, PipelineState
from inferd_api.v1.pipeline_service_pb2 import (
    CancelPipelineRunRequest,
    CreatePipelineRunRequest,
    DeletePipelineRunRequest,
    GetPipelineRunRequest,
    ListPipelineRunsRequest,
    ReadPipelineOutputRequest,
    WatchPipelineRunRequest,
)
from inferd_api.v1.pipeline_service_pb2_grpc import PipelineServiceStub
from inferd_client.channel import AsyncConnection, Connection
from inferd_client.claims import class_number, span
from inferd_client.datasets import dataset_version
from inferd_client.errors import InferdError, TaskCancelledError, TaskExpiredError, from_status
from inferd_client.options import strict
from inferd_client.patience import PAUSE_S, Patience
from inferd_client.pipeline_declarations import declare, read_declaration
from inferd_client.values import with_texts

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator

    from inferd_api.v1.pipeline_pb2 import PipelineEvent, PipelineRun
    from inferd_api.v1.pipeline_service_pb2_grpc import PipelineServiceAsyncStub
    from inferd_client.claims import Class
    from inferd_client.holding import LeaseRef

Declared: TypeAlias = "Pipeline | Mapping[str, Any] | str | PathLike[str]"
"""A pipeline: as it was declared, the path of a file that declares it, or what the wire has."""
FORMATS: Final = ("text", "json", "lines", "json_lines")


@with_texts
def create_run_request(  # noqa: PLR0917 - as the methods, of each its keyword
    pipeline: Declared,
    value: Any,
    blob: str,
    form: str,
    dataset: str,
    labels: Mapping[str, str] | None,
    priority: Class | None,
    request_id: str,
    ttl_s: float | None,
    seed: int | None,
) -> CreatePipelineRunRequest:
    """The request for a run.

    Raises:
        TypeError, ValueError: What was declared is no pipeline, or the input no JSON.
        OSError: The file cannot be read.
    """
    if isinstance(pipeline, str | PathLike):
        pipeline = read_declaration(fspath(pipeline))
    elif isinstance(pipeline, Mapping):
        pipeline = declare(pipeline)
    if blob and form not in FORMATS:
        raise ValueError(f"form is {form!r}; it must be one of {', '.join(FORMATS)}")
    request = CreatePipelineRunRequest(
        pipeline=pipeline,
        request_id=request_id or token_hex(16),
        ttl=span(ttl_s),
        priority=class_number(priority),
        labels=labels or {},
        seed=seed,
    )
    if blob and dataset:
        raise ValueError("give one of blob and dataset")
    if dataset:
        request.dataset.CopyFrom(dataset_version(dataset))
    elif blob:
        request.blob.CopyFrom(PipelineBlob(digest=blob, format=PipelineFormat.Value(f"PIPELINE_FORMAT_{form.upper()}")))
    else:
        request.json = json.dumps(value, ensure_ascii=False, allow_nan=False)
    return request


def check_run(run: PipelineRun) -> None:
    """Raise what a run ended with, unless it succeeded or goes on.

    Raises:
        InferdError: The error of the task that failed, TaskExpiredError or TaskCancelledError.
    """
    if run.state == PipelineState.PIPELINE_STATE_FAILED:
        raise from_status(run.error)
    if run.state == PipelineState.PIPELINE_STATE_EXPIRED:
        raise TaskExpiredError(f"pipeline run {run.run_id} has expired", metadata={"run_id": run.run_id})
    if run.state == PipelineState.PIPELINE_STATE_CANCELLED:
        raise TaskCancelledError(f"pipeline run {run.run_id} was cancelled", metadata={"run_id": run.run_id})


@strict
class Pipelines(Connection):
    """The pipelines of a synchronous client."""

    @cached_property
    def _pipelines(self) -> PipelineServiceStub:
        return PipelineServiceStub(self._channel)

    def run_pipeline(
        self,
        pipeline: Declared,
        value: Any = None,
        *,
        blob: str = "",
        form: str = "json_lines",
        dataset: str = "",
        labels: Mapping[str, str] | None = None,
        priority: Class | None = None,
        lease: LeaseRef | None = None,
        request_id: str = "",
        ttl_s: float | None = None,
        seed: int | None = None,
    ) -> Any:
        """Run a pipeline and wait for what it gives, over the end of its kernel; arguments as of `create_pipeline_run`.

        Raises:
            InferdError: It is refused, or a task of it failed.
        """
        run = self.create_pipeline_run(
            pipeline,
            value,
            blob=blob,
            form=form,
            dataset=dataset,
            labels=labels,
            priority=priority,
            lease=lease,
            request_id=request_id,
            ttl_s=ttl_s,
            seed=seed,
        )
        for _ in self.watch_pipeline_run(run.run_id):
            pass
        run = self.get_pipeline_run(run.run_id)
        check_run(run)
        items = list(self.read_pipeline_output(run.run_id))
        return items if run.output.list else items[0]

    def create_pipeline_run(
        self,
        pipeline: Declared,
        value: Any = None,
        *,
        blob: str = "",
        form: str = "json_lines",
        dataset: str = "",
        labels: Mapping[str, str] | None = None,
        priority: Class | None = None,
        lease: LeaseRef | None = None,
        request_id: str = "",
        ttl_s: float | None = None,
        seed: int | None = None,
    ) -> PipelineRun:
        """Have a pipeline checked whole and a run of it begun, which outlives this client and the kernel.

        Args:
            pipeline: As it was declared, or the path of a file that declares it.
            value: The input, as JSON can have it.
            blob: The digest of a blob that is the input instead.
            form: What that is: "text", "json", "lines" or "json_lines".
            dataset: The dataset whose rows are the input instead, as "reviews" or "reviews@3"; it stays as long.
            labels: The client's own marks; its tasks have them, too.
            priority: Its class: "low", "normal" or "high".
            lease: Under which its tasks run.
            request_id: The same again is the same run.
            ttl_s: When it expires unless it has ended; default: `pipelines.expire_s` of the kernel.
            seed: From which those of its tasks are made.

        Raises:
            InferdError: It is refused: InvalidFieldError with the path, FunctionNotFoundError and others.
            TypeError, ValueError: What was declared is no pipeline, or the input no JSON.
            OSError: The file cannot be read.
        """
        request = create_run_request(pipeline, value, blob, form, dataset, labels, priority, request_id, ttl_s, seed)
        return self._wait(self._pipelines.CreatePipelineRun, request, self._timeout_s, lease).run

    def check_pipeline(
        self, pipeline: Declared, value: Any = None, *, blob: str = "", form: str = "json_lines", dataset: str = ""
    ) -> PipelineRun:
        """Have a pipeline checked whole, and nothing made. Raises as `create_pipeline_run`."""
        request = create_run_request(pipeline, value, blob, form, dataset, None, None, "", None, None)
        request.check_only = True
        return self._call(self._pipelines.CreatePipelineRun, request).run

    def get_pipeline_run(self, run_id: str) -> PipelineRun:
        """A run as it stands. Raises PipelineRunNotFoundError, as those that follow."""
        return self._call(self._pipelines.GetPipelineRun, GetPipelineRunRequest(run_id=run_id)).run

    def list_pipeline_runs(self) -> Generator[PipelineRun]:
        """The tenant's runs, newest first."""
        for page in self._pages(self._pipelines.ListPipelineRuns, ListPipelineRunsRequest()):
            yield from page.runs

    def watch_pipeline_run(self, run_id: str, *, after_sequence: int = 0) -> Generator[PipelineEvent]:
        """Its events behind a number, to its end; a kernel that starts again goes on with it, and so does this."""
        patience = Patience()
        while True:
            request = WatchPipelineRunRequest(run_id=run_id, after_sequence=after_sequence)
            try:
                for response in self._stream(self._pipelines.WatchPipelineRun, request):
                    patience.heard()
                    for event in response.events:
                        after_sequence = event.sequence
                        yield event
            except InferdError as error:
                patience.check(error)
                time.sleep(PAUSE_S)
            else:
                return

    def read_pipeline_output(self, run_id: str, *, step: str = "", from_index: int = 0) -> Generator[Any]:
        """The items of what it, or a step of it, has given; of what is no list the one value."""
        request = ReadPipelineOutputRequest(run_id=run_id, step=step, from_index=from_index)
        for response in self._stream(self._pipelines.ReadPipelineOutput, request):
            yield from map(json.loads, response.items)

    def cancel_pipeline_run(self, run_id: str) -> PipelineRun:
        """End a run with its tasks; one that has ended stays as it is."""
        return self._call(self._pipelines.CancelPipelineRun, CancelPipelineRunRequest(run_id=run_id)).run

    def delete_pipeline_run(self, run_id: str) -> None:
        """Forget a run that has ended, and what it gave. Raises InvalidFieldError while it goes on."""
        self._call(self._pipelines.DeletePipelineRun, DeletePipelineRunRequest(run_id=run_id))


@strict
class AsyncPipelines(AsyncConnection):
    """The pipelines of an asynchronous client; each method is as its namesake in `Pipelines`."""

    @cached_property
    def _pipelines(self) -> PipelineServiceAsyncStub:
        return PipelineServiceStub(self._channel)

    async def run_pipeline(
        self,
        pipeline: Declared,
        value: Any = None,
        *,
        blob: str = "",
        form: str = "json_lines",
        dataset: str = "",
        labels: Mapping[str, str] | None = None,
        priority: Class | None = None,
        lease: LeaseRef | None = None,
        request_id: str = "",
        ttl_s: float | None = None,
        seed: int | None = None,
    ) -> Any:
        """As `Pipelines.run_pipeline`."""
        run = await self.create_pipeline_run(
            pipeline,
            value,
            blob=blob,
            form=form,
            dataset=dataset,
            labels=labels,
            priority=priority,
            lease=lease,
            request_id=request_id,
            ttl_s=ttl_s,
            seed=seed,
        )
        async for _ in self.watch_pipeline_run(run.run_id):
            pass
        run = await self.get_pipeline_run(run.run_id)
        check_run(run)
        items = [item async for item in self.read_pipeline_output(run.run_id)]
        return items if run.output.list else items[0]

    async def create_pipeline_run(
        self,
        pipeline: Declared,
        value: Any = None,
        *,
        blob: str = "",
        form: str = "json_lines",
        dataset: str = "",
        labels: Mapping[str, str] | None = None,
        priority: Class | None = None,
        lease: LeaseRef | None = None,
        request_id: str = "",
        ttl_s: float | None = None,
        seed: int | None = None,
    ) -> PipelineRun:
        """As `Pipelines.create_pipeline_run`."""
        request = create_run_request(pipeline, value, blob, form, dataset, labels, priority, request_id, ttl_s, seed)
        return (await self._wait(self._pipelines.CreatePipelineRun, request, self._timeout_s, lease)).run

    async def check_pipeline(
        self, pipeline: Declared, value: Any = None, *, blob: str = "", form: str = "json_lines", dataset: str = ""
    ) -> PipelineRun:
        """As `Pipelines.check_pipeline`."""
        request = create_run_request(pipeline, value, blob, form, dataset, None, None, "", None, None)
        request.check_only = True
        return (await self._call(self._pipelines.CreatePipelineRun, request)).run

    async def get_pipeline_run(self, run_id: str) -> PipelineRun:
        """As `Pipelines.get_pipeline_run`."""
        return (await self._call(self._pipelines.GetPipelineRun, GetPipelineRunRequest(run_id=run_id))).run

    async def list_pipeline_runs(self) -> AsyncGenerator[PipelineRun]:
        """As `Pipelines.list_pipeline_runs`."""
        async for page in self._pages(self._pipelines.ListPipelineRuns, ListPipelineRunsRequest()):
            for run in page.runs:
                yield run

    async def watch_pipeline_run(self, run_id: str, *, after_sequence: int = 0) -> AsyncGenerator[PipelineEvent]:
        """As `Pipelines.watch_pipeline_run`."""
        patience = Patience()
        while True:
            request = WatchPipelineRunRequest(run_id=run_id, after_sequence=after_sequence)
            responses = self._stream(self._pipelines.WatchPipelineRun, request)
            try:
                async for response in responses:
                    patience.heard()
                    for event in response.events:
                        after_sequence = event.sequence
                        yield event
            except InferdError as error:
                patience.check(error)
                await asyncio.sleep(PAUSE_S)
            else:
                return
            finally:
                await responses.aclose()

    async def read_pipeline_output(self, run_id: str, *, step: str = "", from_index: int = 0) -> AsyncGenerator[Any]:
        """As `Pipelines.read_pipeline_output`."""
        request = ReadPipelineOutputRequest(run_id=run_id, step=step, from_index=from_index)
        responses = self._stream(self._pipelines.ReadPipelineOutput, request)
        try:
            async for response in responses:
                for item in response.items:
                    yield json.loads(item)
        finally:
            await responses.aclose()

    async def cancel_pipeline_run(self, run_id: str) -> PipelineRun:
        """As `Pipelines.cancel_pipeline_run`."""
        return (await self._call(self._pipelines.CancelPipelineRun, CancelPipelineRunRequest(run_id=run_id))).run

    async def delete_pipeline_run(self, run_id: str) -> None:
        """As `Pipelines.delete_pipeline_run`."""
        await self._call(self._pipelines.DeletePipelineRun, DeletePipelineRunRequest(run_id=run_id))
