"""Sounds that come in forms, before no kernel."""

import json
from collections.abc import AsyncIterator
from typing import Any, cast

import numpy as np
import pytest
from starlette.datastructures import Headers, QueryParams

from inferd.http.audio import transcribe
from inferd.http.calls import Call
from inferd.http.incoming import Bodies
from inferd.http.problems import Refusal
from inferd.http.subtitles import Segment, vtt
from inferd.http_settings import Http
from inferd_client.errors import InvalidFieldError

FORM = (
    b'--B\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\nsound\r\n'
    b'--B\r\nContent-Disposition: form-data; name="model"\r\n\r\nm\r\n--B--\r\n'
)


class _Hearing:
    def __init__(self) -> None:
        self.asked: list[Any] = []

    async def infer_stream(self, model: str, inputs: Any, **_: Any) -> AsyncIterator[Any]:
        self.asked.append((model, bytes(inputs["audio"])))
        yield {"written": np.array([" said"], dtype=object)}


async def read(form: bytes, kind: str = "multipart/form-data; boundary=B") -> dict[str, Any]:
    async def receive() -> Any:
        return {"type": "http.request", "body": form, "more_body": False}

    bodies = Bodies(Http())
    try:
        with bodies.of("caller") as room:
            return await room.read_form(Headers({"content-type": kind}), receive, Http())
    finally:
        bodies.close()


def asking(client: Any, body: dict[str, Any]) -> Call:
    return Call(
        client=client,
        settings=Http(),
        path={},
        query=QueryParams(),
        headers=Headers(),
        body=body,
        receive=cast("Any", None),
    )


async def test_a_sound() -> None:
    """The sound of a form goes to the model that the form names, and what it hears comes back."""
    hearing = _Hearing()
    response = cast("Any", await transcribe(asking(hearing, await read(FORM))))
    assert hearing.asked == [("m", b"sound")]
    assert json.loads(bytes(response.body)) == {"text": "said"}


async def test_texts_of_a_form_that_no_utf8_has() -> None:
    """Texts of a form in a charset that has halves of characters are refused by their field."""
    form = FORM.replace(b"\r\nm\r\n", b"\r\n\\ud800\r\n")
    with pytest.raises(Refusal) as caught:
        await read(form, "multipart/form-data; boundary=B; charset=unicode_escape")
    assert caught.value.param == "model"


async def test_a_list_of_a_form_has_no_files() -> None:
    """A file under a name that ends in [] is refused by its name, also where texts follow."""
    said = b'--B\r\nContent-Disposition: form-data; name="x[]"'
    with pytest.raises(Refusal) as caught:
        await read(said + b'; filename="f"\r\n\r\na\r\n' + said + b"\r\n\r\nb\r\n--B--\r\n")
    assert caught.value.param == "x[]"


def test_what_was_said_is_no_markup() -> None:
    """Words that WebVTT would read as tags or names of characters are shown as they were said."""
    assert vtt([Segment("a <b> & c", 0, 1)]).splitlines()[3] == "a &lt;b&gt; &amp; c"


@pytest.mark.parametrize(
    ("given", "param", "words"),
    [
        ({"response_format": "diarized_json"}, "response_format", "ask for verbose_json"),
        ({"response_format": "xml"}, "response_format", "json, text, verbose_json, srt, vtt"),
        ({"timestamp_granularities[]": ["word"]}, "timestamp_granularities[]", "ask for segment"),
        ({"timestamp_granularities[]": ["segment"]}, "timestamp_granularities[]", "for response_format verbose_json"),
        ({"response_format": "srt", "stream": "true"}, "stream", "is no stream"),
    ],
)
async def test_times_that_are_not_told(given: dict[str, Any], param: str, words: str) -> None:
    """Formats and times that there are not are refused in words, before the sound goes anywhere."""
    hearing = _Hearing()
    with pytest.raises(Refusal, match=words) as told:
        await transcribe(asking(hearing, {**await read(FORM), **given}))
    assert (told.value.param, hearing.asked) == (param, [])


class _Timing:
    """A model that tells times; `without`, one that has no such input."""

    def __init__(self, *, without: bool = False) -> None:
        self.without = without
        self.asked: list[Any] = []

    async def infer_stream(self, model: str, inputs: Any, **_: Any) -> AsyncIterator[Any]:
        self.asked.append(inputs.get("times"))
        if self.without:
            raise InvalidFieldError(f"the model has no input 'times'. It has: audio, {model}")
        parts = ((" Hello", [], [], []), ("", [" Hello"], [0.0], [1.28]), (" you.", [" you."], [61.5], [3661.5]))
        for number, (text, segments, begins, ends) in enumerate(parts):
            yield {
                "text": np.array([text], object),
                "text_segments": np.array(segments, object),
                "text_begins": np.array(begins, np.float32),
                "text_ends": np.array(ends, np.float32),
                "text_language": np.array([] if number else ["en"], object),
                "text_length": np.array([] if number else [3661.6], np.float32),
            }


async def test_what_was_said_when() -> None:
    """With times, segments come as OpenAI's verbose JSON, or as the subtitles of SubRip and WebVTT."""
    body, timing = await read(FORM), _Timing()
    told = {}
    for form in ("verbose_json", "srt", "vtt"):
        response = cast("Any", await transcribe(asking(timing, {**body, "response_format": form})))
        told[form] = bytes(response.body).decode()
    assert timing.asked == [["segments"]] * 3
    assert json.loads(told["verbose_json"]) == {
        "task": "transcribe",
        "duration": 3661.6,
        "language": "en",
        "text": "Hello you.",
        "segments": [
            {"id": 0, "start": 0.0, "end": 1.28, "text": " Hello", "temperature": 0.0},
            {"id": 1, "start": 61.5, "end": 3661.5, "text": " you.", "temperature": 0.0},
        ],
    }
    assert told["srt"] == ("1\n00:00:00,000 --> 00:00:01,280\nHello\n\n2\n00:01:01,500 --> 01:01:01,500\nyou.\n\n")
    assert told["vtt"].startswith("WEBVTT\n\n00:00:00.000 --> 00:00:01.280\nHello\n\n")


async def test_a_model_without_times() -> None:
    """Of a model that tells no times, formats with times are refused by the name of the format."""
    with pytest.raises(Refusal, match="m tells no times; ask for json or text") as told:
        await transcribe(asking(_Timing(without=True), {**await read(FORM), "response_format": "vtt"}))
    assert (told.value.code, told.value.param) == ("UNSUPPORTED_FIELD", "response_format")


async def test_fields_of_a_form_that_come_twice() -> None:
    """Fields that are lists have all that they say; of others nothing is passed over that comes twice."""
    more = b'--B\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n--B'
    lists = [more % (b"timestamp_granularities[]", value) for value in (b"word", b"segment")]
    form = await read(FORM.replace(b"--B", lists[0], 1).replace(b"--B", lists[1], 1))
    assert form["timestamp_granularities[]"] == ["segment", "word"]
    with pytest.raises(Refusal, match="model is twice in the form"):
        await read(FORM.replace(b"--B", more % (b"model", b"other"), 1))
