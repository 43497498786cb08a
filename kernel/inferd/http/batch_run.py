"""One batch as it runs: its lines, so many at once, and what became of each."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

import structlog
from starlette.datastructures import Headers, QueryParams

from inferd.http.bodies import parse
from inferd.http.calls import Call
from inferd.http.kept_client import KeptClient, end_tasks
from inferd.http.problems import INTERNAL, Refusal, problem_of
from inferd.http.streams import dumps

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.responses import Response

    from inferd.http.calls import Handler
    from inferd.http_settings import Http
    from inferd_client import AsyncClient

MOST_ERRORS: Final = 20  # told of a file
MOST_ID: Final = 512  # characters
MOST_DEPTH: Final = 64
TRY_AGAIN: Final = frozenset({429, 503})
FIRST_PAUSE_S, MOST_PAUSE_S = 0.5, 30.0

log = structlog.get_logger()


class Line(NamedTuple):
    """A request of a batch, as it was written: what is made of its body stays for as long as it is answered."""

    custom_id: str
    data: bytes


class Lines(NamedTuple):
    """The requests of a file, or what is wrong with it."""

    lines: list[Line]
    errors: list[dict[str, Any]]


def read_lines(data: bytes, endpoint: str, most: int) -> Lines:
    """The lines of a file of requests."""
    lines: list[Line] = []
    errors: list[dict[str, Any]] = []
    seen: set[str] = set()
    written = [(number, line) for number, line in enumerate(data.splitlines(), start=1) if line.strip()]
    if not 0 < len(written) <= most:
        why = f"the file has {len(written)} requests; it must have 1 to {most} (http.batch_lines)"
        return Lines([], [{"code": "LIMIT_EXCEEDED", "message": why, "line": None, "param": None}])
    for number, line in written:
        try:
            lines.append(_read(line, endpoint, seen))
        except Refusal as refusal:
            told = {"code": refusal.code, "message": refusal.message, "line": number, "param": refusal.param or None}
            errors.append(told)
            if len(errors) == MOST_ERRORS:
                break
    return Lines(lines, errors)


def _read(line: bytes, endpoint: str, seen: set[str]) -> Line:
    said = parse(line, MOST_DEPTH)
    custom_id, body = said.get("custom_id"), said.get("body")
    if not isinstance(custom_id, str) or custom_id in seen or len(custom_id) > MOST_ID:
        message = f"custom_id must be a text of at most {MOST_ID} characters that no line before has"
        raise Refusal(message, param="custom_id")
    seen.add(custom_id)
    if said.get("method", "POST") != "POST" or said.get("url") != endpoint:
        raise Refusal(f"method must be POST and url {endpoint}, that of the batch", param="url")
    if not isinstance(body, dict):
        raise Refusal("body must be an object", param="body")
    if body.get("stream") or body.get("background"):
        raise Refusal("a line of a batch is answered as a whole: leave stream and background out", param="body")
    return Line(custom_id, line)


class Run:
    """What became of the lines so far.

    Args:
        batch: The digits of the batch's id.
        handler: Answers a line.
        settings: Of the gateway.
        is_to_end: Whether some gateway was told to end it.

    Attributes:
        completed, failed: How many lines.
        output, errors: Lines of JSON about them.
        cancelled: Whether it is to end.
    """

    def __init__(
        self, batch: str, handler: Handler, settings: Http, is_to_end: Callable[[AsyncClient], Awaitable[bool]]
    ) -> None:
        self.completed = self.failed = 0
        self.output, self.errors = bytearray(), bytearray()
        self.cancelled = False
        self._batch = batch
        self._mark = batch[:32]
        self._handler = handler
        self._settings = settings
        self._alone = settings.model_copy(update={"at_once": 1})  # as many lines are, and no more calls than these
        self._is_to_end = is_to_end
        self._total = 0
        self._begun_at = int(time.time())
        self._going: asyncio.Task[None] | None = None

    @property
    def described(self) -> dict[str, Any]:
        """How it stands."""
        status = "cancelling" if self.cancelled else "in_progress" if self._total else "validating"
        counts = {"total": self._total, "completed": self.completed, "failed": self.failed}
        return {"status": status, "request_counts": counts, "in_progress_at": self._begun_at if self._total else None}

    def cancel(self) -> None:
        """End it as it stands."""
        self.cancelled = True
        if self._going is not None:
            self._going.cancel()

    async def go(self, client: AsyncClient, lines: Lines, *, until: float) -> None:
        """Answer all lines, until a Unix time at most, or until it is cancelled: what is left goes on nowhere then.

        Raises:
            InferdError: The kernel does not answer.
        """
        self._total = len(lines.lines)
        if not self.cancelled:
            self._going = asyncio.create_task(self._all(client, lines))
            try:
                await asyncio.wait({self._going}, timeout=max(0.0, until - time.time()))
            finally:
                self._going.cancel()
                (ended,) = await asyncio.gather(self._going, return_exceptions=True)
            if ended is not None and not isinstance(ended, asyncio.CancelledError):
                raise ended
        if self.completed + self.failed < self._total:
            await end_tasks(client, self._mark)

    async def _all(self, client: AsyncClient, lines: Lines) -> None:
        left = iter(enumerate(lines.lines))

        async def work() -> None:
            for number, line in left:
                await self._line(client, number, line)

        async with asyncio.TaskGroup() as group:
            for _ in range(min(self._settings.at_once, self._total)):
                group.create_task(work())

    async def _line(self, client: AsyncClient, number: int, line: Line) -> None:
        """Answer a line. A defect is that line's, and no other's."""
        try:
            status, body = await self._answer(client, number, line)
            good = status < 400  # noqa: PLR2004 - of HTTP
            written = self._written(number, line, status, body)
        except Exception:
            log.exception("a line of a batch failed", batch=self._batch, custom_id=line.custom_id)
            good, written = False, self._written(number, line, INTERNAL.status, INTERNAL.openai)
        into = self.output if good else self.errors
        if len(into) + len(written) > self._settings.upload_bytes:
            refusal = Refusal("the answers of the batch are over http.upload_bytes", status=413, code="LIMIT_EXCEEDED")
            problem = problem_of(refusal) or INTERNAL
            good, into = False, self.errors
            written = self._written(number, line, problem.status, problem.openai)
        into += written
        self.completed += good
        self.failed += not good

    def _written(self, number: int, line: Line, status: int, body: Any) -> bytes:
        told = {
            "id": f"batch_req_{self._batch[:16]}_{number}",
            "custom_id": line.custom_id,
            "response": {"status_code": status, "request_id": f"{self._mark}-{number}", "body": body},
            "error": None,
        }
        return f"{dumps(told)}\n".encode()

    async def _answer(self, client: AsyncClient, number: int, line: Line) -> tuple[int, Any]:
        """Status and body; asked again while the kernel has no room."""
        request_id = f"{self._mark}-{number}"
        kept = cast("AsyncClient", KeptClient(client, self._mark, request_id))
        call = Call(
            client=kept,
            settings=self._alone,
            path={},
            query=QueryParams(),
            headers=Headers(),
            body=parse(line.data, MOST_DEPTH)["body"],
            receive=_nothing,
            request_id=request_id,
        )
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                response = cast("Response", await self._handler(call))
                return response.status_code, json.loads(bytes(response.body))
            except Exception as error:
                problem = problem_of(error)
                if problem is None:
                    raise
                if problem.code == "TASK_CANCELLED" and await self._is_to_end(client):
                    self.cancel()  # which cancels this, too
                elif problem.status not in TRY_AGAIN:
                    return problem.status, problem.openai
                pause_s = min(MOST_PAUSE_S, max(2 * pause_s, problem.retry_after_s or 0))
            await asyncio.sleep(pause_s)


async def _nothing() -> Any:
    raise Refusal("a line of a batch has no upload")
