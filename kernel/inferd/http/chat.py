"""`POST /v1/chat/completions`."""

from __future__ import annotations

import time
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from inferd.http.adapters import settled
from inferd.http.calls import answer
from inferd.http.chunks import (
    ChatChunks,
    Head,
    queue_comment,
    queue_of,
    usage_of,
)
from inferd.http.fields import (
    CHATS,
    GRAMMARS,
    OF_OTHERS,
    SAMPLED,
    TASKS,
    Refused,
    Table,
    check_fields,
    check_option,
    flag,
    need,
    read_grammar,
    read_labels,
    read_most,
    read_options,
    read_tier,
    take,
)
from inferd.http.messages import read_messages
from inferd.http.problems import Refusal
from inferd.http.reading import Reading
from inferd.http.speech import Wish, message_of
from inferd.http.streams import DONE, Streamed
from inferd.http.tasks import REASONS, start, whole
from inferd.http.token_texts import Remembered, chat_logprobs
from inferd.http.wishes import FIELDS, read_wish

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

    from starlette.types import ASGIApp

    from inferd.http.calls import Call
    from inferd.http.chunks import Reader
    from inferd.http.speech import Speeches
    from inferd_api.v1.task_pb2 import TaskEvent
    from inferd_client import AsyncClient, Sample

MOST_NAMES: Final = ("max_completion_tokens", "max_tokens")
OWN: Final = SAMPLED - {"echo", "grammar", "logprobs", "prompt_logprobs", "fit_max_tokens", "max_tokens"}
HARMLESS: Final = frozenset({"user", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"})
"""They say who asks, or where a cache is; the kernel knows that by the key, and finds prefixes by itself."""
KNOWN: Final = (
    OWN
    | CHATS
    | TASKS
    | HARMLESS
    | GRAMMARS.keys()
    | {"model", "messages", "stream", "stream_options", "logprobs", "top_logprobs", *MOST_NAMES}
    | FIELDS
    | {"metadata", "priority", "service_tier", "chat_template_kwargs"}
)
REFUSED: Final[Table] = {
    **OF_OTHERS,
    "functions": Refused("they are older than tools"),
    "function_call": Refused("it is older than tool_choice", ("none", "auto")),
    "store": Refused("chats are not kept; ask /v1/responses for what is to be read again", (False,)),
    "modalities": Refused("models write text", (["text"],)),
    "audio": Refused("models write text"),
    "prediction": Refused("there is none"),
    "verbosity": Refused("models here have none", ("medium",)),
    "web_search_options": Refused("the kernel asks no other host"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a request asks for.

    Attributes:
        model: Name of the model.
        prompt: Messages, or a text.
        options: Of the task.
        wish: What it says of tools and thoughts.
        stream: Whether the answer comes in pieces.
        usage: Whether these tell usage.
        queue: Whether these tell the place in the queue as data, not only in comments.
    """

    model: str
    prompt: Any
    options: Mapping[str, Any]
    wish: Wish = field(default_factory=Wish)
    stream: bool
    usage: bool
    queue: bool

    @property
    def name(self) -> str:
        """What was named: the model, or it with its adapter."""
        adapter = self.options.get("adapter", "")
        return f"{self.model}:{adapter}" if adapter else self.model


def read_chat(body: Mapping[str, Any]) -> Asked:
    """What a request asks for.

    Raises:
        Refusal: It asks for what there is not, or in a wrong way.
    """
    check_fields(body, KNOWN, REFUSED)
    model = need(body, "model", str, "the name of a model")
    messages = read_messages(body.get("messages"))
    options = {
        **read_options(body, OWN | CHATS | TASKS),
        **read_most(body, MOST_NAMES, "all"),
        **read_tier(body),
        **read_labels(body),
        **_logprobs(body),
        **_variables(body),
    }
    if (grammar := read_grammar(body)) is not None:
        options["grammar"] = grammar
    return Asked(model=model, prompt=messages, options=options, wish=read_wish(body), **read_stream(body))


def read_stream(body: Mapping[str, Any]) -> dict[str, Any]:
    """How the answer is to come.

    Raises:
        Refusal: Options of a stream for what is none, or unknown ones.
    """
    stream, said = flag(body, "stream"), take(body, "stream_options", dict, "an object")
    if said is None:
        return {"stream": stream, "usage": False, "queue": False}
    if not stream:
        raise Refusal("stream_options are for streams; set stream, or leave them out", param="stream_options")
    check_fields(said, {"include_usage", "include_queue", "include_obfuscation"}, {})
    return {"stream": stream, "usage": flag(said, "include_usage"), "queue": flag(said, "include_queue")}


def _logprobs(body: Mapping[str, Any]) -> dict[str, Any]:
    top = body.get("top_logprobs")
    if not flag(body, "logprobs"):
        if top:
            raise Refusal("top_logprobs need logprobs: true", param="top_logprobs")
        return {}
    if top is not None:
        check_option("logprobs", top, "top_logprobs")
    return {"logprobs": top or 0}


def _variables(body: Mapping[str, Any]) -> dict[str, Any]:
    """What the chat template sees besides."""
    given = {**(body.get("template_variables") or {})}
    if (said := body.get("chat_template_kwargs")) is not None:
        check_option("template_variables", said, "chat_template_kwargs")
        given.update(said)
    return {"template_variables": given} if given else {}


class Chat:
    """Answers chats.

    Args:
        remembered: Texts of tokens.
        speeches: How answers are read.
    """

    def __init__(self, remembered: Remembered, speeches: Speeches) -> None:
        self._remembered = remembered
        self._speeches = speeches

    async def __call__(self, call: Call) -> ASGIApp:
        """Run the task that a request asks for."""
        asked = await settled(call.client, await call.aside(read_chat, call.body))
        created = int(time.time())
        added = await self._speeches.options(call.client, asked.model, asked.wish, asked.options)
        prompt = await self._speeches.messages(call.client, asked.model, asked.prompt)
        asked = replace(asked, prompt=prompt, options={**asked.options, **added})
        if asked.stream:
            events = await call.aside(start, call.client, asked.model, asked.prompt, asked.options)
            pieces = self._pieces(events, call.client, asked, created)
            return await Streamed(pieces, call.settings).begin()
        given = await whole(call, asked.model, asked.prompt, asked.options)
        head = Head(id=f"chatcmpl-{given.task_id}", kind="chat.completion", created=created, model=asked.name)
        version = given.receipt.version
        speech = await self._speeches.of(call.client, asked.model, version, asked.options, streamed=False)
        texts = self._remembered.of(call.client, asked.model, version)
        measured = "logprobs" in asked.options
        if measured:
            await texts.load(one for sample in given.samples for one in sample.logprobs)
        if speech.names:
            await texts.load_ids(token_id for sample in given.samples for token_id in sample.token_ids)
        readers = [speech.reader(texts) for _ in given.samples]
        choices = [
            {
                **_choice(sample, readers[index]),
                "index": index,
                "logprobs": chat_logprobs(sample.logprobs, texts) if measured else None,
            }
            for index, sample in enumerate(given.samples)
        ]
        thought = await texts.count_thoughts(reader.thoughts for reader in readers)
        return answer({**head.fields, "choices": choices, "usage": usage_of(given.usage, thought)})

    async def _pieces(
        self, events: AsyncGenerator[TaskEvent], client: AsyncClient, asked: Asked, created: int
    ) -> AsyncGenerator[bytes]:
        chunks, version = None, 0
        reading = Reading(self._remembered, self._speeches, client, asked.model, asked.options)
        async with aclosing(events):
            async for event in events:
                if chunks is None:
                    kind = "chat.completion.chunk"
                    head = Head(id=f"chatcmpl-{event.task_id}", kind=kind, created=created, model=asked.name)
                    chunks = ChatChunks(head, reading.reader, usage=asked.usage)
                if event.HasField("output"):
                    told = await reading.look_up(event.output, version)
                    piece = chunks.output(event.output, told)
                elif event.HasField("finished"):
                    if event.finished.HasField("error"):
                        continue  # raised next
                    piece = chunks.finished(event.finished.reason)
                    if asked.usage:
                        thought = await reading.count_thoughts(chunks.thoughts)
                        piece += chunks.usage(usage_of(event.finished.usage, thought))
                elif event.HasField("queued"):
                    piece = chunks.queued(queue_of(event.queued)) if asked.queue else queue_comment(event.queued)
                else:
                    version = version_in(event) or version
                    continue
                if piece:
                    yield piece
        yield DONE


def version_in(event: TaskEvent) -> int:
    """The number of the model's version that a task runs on from an event on; 0 where the event does not say."""
    return event.started.version or event.resumed.version


def _choice(sample: Sample, reader: Reader) -> dict[str, Any]:
    cut = sample.finish_reason == "MAX_TOKENS"
    message = message_of([*reader.feed(sample.text, sample.token_ids), *reader.finish(cut=cut)])
    if message["content"] is None and "tool_calls" not in message:
        message["content"] = ""
    reason = "tool_calls" if reader.called and not cut else REASONS.get(sample.finish_reason, "stop")
    return {"message": {**message, "refusal": None}, "finish_reason": reason}
