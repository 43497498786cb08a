"""`/v1/responses`: made, read again, followed from any event on, cancelled. What is kept of one is the kernel's.

A response is a task. Its id is the task's; what it was asked, and the conversation before it, is a blob whose digest is
a mark of the task. So every gateway of the kernel can read it, with a key of the same tenant, for as long as the kernel
knows its ended tasks (`limits.retention_s`).
"""

from __future__ import annotations

import json
import time
from contextlib import aclosing, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

from inferd.http.calls import answer
from inferd.http.chat import version_in
from inferd.http.chunks import Plain, queue_comment
from inferd.http.fields import read_number
from inferd.http.problems import Refusal
from inferd.http.reading import Reading
from inferd.http.response_events import Response
from inferd.http.response_fields import Wanted, read_request
from inferd.http.streams import Streamed, dumps
from inferd.http.tasks import start
from inferd.http.traces import traced
from inferd_api.v1.task_pb2 import TaskState
from inferd_client.errors import BlobNotFoundError, InferdError, StoreUnavailableError, TaskNotFoundError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

    from starlette.types import ASGIApp

    from inferd.http.calls import Call
    from inferd.http.speech import Speeches
    from inferd.http.token_texts import Remembered
    from inferd_api.v1.task_pb2 import Task, TaskEvent
    from inferd_client import AsyncClient

PREFIX: Final = "resp_"
MOST_NUMBER: Final = 2**53
MARK: Final = "openai.response"
"""The mark of a task that has the digest of what its response was asked."""
ENDED: Final = frozenset(
    {
        TaskState.TASK_STATE_SUCCEEDED,
        TaskState.TASK_STATE_FAILED,
        TaskState.TASK_STATE_CANCELLED,
        TaskState.TASK_STATE_EXPIRED,
    }
)


class Responses:
    """Answers requests about responses.

    Args:
        remembered: Texts of tokens.
        speeches: How answers are read.
    """

    def __init__(self, remembered: Remembered, speeches: Speeches) -> None:
        self._remembered = remembered
        self._speeches = speeches

    async def create(self, call: Call) -> ASGIApp:
        """Make one."""
        wanted = await call.aside(read_request, call.body)
        before = await self._before(call.client, wanted.previous)
        wanted = replace(wanted, messages=[*before, *wanted.messages])
        options = {**wanted.options}
        options.update(await self._speeches.options(call.client, wanted.model, wanted.wish, options))
        system = [{"role": "system", "content": wanted.instructions}] if wanted.instructions else []
        prompt = await self._speeches.messages(call.client, wanted.model, [*system, *wanted.messages])
        if wanted.store:
            try:
                options["labels"] = {**options.get("labels", {}), MARK: await _keep(call, wanted, options)}
            except StoreUnavailableError:
                if wanted.background or call.body.get("store"):
                    raise
                wanted = replace(
                    wanted, shown={**wanted.shown, "store": False}
                )  # a kernel without a store has no blobs
        created = int(time.time())
        if wanted.background:
            return await self._background(call, wanted, prompt, options, created)
        events = _started(call, wanted.model, prompt, options)
        reading = self._reading(call.client, wanted.model, options)
        if wanted.stream:
            pieces = self._pieces(events, reading, wanted.shown, created)
            return await Streamed(pieces, call.settings).begin()
        response = await self._whole(events, reading, wanted.shown, created)
        return answer(response.object())

    def _reading(self, client: AsyncClient, model: str, options: Mapping[str, Any]) -> Reading:
        return Reading(self._remembered, self._speeches, client, model, options, streamed=False)

    async def _background(
        self, call: Call, wanted: Wanted, prompt: Any, options: Mapping[str, Any], created: int
    ) -> ASGIApp:
        try:
            task = await call.client.create_task(wanted.model, prompt, **traced(options))
        except InferdError:
            await _forget(call.client, options)
            raise
        except (TypeError, ValueError) as error:
            await _forget(call.client, options)
            raise Refusal(str(error)) from None
        if wanted.stream:
            events, reading = call.client.watch(task.task_id), self._reading(call.client, wanted.model, options)
            pieces = self._pieces(events, reading, wanted.shown, created)
            return await Streamed(pieces, call.settings).begin()
        response = Response(PREFIX + task.task_id, created, wanted.shown)
        response.stand(task.state)
        return answer(response.object())

    async def get(self, call: Call) -> ASGIApp:
        """Read one, or follow it from an event on."""
        task, record = await _read(call.client, call.path["id"])
        created, shown = task.create_time.seconds, record["shown"]
        reading = self._reading(call.client, task.model, record.get("reading", {}))
        if call.query.get("stream") in ("true", "True", "1"):
            after = _number(call.query.get("starting_after"))
            events = call.client.watch(task.task_id)
            pieces = self._pieces(events, reading, shown, created, after=after)
            return await Streamed(pieces, call.settings).begin()
        if task.state in ENDED:
            events = call.client.watch(task.task_id)
            response = await self._whole(events, reading, shown, created)
        else:
            response = Response(PREFIX + task.task_id, created, shown)
            response.stand(task.state)
        return answer(response.object())

    async def cancel(self, call: Call) -> ASGIApp:
        """End one."""
        task, _ = await _read(call.client, call.path["id"])
        await call.client.cancel_task(task.task_id)
        return await self.get(call)

    async def delete(self, call: Call) -> ASGIApp:
        """End one, and forget what it was asked: it cannot be read any more."""
        task, _ = await _read(call.client, call.path["id"])
        if task.state not in ENDED:
            await call.client.cancel_task(task.task_id)
        await call.client.delete_blob(task.labels[MARK])
        return answer({"id": call.path["id"], "object": "response", "deleted": True})

    async def items(self, call: Call) -> ASGIApp:
        """What one was asked."""
        _, record = await _read(call.client, call.path["id"])
        data = [
            {"type": "message", "id": f"msg_{index}", "status": "completed", **message, "content": _parts(message)}
            for index, message in enumerate(record["messages"])
        ]
        data = data if call.query.get("order") == "asc" else data[::-1]
        ids = [each["id"] for each in data] or [None]
        return answer({"object": "list", "data": data, "first_id": ids[0], "last_id": ids[-1], "has_more": False})

    async def _before(self, client: AsyncClient, previous: str) -> list[dict[str, Any]]:
        """The conversation up to a response and with it."""
        if not previous:
            return []
        task, record = await _read(client, previous)
        if task.state not in ENDED:
            raise Refusal(
                f"the response {previous} has not ended; wait for it, or cancel it",
                status=409,
                code="TASK_STATE",
                param="previous_response_id",
            )
        reading = self._reading(client, task.model, record.get("reading", {}))
        response = await self._whole(client.watch(task.task_id), reading, {}, 0)
        return [*record["messages"], response.message()]

    async def _whole(
        self, events: AsyncGenerator[TaskEvent], reading: Reading, shown: Mapping[str, Any], created: int
    ) -> Response:
        """A response at its end. What was refused before there was one raises; what failed later is told in it."""
        response: Response | None = None
        try:
            async with aclosing(events):
                async for event in events:
                    response = response or Response(PREFIX + event.task_id, created, shown)
                    await _take(response, event, reading)
        except InferdError:
            if response is None or not response.ended:
                raise
        if response is None:
            raise Refusal("the kernel tells nothing of this response any more", status=410, code="EVENTS_DROPPED")
        return response

    async def _pieces(
        self,
        events: AsyncGenerator[TaskEvent],
        reading: Reading,
        shown: Mapping[str, Any],
        created: int,
        *,
        after: int = -1,
    ) -> AsyncGenerator[bytes]:
        response: Response | None = None
        begun = False
        try:
            async with aclosing(events):
                async for event in events:
                    response = response or Response(PREFIX + event.task_id, created, shown, after=after)
                    if event.HasField("queued"):
                        yield queue_comment(event.queued)
                    if not begun and (event.HasField("output") or event.HasField("finished") or event.sequence > 1):
                        begun = True
                        yield response.begin()
                    if piece := await _take(response, event, reading):
                        yield piece
        except InferdError:
            if response is None or not response.ended:
                raise


async def _take(response: Response, event: TaskEvent, reading: Reading) -> bytes:
    """What an event is of a response, once it is known how its outputs are read."""
    reading.version = version_in(event) or reading.version
    if event.HasField("finished"):
        response.thought = await reading.count_thoughts([response.reader.thoughts])
    if not event.HasField("output"):
        return response.take(event)
    told = await reading.look_up(event.output, reading.version)
    if isinstance(response.reader, Plain):
        response.reader = reading.reader_of(event.task_id)
    return response.take(event, list(told["content"]) if told else [])


async def _keep(call: Call, wanted: Wanted, options: Mapping[str, Any]) -> str:
    """Keep what a response is asked, and how its answer is read; the digest of it."""
    reading = {name: options[name] for name in ("tools", "template_variables") if name in options}
    record_id = call.request_id or str(uuid4())  # no other response has this blob: it is gone with its own
    record = {"id": record_id, "messages": list(wanted.messages), "shown": wanted.shown, "reading": reading}
    data = await call.aside(lambda: dumps(record).encode())
    return (await call.client.put_blob(data)).digest


async def _started(call: Call, model: str, prompt: Any, options: Mapping[str, Any]) -> AsyncGenerator[TaskEvent]:
    """The events of a new task; where it is refused before there is one, nothing stays of what was asked."""
    begun = False
    try:
        async with aclosing(await call.aside(start, call.client, model, prompt, options)) as events:
            async for event in events:
                begun = True
                yield event
    except (InferdError, Refusal, TypeError, ValueError):
        if not begun:
            await _forget(call.client, options)
        raise


async def _forget(client: AsyncClient, options: Mapping[str, Any]) -> None:
    if digest := options.get("labels", {}).get(MARK):
        with suppress(InferdError):  # it is forgotten when nobody used it for long
            await client.delete_blob(digest)


async def _read(client: AsyncClient, response_id: str) -> tuple[Task, dict[str, Any]]:
    """A response's task, and what it was asked.

    Raises:
        Refusal: There is none of this id.
    """
    lacking = Refusal(
        f"there is no response {response_id!r}: it was made without store, deleted, by another tenant, or longer ago "
        "than the kernel keeps ended tasks (limits.retention_s)",
        status=404,
        code="TASK_NOT_FOUND",
        param="response_id",
    )
    if not response_id.startswith(PREFIX):
        raise lacking
    try:
        task = await client.get_task(response_id.removeprefix(PREFIX))
        if not (digest := task.labels.get(MARK, "")):
            raise lacking
        data = bytearray()
        async with aclosing(client.read_blob(digest)) as parts:
            async for part in parts:
                data += part
    except (TaskNotFoundError, BlobNotFoundError):
        raise lacking from None
    try:
        record = json.loads(data)
    except (ValueError, RecursionError):
        raise lacking from None
    kinds = (("messages", list), ("shown", dict), ("reading", dict))
    if not isinstance(record, dict) or not all(isinstance(record.get(name), kind) for name, kind in kinds):
        raise lacking  # somebody else gave the task this mark
    return task, record


def _number(text: str | None) -> int:
    return -1 if text is None else read_number(text, "starting_after", 0, MOST_NUMBER)


def _parts(message: Mapping[str, Any]) -> list[Any]:
    content = message.get("content")
    kind = "output_text" if message.get("role") == "assistant" else "input_text"
    return [{"type": kind, "text": content}] if isinstance(content, str) else list(content or ())
