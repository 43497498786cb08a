"""`POST /v1/audio/transcriptions` and `/v1/audio/translations`: what is said in a sound, by a model with a recipe."""

from __future__ import annotations

from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from starlette.responses import PlainTextResponse

from inferd.http.calls import answer
from inferd.http.fields import Refused, Table, check_fields, need, read_tier, shown, take
from inferd.http.problems import Refusal
from inferd.http.streams import DONE, Streamed, dumps, event
from inferd.http.subtitles import Heard, srt, verbose, vtt
from inferd.http.traces import traced
from inferd_client.errors import InvalidFieldError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

    from starlette.types import ASGIApp

    from inferd.http.calls import Call
    from inferd_client import AsyncClient

GRANULARITIES: Final = "timestamp_granularities[]"
KNOWN: Final = {
    "file", "model", "language", "response_format", "stream", "user", "service_tier", "priority", GRANULARITIES
}  # fmt: skip
REFUSED: Final[Table] = {
    "prompt": Refused("recipes of speech take none"),
    "temperature": Refused("the likeliest text is written", ("0", "0.0")),
    "include[]": Refused("recipes of speech tell no probabilities"),
    "chunking_strategy": Refused("sounds are cut into the model's windows", ("auto",)),
}
FORMATS: Final = ("json", "text", "verbose_json", "srt", "vtt")
TIMED: Final = frozenset({"verbose_json", "srt", "vtt"})
"""Formats that say when something was said."""
AUDIO: Final = "audio"


async def transcribe(call: Call, *, task: str = "transcribe") -> ASGIApp:
    """What is said in a file."""
    fields = dict(call.body)
    fields.pop("file.name", None)
    check_fields(fields, KNOWN, REFUSED)
    model = need(fields, "model", str, "the name of a model with a recipe of speech")
    sound = need(fields, "file", bytes, "a file with a sound")
    form = _form(fields)
    inputs: dict[str, Any] = {AUDIO: bytearray(sound)}
    if language := take(fields, "language", str, "the code of a language"):
        inputs["language"] = [language]
    if task == "translate":
        inputs["task"] = [task]
    streams = fields.get("stream") in ("true", "True", "1")
    if form in TIMED:
        if streams:
            raise Refusal(f"response_format {form} is no stream; leave stream out, or ask for json", param="stream")
        return _written(await _heard(call.client, model, inputs, read_tier(fields)), form, task)
    pieces = _pieces(call.client, model, inputs, read_tier(fields))
    if streams:
        return await Streamed(_events(pieces), call.settings).begin()
    async with aclosing(pieces):
        text = "".join([piece async for piece in pieces]).strip()
    return PlainTextResponse(text) if form == "text" else answer({"text": text})


def _form(fields: Mapping[str, Any]) -> str:
    form: str = take(fields, "response_format", str, f"one of {', '.join(FORMATS)}", "json")
    if form == "diarized_json":
        message = "response_format diarized_json says who speaks, and recipes of speech do not; ask for verbose_json"
        raise Refusal(message, code="UNSUPPORTED_FIELD", param="response_format")
    if form not in FORMATS:
        message = f"response_format is {shown(form)}; it must be one of {', '.join(FORMATS)}"
        raise Refusal(message, param="response_format")
    for each in take(fields, GRANULARITIES, list, "segment", []):
        if each == "word":
            message = f"{GRANULARITIES} word is not supported: times are told of segments alone; ask for segment"
            raise Refusal(message, code="UNSUPPORTED_FIELD", param=GRANULARITIES)
        if each != "segment":
            raise Refusal(f"{GRANULARITIES} is {shown(each)}; it must be segment", param=GRANULARITIES)
        if form != "verbose_json":
            message = f"{GRANULARITIES} is for response_format verbose_json, and that is {form}; change one of them"
            raise Refusal(message, param=GRANULARITIES)
    return form


translate = partial(transcribe, task="translate")


async def _heard(client: AsyncClient, model: str, inputs: Mapping[str, Any], options: Mapping[str, Any]) -> Heard:
    """All that is said, with times."""
    heard = Heard()
    sets = client.infer_stream(model, {**inputs, "times": ["segments"]}, **traced(options))
    try:
        async with aclosing(sets):
            async for outputs in sets:
                if not heard.add(outputs):
                    raise _timeless(model)
    except InvalidFieldError as error:
        if "'times'" not in str(error):
            raise
        raise _timeless(model) from None
    return heard


def _timeless(model: str) -> Refusal:
    return Refusal(
        f"response_format says when each part was said, and {model} tells no times; ask for json or text",
        code="UNSUPPORTED_FIELD",
        param="response_format",
    )


def _written(heard: Heard, form: str, task: str) -> ASGIApp:
    if form == "verbose_json":
        return answer(verbose(heard, task))
    return PlainTextResponse(srt(heard.segments) if form == "srt" else vtt(heard.segments))


async def _pieces(
    client: AsyncClient, model: str, inputs: Mapping[str, Any], options: Mapping[str, Any]
) -> AsyncGenerator[str]:
    try:
        sets = client.infer_stream(model, inputs, **traced(options))
    except (TypeError, ValueError) as error:
        raise Refusal(str(error)) from None
    async with aclosing(sets):
        async for outputs in sets:
            texts = [array for array in outputs.values() if array.dtype == object]
            if len(texts) != 1:
                raise Refusal(
                    f'{model} writes no text of sounds; it needs a recipe whose output is "written"',
                    code="UNSUPPORTED_INPUT",
                    param="model",
                )
            yield "".join(str(each) for each in texts[0].ravel())


async def _events(pieces: AsyncGenerator[str]) -> AsyncGenerator[bytes]:
    text = ""
    async with aclosing(pieces):
        async for piece in pieces:
            text += piece
            yield event(dumps({"type": "transcript.text.delta", "delta": piece}))
    yield event(dumps({"type": "transcript.text.done", "text": text}))
    yield DONE
