"""The HTTP gateway before a kernel in this process: by a socket, as programs call it."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from time_limits import LONG_S

from inferd.http.gateway import Gateway
from inferd.http.serving import listen, server_of, url_of
from inferd.http_settings import Http
from inferd.testing.kernel import kernel_here, write_fake_model
from inferd_api.v1.task_pb2 import TaskState
from inferd_client import AsyncClient

TALK = [{"role": "user", "content": "hello"}]
NOTHING, MEANT, BASE = "there is nothing at", "did you mean", "The base of the URL ends in /v1"
ENDLESS = {"model": "fake", "prompt": "go on ", "max_tokens": 900, "ignore_eos": True}


@asynccontextmanager
async def gateway_at(address: str, *, send_bytes: int = 0, keyless: str = "", **settings: Any) -> AsyncIterator[str]:
    """A gateway on a free port; its URL.

    `send_bytes` is what the system holds of what it sends, 0 for the usual; `keyless` is what calls without a key use.
    """
    chosen = Http(listen="127.0.0.1:0", **{"status_s": 20, **settings})
    listening, ready, gateway = listen(chosen), asyncio.Event(), Gateway(chosen, address=address, keyless=keyless)
    if send_bytes:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_bytes)
    server = server_of(gateway, chosen, ready.set)
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    await asyncio.wait_for(ready.wait(), LONG_S)
    try:
        yield url_of(listening, chosen)
    finally:
        server.should_exit = server.force_exit = True
        await serving
        await gateway.close()


class Web:
    """A gateway, the kernel behind it, and who calls."""

    def __init__(self, url: str, address: str, key: str) -> None:
        self.url, self.address, self.key = url, address, key
        self.http = httpx.AsyncClient(base_url=url, headers={"authorization": f"Bearer {key}"}, timeout=LONG_S)
        self.kernel = AsyncClient(address, credential="")

    async def post(self, path: str, **body: Any) -> Any:
        response = await self.http.post(path, json=body)
        assert response.status_code == 200, response.text
        return response.json()

    async def refused(self, path: str, **body: Any) -> tuple[int, dict[str, Any]]:
        response = await self.http.post(path, json=body)
        return response.status_code, response.json()["error"]

    async def events(self, path: str, **body: Any) -> list[Any]:
        """The events of a stream: those of data read, comments as they are."""
        found: list[Any] = []
        async with self.http.stream("POST", path, json={**body, "stream": True}) as response:
            assert response.status_code == 200, await response.aread()
            assert response.headers["content-type"] == "text/event-stream"
            async for line in response.aiter_lines():
                if line.startswith("data: "):
                    found.append("DONE" if line == "data: [DONE]" else json.loads(line[6:]))
                elif line:
                    found.append(line)
        return found


@asynccontextmanager
async def web_of(
    folder: Path, *, behaviour: dict[str, Any] | None = None, kernel: dict[str, Any] | None = None, **settings: Any
) -> AsyncIterator[Web]:
    async with kernel_here(folder, **kernel or {}) as made, AsyncClient(made.addresses[0], credential="") as client:
        await client.create_model("fake", str(write_fake_model(folder, **behaviour or {})), aliases=["other"])
        key = (await client.create_key("web", roles=["user"])).credential
        async with gateway_at(made.addresses[0], **settings) as url:
            web = Web(url, made.addresses[0], key)
            async with web.http, web.kernel:  # also of a test that fails: the next one would be told of them
                yield web


@pytest.fixture
async def web(tmp_path: Path) -> AsyncIterator[Web]:
    """All of it, with the model "fake"."""
    async with web_of(tmp_path) as made:
        yield made


def said(events: list[Any]) -> str:
    return "".join(
        choice["delta"].get("content", "") for each in events if isinstance(each, dict) for choice in each["choices"]
    )


async def test_a_chat_as_a_whole_and_in_pieces(web: Web) -> None:
    """Both say the same, with the usage and the end that the kernel tells."""
    whole = await web.post("/v1/chat/completions", model="fake", messages=TALK)
    assert whole["object"] == "chat.completion"
    assert whole["choices"] == [
        {
            "message": {"role": "assistant", "content": "hello", "refusal": None},
            "finish_reason": "stop", "index": 0, "logprobs": None,
        }
    ]  # fmt: skip
    assert whole["usage"]["prompt_tokens"] == 7
    assert whole["usage"]["total_tokens"] == 7 + whole["usage"]["completion_tokens"]
    events = await web.events(
        "/v1/chat/completions", model="fake", messages=TALK, stream_options={"include_usage": True}
    )
    chunks = [each for each in events if isinstance(each, dict)]
    assert said(events) == "hello"
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert chunks[-2]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"] == whole["usage"]
    assert events[-1] == "DONE"
    assert {each["id"] for each in chunks} == {chunks[0]["id"]}


async def test_several_samples_with_probabilities(web: Web) -> None:
    """Each sample is a choice of its own; log probabilities have the texts of their tokens, in a stream, too."""
    asked = {"model": "fake", "messages": TALK, "n": 2, "logprobs": True, "top_logprobs": 1, "temperature": 0}
    whole = await web.post("/v1/chat/completions", **asked)
    assert [each["index"] for each in whole["choices"]] == [0, 1]
    told = whole["choices"][1]["logprobs"]["content"]
    assert "".join(each["token"] for each in told).startswith("hello")
    assert told[0]["bytes"] == [104]
    assert [each["bytes"] for each in told[0]["top_logprobs"]] == [[104]]
    events = await web.events("/v1/chat/completions", **asked)
    streamed = [
        one["bytes"] for each in events if isinstance(each, dict) for choice in each["choices"]
        if choice["index"] == 1 and choice["logprobs"] for one in choice["logprobs"]["content"]
    ]  # fmt: skip
    assert streamed == [each["bytes"] for each in told]
    text = await web.post("/v1/completions", model="fake", prompt="ab", max_tokens=3, logprobs=1, temperature=0)
    assert text["choices"][0]["logprobs"]["tokens"] == list(text["choices"][0]["text"])
    assert text["choices"][0]["logprobs"]["text_offset"] == [0, 1, 2]
    echo = {"model": "fake", "prompt": "ab", "max_tokens": 3, "logprobs": 1, "echo": True, "temperature": 0}
    (echoed,) = (await web.post("/v1/completions", **echo))["choices"]
    assert echoed["text"] == "ab" + text["choices"][0]["text"]
    assert "".join(echoed["logprobs"]["tokens"]) == echoed["text"]
    assert echoed["logprobs"]["text_offset"] == list(range(5))
    numbers = echoed["logprobs"]["token_logprobs"]
    assert (numbers[0], echoed["logprobs"]["top_logprobs"][0]) == (None, None)
    assert all(isinstance(each, float) for each in numbers[1:])
    assert numbers[2:] == text["choices"][0]["logprobs"]["token_logprobs"]


async def test_completions_of_several_prompts(web: Web) -> None:
    """Choices are numbered over all prompts, at once and in pieces, and usage is of all."""
    asked = {"model": "fake", "prompt": ["ab", "cd"], "max_tokens": 4, "temperature": 0}
    whole = await web.post("/v1/completions", **asked)
    texts = [each["text"] for each in whole["choices"]]
    assert texts == ["abab", "cdcd"]
    assert whole["choices"][0]["finish_reason"] == "length"
    events = await web.events("/v1/completions", **asked, stream_options={"include_usage": True})
    chunks = [each for each in events if isinstance(each, dict)]
    for index in range(2):
        mine = [choice for each in chunks for choice in each["choices"] if choice["index"] == index]
        assert "".join(choice["text"] for choice in mine) == texts[index]
        assert mine[-1]["finish_reason"] == "length"
    assert chunks[-1]["usage"] == whole["usage"]


async def test_models(web: Web) -> None:
    """Every name that may be asked for is listed, and can be read by itself."""
    listed = (await web.http.get("/v1/models")).json()
    assert [each["id"] for each in listed["data"]] == ["fake", "other"]
    assert (await web.http.get("/v1/models/other")).json()["root"] == "fake"
    missing = await web.http.get("/v1/models/fak")
    assert missing.status_code == 404
    assert missing.json()["error"]["code"] == "MODEL_NOT_FOUND"


async def test_refusals_have_openais_shape(web: Web) -> None:
    """What the gateway or the kernel refuses has a status, our reason and the request's own field."""
    status, error = await web.refused("/v1/chat/completions", model="fake", messages=TALK, temperature=1000)
    assert (status, error["code"], error["param"]) == (400, "INVALID_FIELD", "temperature")
    status, error = await web.refused("/v1/chat/completions", model="none", messages=TALK, stream=True)
    assert (status, error["code"], error["type"]) == (404, "MODEL_NOT_FOUND", "not_found_error")
    long = [{"role": "user", "content": "x" * 5000}]
    status, error = await web.refused("/v1/chat/completions", model="fake", messages=long, stream=True)
    assert (status, error["code"], error["metadata"]["limit_tokens"]) == (400, "PROMPT_TOO_LONG", "1024")
    wrong = [{"role": "wizard", "content": "x"}]
    status, error = await web.refused("/v1/chat/completions", model="fake", messages=wrong, stream=True)
    assert (status, error["type"]) == (400, "invalid_request_error")
    assert (await web.http.get("/v1/nothing")).json()["error"]["code"] == "NOT_FOUND"
    status, error = await web.refused("/chat/completions", model="fake", messages=TALK)
    assert (status, error["message"]) == (404, f"{NOTHING} /chat/completions; {MEANT} /v1/chat/completions? {BASE}")
    assert (await web.http.get("/v1/completions")).status_code == 405
    assert (await web.http.post("/v1/completions", content=b"{")).status_code == 400


async def test_who_may_call(web: Web) -> None:
    """No key, a wrong one, a name that is not ours and a page of another site are turned away; each says why."""
    async with httpx.AsyncClient(base_url=web.url) as stranger:
        none = await stranger.get("/v1/models")
        assert (none.status_code, none.headers["www-authenticate"]) == (401, "Bearer")
        wrong = await stranger.get("/v1/models", headers={"authorization": "Bearer wrong"})
        assert (wrong.status_code, wrong.json()["error"]["code"]) == (401, "UNAUTHENTICATED")
        assert (await stranger.get("/health")).status_code == 200
    assert (await web.http.get("/v1/models", headers={"host": "evil.example"})).status_code == 421
    page = await web.http.get("/v1/models", headers={"origin": "https://evil.example"})
    assert (page.status_code, page.json()["error"]["code"]) == (403, "ORIGIN_NOT_ALLOWED")
    denied = await web.http.request("DELETE", "/api/delete", json={"model": "fake"})
    assert (denied.status_code, denied.json()["code"]) == (403, "PERMISSION_DENIED")


async def test_what_a_foreign_page_loads_without_an_origin(web: Web) -> None:
    """Images and frames of another site, for which browsers name no origin, are turned away; followed links are not."""
    image = {"sec-fetch-mode": "no-cors", "sec-fetch-dest": "image"}
    frame = {"sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe"}
    link = {"sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    for how, site, status in (
        *((image, "cross-site", 403), (image, "same-site", 403), (image, "same-origin", 200)),
        *((frame, "cross-site", 403), (link, "cross-site", 200), (link, "none", 200)),
    ):
        got = await web.http.get("/v1/models", headers={**how, "sec-fetch-site": site})
        assert got.status_code == status, (how, site)
    posted = await web.http.post("/v1/completions", json={}, headers={**link, "sec-fetch-site": "cross-site"})
    assert (posted.status_code, posted.json()["error"]["code"]) == (403, "ORIGIN_NOT_ALLOWED")


async def test_pages_that_may_call(tmp_path: Path) -> None:
    """A page of an origin that is allowed gets its preflight and can read the answer; a body too large is refused."""
    origin = {"origin": "https://chat.example"}
    async with web_of(tmp_path, origins=("https://chat.example",), body_bytes=2048) as web:
        preflight = await web.http.options("/v1/models", headers=origin)
        assert preflight.status_code == 204
        answer = await web.http.get("/v1/models", headers={**origin, "sec-fetch-site": "cross-site"})
        assert answer.headers["access-control-allow-origin"] == "https://chat.example"
        status, error = await web.refused("/v1/completions", model="fake", prompt="x" * 3000)
        assert (status, error["code"]) == (413, "LIMIT_EXCEEDED")


async def ended(web: Web) -> TaskState.ValueType:
    """How the newest task ends."""
    async with asyncio.timeout(LONG_S):
        async for response in web.kernel.watch_tasks():
            for task in response.tasks:
                if task.HasField("finish_time"):
                    return task.state
    raise AssertionError


async def test_who_leaves_cancels_the_task(tmp_path: Path) -> None:
    """A stream that is left, and a whole answer that nobody waits for any more, cost the kernel nothing further."""
    async with web_of(tmp_path, behaviour={"step_s": 0.01}) as web:
        async with web.http.stream("POST", "/v1/completions", json={**ENDLESS, "stream": True}) as response:
            await anext(response.aiter_lines())
        assert await ended(web) == TaskState.TASK_STATE_CANCELLED
        asking = asyncio.create_task(web.http.post("/v1/completions", json=ENDLESS))
        async with asyncio.timeout(LONG_S):
            async for response in web.kernel.watch_tasks(states=[TaskState.TASK_STATE_RUNNING]):
                if response.tasks:
                    break
            asking.cancel()
            async for response in web.kernel.watch_tasks():
                if response.tasks and all(task.HasField("finish_time") for task in response.tasks):
                    break
        states = [task.state async for task in web.kernel.list_tasks()]
        assert states == [TaskState.TASK_STATE_CANCELLED] * 2


async def test_what_fails_in_a_stream_is_told_in_it(tmp_path: Path) -> None:
    """A task that fails behind its first output ends its stream with an error, and not as if it were whole."""
    async with web_of(tmp_path, behaviour={"step_s": 0.01}) as web:
        found: list[str] = []
        async with web.http.stream("POST", "/v1/completions", json={**ENDLESS, "stream": True}) as response:
            async for line in response.aiter_lines():
                found.append(line)
                if line.startswith("data: ") and len([each for each in found if each.startswith("data")]) == 1:
                    (task,) = [task async for task in web.kernel.list_tasks()]
                    await web.kernel.cancel_task(task.task_id)
        last = json.loads([line for line in found if line.startswith("data: ")][-1][6:])
        assert last["error"]["code"] == "TASK_CANCELLED"
        assert "data: [DONE]" not in found


async def test_texts_and_vectors(web: Web) -> None:
    """Tokens and back, and vectors as numbers, in base64, and cut."""
    told = await web.post("/tokenize", model="fake", prompt="ab", return_token_strs=True)
    assert (told["tokens"], told["count"], told["max_model_len"], told["token_strs"]) == ([97, 98], 2, 1024, ["a", "b"])
    assert (await web.post("/detokenize", model="fake", tokens=[97, 98]))["prompt"] == "ab"
    given = await web.post("/v1/embeddings", model="fake", input=["ab", "c"])
    assert [len(each["embedding"]) for each in given["data"]] == [3, 3]
    assert given["usage"] == {"prompt_tokens": 3, "total_tokens": 3}
    coded = await web.post("/v1/embeddings", model="fake", input="ab", encoding_format="base64", dimensions=2)
    assert len(coded["data"][0]["embedding"]) == 12
    status, error = await web.refused("/v1/embeddings", model="fake", input="ab", dimensions=4)
    assert (status, error["param"]) == (400, "dimensions")


async def test_ollama(web: Web) -> None:
    """Ollama's interface streams lines unless it is told not to, and says its times in nanoseconds."""
    lines = (await web.http.post("/api/chat", json={"model": "fake:latest", "messages": TALK})).text.splitlines()
    told = [json.loads(line) for line in lines]
    assert "".join(each["message"]["content"] for each in told) == "hello"
    assert told[-1]["done_reason"] == "stop"
    assert told[-1]["total_duration"] > 10_000
    whole = await web.post("/api/generate", model="fake", prompt="hi", stream=False)
    assert (whole["response"], whole["done"]) == ("hi", True)
    assert (await web.http.get("/api/tags")).json()["models"][0]["name"] == "fake"
    assert [each["name"] for each in (await web.http.get("/api/ps")).json()["models"]] == ["fake"]
    assert (await web.post("/api/show", model="fake"))["capabilities"] == ["completion"]
    assert len((await web.post("/api/embed", model="fake", input="ab"))["embeddings"][0]) == 3
    assert (await web.post("/api/pull", model="fake", stream=False)) == {"status": "success"}
    refused = await web.http.post("/api/pull", json={"model": "hf.co/owner/name"})
    assert (refused.status_code, refused.json()["code"]) == (403, "PERMISSION_DENIED")
    missing = await web.http.post("/api/chat", json={"model": "none", "messages": TALK})
    assert (missing.status_code, missing.json()["code"]) == (404, "MODEL_NOT_FOUND")
    assert (await web.post("/api/generate", model="fake"))["done_reason"] == "load"


async def test_the_trace_of_a_request_goes_on_with_its_task(web: Web) -> None:
    """A task has the `traceparent` of its request as a label, unless its metadata names another one."""
    parent, other = (f"00-{'ab' * 16}-{'cd' * 8}-0{flag}" for flag in (1, 0))
    body = {"model": "fake", "messages": TALK, "max_tokens": 2}
    for metadata in ({}, {"traceparent": other}):
        answer = await web.http.post(
            "/v1/chat/completions", json={**body, "metadata": metadata}, headers={"traceparent": parent}
        )
        assert answer.status_code == 200, answer.text
    tasks = [task async for task in web.kernel.list_tasks()]
    assert [task.labels["traceparent"] for task in tasks] == [other, parent]
