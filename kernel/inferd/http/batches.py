"""`/v1/batches`: the requests of a file, made one by one as kept tasks of class LOW.

What a batch is, that it is to end, and how it has ended, are records. While it runs, one gateway goes through its
lines; where that ended before the batch, whoever asks for the batch has it gone on with: a line that was asked before
is the same task.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import structlog
from starlette.datastructures import Headers

from inferd.http.batch_run import Lines, Run, read_lines
from inferd.http.calls import answer
from inferd.http.fields import check_fields, check_option, need
from inferd.http.files import PREFIX as FILE_PREFIX
from inferd.http.files import Files, lacking, page
from inferd.http.problems import Refusal
from inferd.http.record_kinds import BATCH, CANCEL, END, KIND
from inferd.http.records import Record, Records, read_blob
from inferd.http.traces import note_trace
from inferd_client.errors import BlobNotFoundError, PermissionDeniedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.types import ASGIApp

    from inferd.http.calls import Call, Handler
    from inferd.http.clients import Clients
    from inferd.http_settings import Http
    from inferd_client import AsyncClient

PREFIX: Final = "batch_"
WINDOW: Final = "24h"
WINDOW_S: Final = 86_400
MOST_PAGE: Final = 100
USUAL_PAGE: Final = 20
TIMES: Final = (
    "in_progress_at", "expires_at", "finalizing_at", "completed_at", "failed_at", "expired_at", "cancelling_at",
    "cancelled_at",
)  # fmt: skip

log = structlog.get_logger()


class _Running(NamedTuple):
    run: Run
    task: asyncio.Task[None]
    tenant: str


class Batches:
    """Answers requests about batches. One writer: the gateway's loop.

    Args:
        records: What is kept of them.
        files: Where their lines come from and their answers go.
        handlers: What answers a line, by its URL.
        clients: Connections to the kernel.
        settings: Of the gateway.
    """

    def __init__(
        self, records: Records, files: Files, handlers: Mapping[str, Handler], clients: Clients, settings: Http
    ) -> None:
        self._records = records
        self._files = files
        self._handlers = handlers
        self._clients = clients
        self._settings = settings
        self._runs: dict[str, _Running] = {}

    async def create(self, call: Call) -> ASGIApp:
        """Begin one."""
        body = call.body
        check_fields(body, {"input_file_id", "endpoint", "completion_window", "metadata"}, {})
        endpoint = need(body, "endpoint", str, "the path of the requests")
        if endpoint not in self._handlers:
            raise Refusal(f"endpoint must be one of {', '.join(self._handlers)}", param="endpoint")
        if body.get("completion_window", WINDOW) != WINDOW:
            raise Refusal(f"completion_window must be {WINDOW!r}", param="completion_window")
        given = need(body, "input_file_id", str, "the id of a file")
        await self._files.find(call.client, given, "input_file_id")
        metadata = body.get("metadata") or {}
        check_option("labels", metadata, "metadata")
        tenant = await self._check_room(call.client)
        facts = {"endpoint": endpoint, "input_file_id": given, "metadata": metadata, "created_at": int(time.time())}
        record = await self._records.keep(call.client, BATCH, facts)
        self._begin(record, call.headers, tenant)
        return answer(self._described(record, None))

    async def list(self, call: Call) -> ASGIApp:
        """Those of the tenant."""
        marks = await self._marks(call.client)
        found = await self._records.all_of(call.client, BATCH)
        data = [self._described(record, marks.get(record.hex)) for record in found]
        return answer(page(data, call.query, most=MOST_PAGE, usual=USUAL_PAGE))

    async def get(self, call: Call) -> ASGIApp:
        """One of them; gone on with, where nobody does."""
        record, mark = await self._find(call.client, call.path["id"])
        if not _is_end(mark) and record.hex not in self._runs:
            with suppress(Refusal):  # later, when others have ended
                tenant = await self._check_room(call.client)
                self._begin(record, call.headers, tenant, cancelled=mark is not None)
        return answer(self._described(record, mark))

    async def cancel(self, call: Call) -> ASGIApp:
        """End one, and its tasks: lines that were answered stay."""
        record, mark = await self._find(call.client, call.path["id"])
        if not _is_end(mark):
            tenant = "" if record.hex in self._runs else await self._check_room(call.client)
            if mark is None:
                mark = (await self._records.keep(call.client, CANCEL, {"batch": record.hex})).facts
            if record.hex in self._runs:
                self._runs[record.hex].run.cancel()
            else:
                self._begin(record, call.headers, tenant, cancelled=True)
        return answer(self._described(record, mark))

    async def close(self) -> None:
        """Leave all; they go on where they are asked for again."""
        tasks = [each.task for each in self._runs.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _check_room(self, client: AsyncClient) -> str:
        """The caller's tenant, which has room for one more."""
        try:
            tenant = (await client.whoami()).tenant
        except PermissionDeniedError:  # those whose keys may not ask are one
            tenant = ""
        running = sum(each.tenant == tenant for each in self._runs.values())
        if running >= self._settings.batches:
            raise Refusal(
                f"{running} batches of this tenant run at once, as many as may (http.batches); try again later",
                status=429,
                code="LIMIT_EXCEEDED",
                retry_after_s=60,
            )
        return tenant

    def _begin(self, record: Record, headers: Mapping[str, str], tenant: str, *, cancelled: bool = False) -> None:
        if record.hex in self._runs:  # somebody else came first
            return

        async def is_to_end(client: AsyncClient) -> bool:
            return record.hex in await self._marks(client)

        run = Run(record.hex, self._handlers[record.facts["endpoint"]], self._settings, is_to_end)
        if cancelled:
            run.cancel()
        task = asyncio.create_task(self._run(record, run, dict(headers)), name=f"batch {record.hex[:8]}")
        self._runs[record.hex] = _Running(run, task, tenant)

    async def _run(self, record: Record, run: Run, headers: Mapping[str, str]) -> None:
        note_trace(Headers())  # whoever asks, and in which trace: the tasks are the same
        try:
            async with self._clients.of(headers) as client:
                facts = await self._ended(client, record, run)
                await self._records.keep(client, END, {"batch": record.hex, **facts})
        except Exception:
            log.exception("a batch of the gateway is left: whoever asks for it has it gone on with")
        finally:
            self._runs.pop(record.hex, None)

    async def _ended(self, client: AsyncClient, record: Record, run: Run) -> dict[str, Any]:
        """Go through the lines; how it has ended."""
        lines = await self._lines(client, record)
        if lines.errors:
            return {"status": "failed", "failed_at": int(time.time()), "errors": lines.errors}
        await run.go(client, lines, until=record.facts["created_at"] + WINDOW_S)
        return {**self._how(run, lines), **await self._written(client, record, run)}

    async def _lines(self, client: AsyncClient, record: Record) -> Lines:
        try:
            source = await self._files.find(client, record.facts["input_file_id"], "input_file_id")
            data = await read_blob(client, source.facts["content"])
        except (Refusal, BlobNotFoundError) as error:  # it was deleted
            told = {"code": "BLOB_NOT_FOUND", "message": str(error), "line": None, "param": "input_file_id"}
            return Lines([], [told])
        return await asyncio.to_thread(read_lines, data, record.facts["endpoint"], self._settings.batch_lines)

    def _how(self, run: Run, lines: Lines) -> dict[str, Any]:
        done = run.completed + run.failed == len(lines.lines)
        status = "completed" if done else "cancelled" if run.cancelled else "expired"
        counts = {"total": len(lines.lines), "completed": run.completed, "failed": run.failed}
        return {"status": status, f"{status}_at": int(time.time()), "request_counts": counts}

    async def _written(self, client: AsyncClient, record: Record, run: Run) -> dict[str, Any]:
        told = {}
        for name, data in (("output", run.output), ("error", run.errors)):
            if data:
                named = f"{PREFIX}{record.hex[:16]}_{name}.jsonl"
                kept = await self._files.keep(client, named, "batch_output", bytes(data))
                told[f"{name}_file_id"] = FILE_PREFIX + kept.hex
        return told

    async def _find(self, client: AsyncClient, batch_id: str) -> tuple[Record, dict[str, Any] | None]:
        hexes = batch_id.removeprefix(PREFIX)
        facts = await self._records.find(client, BATCH, hexes) if batch_id.startswith(PREFIX) else None
        if facts is None:
            raise lacking(BATCH, batch_id, "batch_id")
        return Record(hexes, facts), (await self._marks(client)).get(hexes)

    async def _marks(self, client: AsyncClient) -> dict[str, dict[str, Any]]:
        """How batches have ended, by the first end that was kept; else that they are to."""
        found = [each.facts for each in await self._records.all_of(client, CANCEL, END)]
        return {each["batch"]: each for kind in (CANCEL, END) for each in found if each[KIND] == kind}

    def _described(self, record: Record, mark: Mapping[str, Any] | None) -> dict[str, Any]:
        facts = record.facts
        run = self._runs[record.hex].run if record.hex in self._runs else None
        if mark is not None and _is_end(mark):
            told = dict(mark)
        elif run is not None:
            told = run.described
        else:
            told = {"status": "in_progress" if mark is None else "cancelling"}
        errors = told.get("errors")
        return {
            "id": PREFIX + record.hex,
            "object": BATCH,
            "endpoint": facts["endpoint"],
            "input_file_id": facts["input_file_id"],
            "completion_window": WINDOW,
            "created_at": facts["created_at"],
            "status": told["status"],
            "errors": {"object": "list", "data": errors} if errors else None,
            "output_file_id": told.get("output_file_id"),
            "error_file_id": told.get("error_file_id"),
            "request_counts": told.get("request_counts", {"total": 0, "completed": 0, "failed": 0}),
            "metadata": facts["metadata"],
            **{name: told.get(name) for name in TIMES},
            "expires_at": facts["created_at"] + WINDOW_S,
        }


def _is_end(mark: Mapping[str, Any] | None) -> bool:
    return mark is not None and mark[KIND] == END
