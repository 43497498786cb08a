"""`inferd.v1.PipelineService`."""

from __future__ import annotations

from contextlib import aclosing
from hashlib import sha256
from typing import TYPE_CHECKING

from inferd.core.pipeline import PipelineFormat
from inferd.errors import InvalidFieldError
from inferd.runtime.front.pipelines import WantedRun
from inferd.runtime.pipelines.journal import Happened
from inferd.services.calls import check_request_id
from inferd.services.dataset_values import READ_DATASET, read_version, write_source
from inferd.services.named import read_digest
from inferd.services.pages import number_of, size_of, token_of
from inferd.services.status import status_of
from inferd.services.task_values import check_task_labels, read_priority
from inferd.services.times import read_seconds, unix_time
from inferd_api.v1 import pipeline_pb2 as pp
from inferd_api.v1 import pipeline_service_pb2 as ps
from inferd_api.v1 import priority_pb2

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inferd.runtime.ask_grants import MayRun
    from inferd.runtime.front import pipelines as front
    from inferd.runtime.pipelines.book import Known
    from inferd.runtime.pipelines.journal import Entry, Journal, StepBook
    from inferd.services.calls import Call

MOST_TTL_S = 3_153_600_000  # a hundred years


class Pipelines:
    """Translates; see the proto for what each call means."""

    def __init__(self, pipelines: front.Pipelines) -> None:
        self._pipelines = pipelines

    async def CreatePipelineRun(  # noqa: N802 - the wire's name
        self, request: ps.CreatePipelineRunRequest, call: Call
    ) -> ps.CreatePipelineRunResponse:
        """Check a pipeline and begin a run of it."""
        if request.WhichOneof("input") == "dataset":
            call.admission.check(READ_DATASET)
        known = await self._pipelines.create(_read(request, call.admission.may_run), call.caller)
        return ps.CreatePipelineRunResponse(run=_write(known, known.journal))

    async def GetPipelineRun(self, request: ps.GetPipelineRunRequest, call: Call) -> ps.GetPipelineRunResponse:  # noqa: N802 - the wire's name
        """Read a run."""
        known = self._pipelines.get(request.run_id, call.caller)
        return ps.GetPipelineRunResponse(run=_write(known, await self._pipelines.journal(known)))

    async def ListPipelineRuns(self, request: ps.ListPipelineRunsRequest, call: Call) -> ps.ListPipelineRunsResponse:  # noqa: N802 - the wire's name
        """List runs, newest first."""
        page = self._pipelines.page(call.caller, before=number_of(request.page_token), size=size_of(request.page_size))
        return ps.ListPipelineRunsResponse(
            runs=[_write(known, known.journal, brief=True) for known in page.records],
            next_page_token=token_of(page, lambda known: known.order.number),
        )

    async def WatchPipelineRun(self, request: ps.WatchPipelineRunRequest, call: Call) -> None:  # noqa: N802 - the wire's name
        """Watch a run."""
        names = self._pipelines.get(request.run_id, call.caller).step_names
        watched = self._pipelines.watch(request.run_id, call.caller, after=request.after_sequence)
        async with aclosing(watched) as batches:
            async for batch in batches:
                await call.write(ps.WatchPipelineRunResponse(events=[_write_entry(each, names) for each in batch]))

    async def ReadPipelineOutput(self, request: ps.ReadPipelineOutputRequest, call: Call) -> None:  # noqa: N802 - the wire's name
        """Read what a run has given."""
        parts = self._pipelines.read(request.run_id, call.caller, step=request.step, begin=request.from_index)
        async with aclosing(parts):
            async for part in parts:
                await call.write(ps.ReadPipelineOutputResponse(items=part))

    async def CancelPipelineRun(self, request: ps.CancelPipelineRunRequest, call: Call) -> ps.CancelPipelineRunResponse:  # noqa: N802 - the wire's name
        """End a run."""
        known = await self._pipelines.cancel(request.run_id, call.caller)
        return ps.CancelPipelineRunResponse(run=_write(known, await self._pipelines.journal(known)))

    async def DeletePipelineRun(self, request: ps.DeletePipelineRunRequest, call: Call) -> ps.DeletePipelineRunResponse:  # noqa: N802 - the wire's name
        """Forget a run."""
        await self._pipelines.delete(request.run_id, call.caller)
        return ps.DeletePipelineRunResponse()


def _read(request: ps.CreatePipelineRunRequest, may_run: MayRun) -> WantedRun:
    check_request_id(request.request_id)
    check_task_labels(request.labels, "labels")
    ttl_s = read_seconds(request.ttl, "ttl") if request.HasField("ttl") else None
    if ttl_s is not None and not 0 < ttl_s <= MOST_TTL_S:
        raise InvalidFieldError(f"ttl is {ttl_s:g} s; it must be above 0 and at most {MOST_TTL_S} s", field="ttl")
    blob = request.WhichOneof("input") == "blob"
    if blob and request.blob.format not in pp.PipelineFormat.values():
        raise InvalidFieldError(
            f"blob.format is {request.blob.format}; it must be from 0 to {max(pp.PipelineFormat.values())}",
            field="blob.format",
        )
    return WantedRun(
        written=request.pipeline.SerializeToString(deterministic=True),
        json=request.json if request.WhichOneof("input") == "json" else None,
        blob=read_digest(request.blob.digest, "blob.digest") if blob else "",
        format=PipelineFormat(request.blob.format or PipelineFormat.TEXT.value),
        request_id=request.request_id,
        ttl_s=ttl_s,
        priority=read_priority(request.priority),
        labels=dict(request.labels),
        seed=request.seed if request.HasField("seed") else None,
        fingerprint=sha256(request.SerializeToString(deterministic=True)).hexdigest(),
        check_only=request.check_only,
        may_run=may_run,
        dataset=read_version(request.dataset) if request.WhichOneof("input") == "dataset" else None,
    )


def _write(known: Known, journal: Journal | None, *, brief: bool = False) -> pp.PipelineRun:
    """A run for the wire; of a `brief` one not what may be large."""
    order = known.order
    error, ended = order.why(), order.output
    used = order.usage if journal is None or order.over else journal.usage
    run = pp.PipelineRun(
        run_id=order.run_id,
        tenant=order.tenant,
        state=pp.PipelineState.ValueType(order.state.value),
        pipeline=None if brief else pp.Pipeline.FromString(order.written),
        last_sequence=0 if journal is None else journal.last,
        create_time=unix_time(order.created),
        expire_time=unix_time(order.expires),
        finish_time=None if order.ended is None else unix_time(order.ended),
        error=None if error is None else status_of(error),
        usage=pp.PipelineUsage(tasks=used[0], prompt_tokens=used[1], output_tokens=used[2]),
        labels=order.labels,
        priority=priority_pb2.Priority.ValueType(order.priority.value),
        lease_id=order.lease_id,
    )
    if brief:
        run.pipeline.name = known.name
    if journal is not None:
        run.steps.extend(_write_step(name, book) for name, book in zip(known.step_names, journal.steps, strict=True))
    if ended is not None:
        run.output.CopyFrom(
            pp.PipelineOutput(
                json="" if brief else ended.json,
                digest=f"sha256:{ended.digest}",
                size_bytes=ended.size_bytes,
                items=ended.items,
                list=ended.listed,
            )
        )
    if order.dataset is not None:
        run.dataset.CopyFrom(write_source(order.dataset))
    return run


def _write_step(name: str, book: StepBook) -> pp.StepProgress:
    state = pp.StepState.ValueType(book.state.value)
    return pp.StepProgress(name=name, state=state, items=book.items or 0, done_items=book.done)


def _write_entry(entry: Entry, names: Sequence[str]) -> pp.PipelineEvent:
    event, name = pp.PipelineEvent(sequence=entry.sequence), names[entry.step]
    match entry.kind:
        case Happened.BEGAN:
            event.started.step, event.started.items = name, entry.number
        case Happened.DONE | Happened.SKIPPED:
            event.item.step, event.item.index = name, entry.number
            event.item.skipped = entry.kind is Happened.SKIPPED
        case Happened.LEFT_OUT:
            event.item.step, event.item.skipped = name, True
        case Happened.RETRIED:
            event.retried.step, event.retried.index, event.retried.reason = name, entry.number, entry.reason
        case Happened.ENDED:
            event.finished.state = pp.PipelineState.ValueType(entry.number)
    return event
