"""`POST /v1/completions`: texts that are continued, several at once where several are given."""

from __future__ import annotations

import time
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from inferd.http.adapters import settled
from inferd.http.calls import answer
from inferd.http.chat import HARMLESS, Asked, read_stream, version_in
from inferd.http.chunks import Head, TextChunks, queue_comment, queue_of, usage_of
from inferd.http.fields import (
    GRAMMARS,
    OF_OTHERS,
    SAMPLED,
    TASKS,
    Refused,
    Table,
    check_fields,
    need,
    read_grammar,
    read_labels,
    read_most,
    read_options,
    read_tier,
)
from inferd.http.problems import Refusal
from inferd.http.streams import DONE, Streamed
from inferd.http.tasks import REASONS, each, merged, start, whole
from inferd.http.token_texts import Remembered, TokenTexts, text_logprobs
from inferd_api.v1.task_pb2 import Usage

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping, Sequence

    from starlette.types import ASGIApp

    from inferd.http.calls import Call
    from inferd_api.v1.task_pb2 import TaskEvent
    from inferd_client import AsyncClient, Generation, Sample

DEFAULT_TOKENS: Final = 16
"""Most tokens of a completion where nothing is said, as OpenAI has it."""
OWN: Final = SAMPLED - {"grammar", "fit_max_tokens", "max_tokens", "prompt_logprobs"}
KNOWN: Final = (
    OWN
    | TASKS
    | HARMLESS
    | GRAMMARS.keys()
    | {"model", "prompt", "stream", "stream_options", "max_tokens", "metadata", "priority", "service_tier"}
)
REFUSED: Final[Table] = {
    **OF_OTHERS,
    "suffix": Refused("models here continue texts and fill no gaps"),
    "prompt_logprobs": Refused("ask for echo and logprobs"),
}


def read_completion(body: Mapping[str, Any], *, most_inputs: int) -> Asked:
    """What a request asks for; `prompt` is a list of prompts.

    Raises:
        Refusal: It asks for what there is not, or in a wrong way.
    """
    check_fields(body, KNOWN, REFUSED)
    options = {
        **read_options(body, OWN | TASKS),
        **read_most(body, ("max_tokens",), DEFAULT_TOKENS),
        **read_tier(body),
        **read_labels(body),
    }
    if (grammar := read_grammar(body)) is not None:
        options["grammar"] = grammar
    if options.get("echo") and "logprobs" in options:
        options["prompt_logprobs"] = options["logprobs"]  # what is echoed has them as what follows it
    prompts = read_inputs(body, "prompt", most_inputs=most_inputs)
    if len(prompts) > 1 and "request_id" in options:
        raise Refusal("a request_id is of one task, and several prompts are several", param="request_id")
    model = need(body, "model", str, "the name of a model")
    return Asked(model=model, prompt=prompts, options=options, **read_stream(body))


def read_inputs(body: Mapping[str, Any], name: str, *, most_inputs: int) -> list[str | list[int]]:
    """The texts of a field, or their token ids: one, or a list of them.

    Raises:
        Refusal: They are none, or too many.
    """
    said = need(body, name, (str, list), "a text, a list of texts, token ids, or a list of them")
    inputs: list[Any] = [said] if isinstance(said, str) or _is_tokens(said) else said
    if not inputs:
        raise Refusal(f"{name} is empty; it must have at least one text", param=name)
    if len(inputs) > most_inputs:
        raise Refusal(
            f"{name} has {len(inputs)} texts; at most {most_inputs} may be in one request (http.inputs)",
            code="LIMIT_EXCEEDED",
            param=name,
        )
    for index, one in enumerate(inputs):
        if not isinstance(one, str) and not _is_tokens(one):
            raise Refusal(f"{name}[{index}] is neither a text nor a list of token ids", param=f"{name}[{index}]")
    return inputs


def _is_tokens(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(one) is int for one in value)


class Completions:
    """Answers completions.

    Args:
        remembered: Texts of tokens.
    """

    def __init__(self, remembered: Remembered) -> None:
        self._remembered = remembered

    async def __call__(self, call: Call) -> ASGIApp:
        """Run a task for each prompt of a request."""
        asked = await call.aside(read_completion, call.body, most_inputs=call.settings.inputs)
        asked = await settled(call.client, asked)
        created = int(time.time())
        if asked.stream:
            if len(asked.prompt) > call.settings.at_once:
                raise Refusal(
                    f"prompt has {len(asked.prompt)} texts; a stream may have {call.settings.at_once} (http.at_once)",
                    code="LIMIT_EXCEEDED",
                    param="prompt",
                )
            streams = [await call.aside(start, call.client, asked.model, each, asked.options) for each in asked.prompt]
            return await Streamed(self._pieces(streams, call.client, asked, created), call.settings).begin()
        run = partial(self._whole, call, asked)
        given = await each(asked.prompt, run, at_once=call.settings.at_once)
        choices = [choice for _, samples in given for choice in samples]
        for index, choice in enumerate(choices):
            choice["index"] = index
        head = Head(id=f"cmpl-{given[0][0].task_id}", kind="text_completion", created=created, model=asked.name)
        return answer({**head.fields, "choices": choices, "usage": usage_of(_sum([one.usage for one, _ in given]))})

    async def _whole(self, call: Call, asked: Asked, prompt: Any) -> tuple[Generation, list[dict[str, Any]]]:
        given = await whole(call, asked.model, prompt, asked.options)
        texts = self._remembered.of(call.client, asked.model, given.receipt.version)
        told = "logprobs" in asked.options
        echoed = told and asked.options.get("echo", False)
        await texts.load([*given.prompt_logprobs, *(one for sample in given.samples for one in sample.logprobs)])
        await texts.load_ids(given.samples[0].token_ids[:1] if echoed else ())
        choices = [_choice(sample, texts, told=told) for sample in given.samples]
        if echoed:  # the first sample begins with the prompt
            first = given.samples[0]
            logprobs = [*given.prompt_logprobs, *first.logprobs]
            choices[0]["logprobs"] = text_logprobs(logprobs, texts, 0, text=first.text, first=first.token_ids[0])
        return given, choices

    async def _pieces(
        self, streams: Sequence[AsyncGenerator[TaskEvent]], client: AsyncClient, asked: Asked, created: int
    ) -> AsyncGenerator[bytes]:
        count, used = asked.options.get("n", 1), Usage()
        numbered = [_numbered(number, stream) for number, stream in enumerate(streams)]
        head: Head | None = None
        chunks: dict[int, TextChunks] = {}
        versions: dict[int, int] = {}
        async with aclosing(merged(numbered)) as events:
            async for number, event in events:
                if head is None:
                    task = event.task_id
                    head = Head(id=f"cmpl-{task}", kind="text_completion", created=created, model=asked.name)
                if number not in chunks:
                    chunks[number] = TextChunks(head, usage=asked.usage, first=number * count)
                if event.HasField("output"):
                    piece = await self._output(client, asked, event, chunks[number], versions.get(number, 0))
                elif event.HasField("finished"):
                    if event.finished.HasField("error"):
                        continue  # raised next
                    used = _sum([used, event.finished.usage])
                    piece = chunks[number].finished(event.finished.reason)
                elif event.HasField("queued"):
                    queued = event.queued
                    piece = chunks[number].queued(queue_of(queued)) if asked.queue else queue_comment(queued)
                else:
                    versions[number] = version_in(event) or versions.get(number, 0)
                    continue
                if piece:
                    yield piece
        if asked.usage:
            yield chunks[0].usage(usage_of(used))
        yield DONE

    async def _output(
        self, client: AsyncClient, asked: Asked, event: TaskEvent, chunks: TextChunks, version: int
    ) -> bytes:
        told, output = None, event.output
        texts = self._remembered.of(client, asked.model, version)
        if output.logprobs:
            await texts.load(output.logprobs)
            told = text_logprobs(output.logprobs, texts, chunks.sent.get(output.sample, 0))
        elif asked.options.get("echo") and "logprobs" in asked.options and output.token_ids and not chunks.sent:
            await texts.load(output.prompt_logprobs)
            await texts.load_ids(output.token_ids[:1])
            told = text_logprobs(output.prompt_logprobs, texts, 0, text=output.text, first=output.token_ids[0])
        return chunks.output(output, told)


async def _numbered(number: int, events: AsyncGenerator[TaskEvent]) -> AsyncGenerator[tuple[int, TaskEvent]]:
    async with aclosing(events):
        async for event in events:
            yield number, event


def _choice(sample: Sample, texts: TokenTexts, *, told: bool) -> dict[str, Any]:
    return {
        "index": 0,
        "text": sample.text,
        "logprobs": text_logprobs(sample.logprobs, texts, 0, text=sample.text) if told else None,
        "finish_reason": REASONS.get(sample.finish_reason, "stop"),
    }


def _sum(usages: Sequence[Usage]) -> Usage:
    return Usage(
        prompt_tokens=sum(one.prompt_tokens for one in usages),
        cached_tokens=sum(one.cached_tokens for one in usages),
        output_tokens=sum(one.output_tokens for one in usages),
    )
