"""Ollama's interface to tasks: `/api/chat`, `/api/generate`, `/api/embed` and `/api/embeddings`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from inferd.http.calls import answer
from inferd.http.chat import version_in
from inferd.http.chunks import Plain
from inferd.http.completions import read_inputs
from inferd.http.embeddings import cut, embed_one, read_size
from inferd.http.fields import Refused, Table, check_fields, take
from inferd.http.ollama_fields import read_model, read_prompt, read_talk, read_task
from inferd.http.reading import Reading
from inferd.http.streams import NDJSON, Streamed, dumps
from inferd.http.tasks import GATHERED_S, REASONS, each, start
from inferd.http.wishes import read_wish
from inferd_api.v1.task_pb2 import EmbeddingParams, FinishReason

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from starlette.types import ASGIApp

    from inferd.http.calls import Call
    from inferd.http.chunks import Reader
    from inferd.http.problems import Problem
    from inferd.http.speech import Speeches
    from inferd.http.token_texts import Remembered
    from inferd_api.v1.task_pb2 import Finished, TaskEvent

COMMON: Final = frozenset({"model", "name", "options", "format", "keep_alive", "stream", "think"})
CHAT: Final = COMMON | {"messages", "tools"}
GENERATE: Final = COMMON | {"prompt", "system", "raw", "images"}
EMBED: Final = frozenset({"model", "name", "input", "truncate", "dimensions", "keep_alive", "options"})
EMBEDDINGS: Final = frozenset({"model", "name", "prompt", "keep_alive", "options"})
REFUSED: Final[Table] = {
    "template": Refused("templates are the model's own"),
    "suffix": Refused("models here continue texts and fill no gaps"),
    "context": Refused("send the messages of the conversation to /api/chat"),
}
NANOSECONDS: Final = 1_000_000_000


Write = Callable[[str, str, Sequence[Any]], Mapping[str, Any]]
"""A line of what is said, what is thought, and calls."""


class Talk:
    """Answers `/api/chat` and `/api/generate`.

    Args:
        remembered: Texts of tokens.
        speeches: How answers are read.
    """

    def __init__(self, remembered: Remembered, speeches: Speeches) -> None:
        self._remembered = remembered
        self._speeches = speeches

    async def chat(self, call: Call) -> ASGIApp:
        """The next message of a conversation."""
        check_fields(call.body, CHAT, REFUSED)
        return await self._answered(call, await call.aside(read_talk, call.body), _message)

    async def generate(self, call: Call) -> ASGIApp:
        """What follows a prompt."""
        check_fields(call.body, GENERATE, REFUSED)
        return await self._answered(call, read_prompt(call.body), _response)

    async def _answered(self, call: Call, prompt: Any, write: Write) -> ASGIApp:
        model, options = read_model(call.body), read_task(call.body)
        streams = take(call.body, "stream", bool, "true or false", default=True)
        if not prompt:
            return await _load(call, model, write)
        wish = read_wish({"tools": call.body.get("tools")})
        prompt = await self._speeches.messages(call.client, model, prompt)
        options.update(await self._speeches.options(call.client, model, wish, options))
        if not streams:
            options["output_interval_s"] = GATHERED_S
        reading = Reading(self._remembered, self._speeches, call.client, model, options, streamed=False)
        plain = isinstance(prompt, str)
        events = await call.aside(start, call.client, model, prompt, options)
        lines = _lines(events, model, write, None if plain else reading)
        if streams:
            return await Streamed(encoded(lines), call.settings, media=NDJSON, ping=b"", failed=write_error).begin()
        async with aclosing(lines):
            told = [line async for line in lines]
        said, thought, calls = ([each for line in told for each in part(line)] for part in (_said, _thought, _calls))
        left = "".join(line.get("unparsed", "") for line in told)
        more = {"unparsed": left} if left else {}
        return answer({**told[-1], **write("".join(said), "".join(thought), calls), **more})


def _message(said: str, thought: str, calls: Sequence[Any]) -> dict[str, Any]:
    more = {"thinking": thought} if thought else {}
    return {"message": {"role": "assistant", "content": said, **more, **({"tool_calls": calls} if calls else {})}}


def _response(said: str, thought: str, calls: Sequence[Any]) -> dict[str, Any]:  # noqa: ARG001 - prompts have no tools
    return {"response": said, "thinking": thought} if thought else {"response": said}


def _said(line: Mapping[str, Any]) -> list[str]:
    inner = line.get("message", line)
    return [inner.get("content", inner.get("response", ""))]


def _thought(line: Mapping[str, Any]) -> list[str]:
    return [line.get("message", line).get("thinking", "")]


def _calls(line: Mapping[str, Any]) -> list[Any]:
    calls: list[Any] = line.get("message", {}).get("tool_calls", [])
    return calls


async def _load(call: Call, model: str, write: Write) -> ASGIApp:
    """A request without a prompt has the model loaded, or unloaded where it is to be kept for no time."""
    if call.body.get("keep_alive") in (0, "0", "0s", "0m"):
        await call.client.unload_model(model)
        reason = "unload"
    else:
        await call.client.count_tokens(model, " ")  # loads it, if need be
        reason = "load"
    line = {"model": model, "created_at": now(), **write("", "", ()), "done": True, "done_reason": reason}
    return answer(line)


async def encoded(lines: AsyncGenerator[dict[str, Any]]) -> AsyncGenerator[bytes]:
    """Lines of JSON."""
    async with aclosing(lines):
        async for line in lines:
            yield f"{dumps(line)}\n".encode()


def write_error(problem: Problem) -> bytes:
    """The last line of a stream that failed."""
    return f"{json.dumps(problem.ollama)}\n".encode()  # in ASCII, as of the door


async def _lines(
    events: AsyncGenerator[TaskEvent], model: str, write: Write, reading: Reading | None
) -> AsyncGenerator[dict[str, Any]]:
    reader: Reader | None = Plain() if reading is None else None
    version = 0
    async with aclosing(events):
        async for event in events:
            version = version_in(event) or version
            deltas: Sequence[Mapping[str, Any]] = ()
            if event.HasField("output"):
                if reading is not None:
                    await reading.look_up(event.output, version)
                reader = reader or (Plain() if reading is None else reading.reader())
                deltas = reader.feed(event.output.text, event.output.token_ids)
            ended = event.HasField("finished") and not event.finished.HasField("error")
            if ended and reader is not None:
                deltas = reader.finish(cut=event.finished.reason == FinishReason.FINISH_REASON_MAX_TOKENS)
            for delta in deltas:
                calls = [_call(each) for each in delta.get("tool_calls", ())]
                left = {"unparsed": delta["unparsed"]} if "unparsed" in delta else {}
                if not calls and not left and not delta.keys() & {"content", "reasoning_content"}:
                    continue
                line = write(delta.get("content", ""), delta.get("reasoning_content", ""), calls)
                yield {"model": model, "created_at": now(), **line, **left, "done": False}
            if ended:
                yield {"model": model, "created_at": now(), **write("", "", ()), **_end(event.finished)}


def _call(call: Mapping[str, Any]) -> dict[str, Any]:
    """A whole call, as Ollama has it: its arguments are an object."""
    function = call["function"]
    return {"id": call["id"], "function": {**function, "arguments": json.loads(function["arguments"])}}


def _end(finished: Finished) -> dict[str, Any]:
    """The end of an answer, with its times in nanoseconds."""
    receipt = finished.receipt
    queue, first, run = (
        each.ToNanoseconds() for each in (receipt.queue_duration, receipt.first_token_duration, receipt.run_duration)
    )
    reason = FinishReason.Name(finished.reason).removeprefix("FINISH_REASON_")
    return {
        "done": True,
        "done_reason": REASONS.get(reason, "stop"),
        "total_duration": queue + run,
        "load_duration": queue,
        "prompt_eval_count": finished.usage.prompt_tokens,
        "prompt_eval_duration": max(0, first - queue),
        "eval_count": finished.usage.output_tokens,
        "eval_duration": max(0, queue + run - max(first, queue)),
    }


async def embed(call: Call) -> ASGIApp:
    """The vectors of some texts."""
    check_fields(call.body, EMBED, {})
    model, begun = read_model(call.body), time.monotonic_ns()
    inputs = await call.aside(read_inputs, call.body, "input", most_inputs=call.settings.inputs)
    size = read_size(call.body)
    vectors = await _vectors(call, model, inputs)
    return answer(
        {
            "model": model,
            "embeddings": [list(cut(vector.values, size)) for vector in vectors],
            "total_duration": time.monotonic_ns() - begun,
            "load_duration": 0,
            "prompt_eval_count": sum(vector.tokens for vector in vectors),
        }
    )


async def embeddings(call: Call) -> ASGIApp:
    """The vector of a text, as older programs ask for it."""
    check_fields(call.body, EMBEDDINGS, {})
    prompt = take(call.body, "prompt", str, "a text", "")
    vectors = await _vectors(call, read_model(call.body), [prompt])
    return answer({"embedding": list(vectors[0].values)})


async def _vectors(call: Call, model: str, inputs: list[Any]) -> list[Any]:
    run = partial(embed_one, call.client, model, {}, EmbeddingParams())
    return await each(inputs, run, at_once=call.settings.at_once)


def now() -> str:
    """This moment, as Ollama writes it."""
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")
