"""Bodies of requests as nobody means them: each is refused by its field, and none is a defect of the gateway."""

import json
import threading
import time
from collections.abc import Callable
from contextvars import ContextVar
from types import SimpleNamespace
from typing import Any, cast

import pytest
from starlette.datastructures import Headers, QueryParams

from inferd.http import chat, completions, ollama, response_fields
from inferd.http.bodies import parse
from inferd.http.calls import Call
from inferd.http.door import _told
from inferd.http.embeddings import read_size
from inferd.http.incoming import Bodies
from inferd.http.ollama_fields import read_model, read_prompt, read_talk, read_task
from inferd.http.problems import Refusal
from inferd.http.streams import dumps
from inferd.http.token_texts import Remembered
from inferd.http.wishes import read_wish
from inferd.http_settings import Http

TALK = [{"role": "user", "content": "hi"}]
ODD: list[Any] = [
    {}, [], "", "x", 0, 5, -1, 1.5, True, 10**400, {"type": {}}, {"type": []}, {"a": {"b": []}}, [{}], [[]], [5], ["x"],
    [None],
    [{"type": {}}], [{"type": "function", "function": 5}], [{"type": "function", "function": {"name": {}}}],
    [{"role": "user", "content": {}}], [{"role": "user", "content": [{"type": {}}]}], [{"role": {}}],
    [{"role": "user", "content": [{"type": "text", "text": {}}]}], [{"type": "reasoning", "content": 5}],
    [{"type": "reasoning", "summary": [5]}], [{"type": "function_call", "name": {}, "arguments": 5}],
    [{"type": "function_call_output", "output": {}, "call_id": []}], [{"role": "user", "images": 5, "content": "x"}],
    [{"role": "assistant", "tool_calls": [{"id": {}, "function": {"name": "f", "arguments": {}}}]}],
    {"format": 5}, {"format": {"type": []}}, {"effort": {}}, {"include_usage": 5}, {"json": 5}, {"regex": {}},
    {"type": "json_schema", "json_schema": 5}, {"type": "function", "function": 5}, {"type": "function", "name": {}},
]  # fmt: skip


def _read_ollama(body: dict[str, Any]) -> None:
    for read in (read_model, read_task, read_talk, read_prompt, read_size):
        read(body)
    read_wish({"tools": body.get("tools")})


READERS: dict[str, tuple[Callable[[dict[str, Any]], Any], frozenset[str], dict[str, Any]]] = {
    "chat": (chat.read_chat, frozenset(chat.KNOWN | chat.REFUSED.keys()), {"model": "m", "messages": TALK}),
    "completion": (
        lambda body: completions.read_completion(body, most_inputs=4),
        frozenset(completions.KNOWN | completions.REFUSED.keys()),
        {"model": "m", "prompt": "x"},
    ),
    "response": (
        response_fields.read_request,
        frozenset(response_fields.KNOWN | response_fields.REFUSED.keys()),
        {"model": "m", "input": "x"},
    ),
    "ollama": (_read_ollama, ollama.CHAT | ollama.GENERATE | ollama.EMBED, {"model": "m"}),
    "options of ollama": (
        lambda options: read_task({"options": options}),
        frozenset({"stop", "seed", "num_predict", "mirostat", "temperature", "logit_bias"}),
        {},
    ),
}


@pytest.mark.parametrize("reader", READERS)
def test_values_of_other_kinds(reader: str) -> None:
    """Whatever a field holds, a request is read or refused: nothing in it makes the gateway fail."""
    read, names, base = READERS[reader]
    for name in sorted(names):
        for value in ODD:
            try:
                read({**base, name: value})
            except Refusal:
                continue
            except Exception as error:
                raise AssertionError(f"{name}: {value!r}") from error


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b'{"messages": "\\ud800"}', "messages"),
        (b'{"messages": [{"role": "user", "content": "a\\udfffb"}]}', "messages[0].content"),
        (b'{"metadata": {"a": {"\\ud800": 1}}}', "metadata.a.\\ud800"),
        (b'{"tools": [{"maximum": 1e999}]}', "tools[0].maximum"),
        (b'{"a": -1e999}', "a"),
        (b'{"a": [1, NaN]}', "a[1]"),
        (b'{"a": Infinity}', "a"),
    ],
)
def test_what_no_json_or_no_utf8_has(body: bytes, param: str) -> None:
    """Halves of characters and numbers without an end are refused by where they stand, before any task is made."""
    with pytest.raises(Refusal) as caught:
        parse(body, 64)
    assert caught.value.param == param
    caught.value.message.encode()


def test_whole_characters_are_taken() -> None:
    """Characters that JSON writes as two halves are read, and so are backslashes before them."""
    assert parse(b'{"a": "\\ud83d\\ude00", "b": "\\\\ud800", "c": 1e300}', 64) == {
        "a": "😀",
        "b": "\\ud800",
        "c": 1e300,
    }
    assert parse("\ufeff{}".encode(), 64) == {}
    with pytest.raises(Refusal, match="UTF-8"):
        parse(b'{"a": "\xed\xa0\x80"}', 64)


def test_more_lists_than_a_body_may_have() -> None:
    """A body of millions of lists is refused before they are made; brackets in texts are none."""
    begun = time.process_time()
    with pytest.raises(Refusal, match=r"1000001 lists and objects.*http\.body_lists"):
        parse(b'{"prompt": [' + b"[1]," * 999_998 + b"[1]]}", 64)
    assert time.process_time() - begun < 1
    assert parse(json.dumps({"a": '[{\\"' * 300_000}).encode(), 64)
    with pytest.raises(Refusal):
        parse(b'{"a": "' + b'\\"[' * 300_000, 64)  # has no end


def test_lines_have_one_end() -> None:
    """What goes out as lines has no character that some readers take for the end of one."""
    text = dumps({"a": "x\u2028y\u2029z\x85é"})
    assert len(text.splitlines()) == 1
    assert json.loads(text) == {"a": "x\u2028y\u2029z\x85é"}
    assert "é" in text


@pytest.mark.parametrize("path", ["/v1/models", "/api/tags"])
async def test_errors_can_always_be_written(path: str) -> None:
    """The door tells of an error whatever is in its words."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request"}

    answer = _told(path, Refusal("what \ud800 is", param="\ud800"))
    await answer({"type": "http", "method": "GET", "headers": []}, receive, send)
    assert sent[0]["status"] == 400
    assert json.loads(sent[1]["body"])["error"]


@pytest.mark.parametrize(
    "body", ['{"a": [1, -2.5e3, "x\\u00e9\\n", null, true], "b": {"c": {}}}', '{"a": [1}', '{"a": 1} x', '"', "[1]"]
)
def test_a_body_that_is_read_in_turns_says_the_same(body: str) -> None:
    """Where other threads have their turn while a body is read, it is what it is otherwise, and is refused as then."""
    found = []
    for yields in (False, True):
        try:
            found.append(parse(body.encode(), 8, yields=yields))
        except Refusal as refusal:
            found.append({"refused": refusal.message})
    assert found[0] == found[1]


@pytest.mark.parametrize("large", [True, False])
async def test_what_is_made_of_a_large_body_is_made_beside_the_loop(*, large: bool) -> None:
    """Fields are read and requests are written in the thread that reads bodies, in the trace of the request."""
    bodies, found, trace = Bodies(Http()), [], ContextVar("trace", default="none")

    def note(*_: Any, **__: Any) -> Any:
        found.append((threading.current_thread() is threading.main_thread(), trace.get()))
        raise ValueError("no kernel is here")

    def read(body: Any, **bounds: Any) -> Any:
        found.append((threading.current_thread() is threading.main_thread(), trace.get()))
        return completions.read_completion(body, **bounds)

    trace.set("mine")
    try:
        with bodies.of("caller") as room:
            room.take(1 << 20 if large else 10)
            call = Call(
                client=cast("Any", SimpleNamespace(run=note)),
                settings=Http(),
                path={},
                query=QueryParams(),
                headers=Headers(),
                body={"model": "m", "prompt": "x"},
                receive=cast("Any", None),
                reader=bodies.reader_of(room),
            )
            await call.aside(read, call.body, most_inputs=1)
            with pytest.raises(Refusal, match="no kernel is here"):
                await completions.Completions(Remembered(1, 1))(call)
    finally:
        bodies.close()
    assert found == [(not large, "mine")] * 2
