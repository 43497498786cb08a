"""`/v1/responses` before a kernel in this process: kept, followed from any event on, continued, cancelled."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from test_http_gateway import Web, web_of
from time_limits import LONG_S


def kept(folder: Path) -> dict[str, Any]:
    """Settings of a kernel that keeps blobs."""
    return {"store": {"url": f"sqlite:{folder}/kept/store"}}


async def followed(web: Web, path: str, method: str = "GET", **body: Any) -> list[dict[str, Any]]:
    """The events of a stream."""
    async with web.http.stream(method, path, json=body or None) as response:
        assert response.status_code == 200, await response.aread()
        return [json.loads(line[6:]) async for line in response.aiter_lines() if line.startswith("data: ")]


async def until_ended(web: Web, response_id: str) -> dict[str, Any]:
    """A response, once it has ended."""
    events = await followed(web, f"/v1/responses/{response_id}?stream=true")
    found: dict[str, Any] = events[-1]["response"]
    return found


async def test_a_response_is_kept_and_gone_on_with(tmp_path: Path) -> None:
    """A response says what a chat says, can be read again, goes on with one before it, and is gone once deleted."""
    async with web_of(tmp_path, kernel=kept(tmp_path)) as web:
        made = await web.post("/v1/responses", model="fake", input="hello", instructions="be short")
        assert (made["status"], made["output"][0]["content"][0]["text"]) == ("completed", "hello")
        again = (await web.http.get(f"/v1/responses/{made['id']}")).json()
        assert {**again, "created_at": 0} == {**made, "created_at": 0}
        more = await web.post("/v1/responses", model="fake", input="more", previous_response_id=made["id"])
        asked = (await web.http.get(f"/v1/responses/{more['id']}/input_items?order=asc")).json()["data"]
        assert [(each["role"], each["content"][0]["text"]) for each in asked] == [
            ("user", "hello"), ("assistant", "hello"), ("user", "more"),
        ]  # fmt: skip
        assert (await web.http.delete(f"/v1/responses/{made['id']}")).json()["deleted"]
        gone = await web.http.get(f"/v1/responses/{made['id']}")
        assert (gone.status_code, gone.json()["error"]["code"]) == (404, "TASK_NOT_FOUND")
        unkept = await web.post("/v1/responses", model="fake", input="x", store=False)
        assert (await web.http.get(f"/v1/responses/{unkept['id']}")).status_code == 404


async def test_a_stream_can_be_taken_up_at_any_event(tmp_path: Path) -> None:
    """Behind every event of a stream, and in the middle of each delta, the rest is told once; numbers only rise."""
    async with web_of(tmp_path, kernel=kept(tmp_path)) as web:
        asked = {"model": "fake", "input": "hello you", "stream": True}
        events = await followed(web, "/v1/responses", "POST", **asked)
        names = [each["type"].removeprefix("response.") for each in events]
        assert names[:4] == ["created", "in_progress", "output_item.added", "content_part.added"]
        assert names[-4:] == ["output_text.done", "content_part.done", "output_item.done", "completed"]
        numbers = [each["sequence_number"] for each in events]
        assert numbers == sorted(set(numbers))
        path = f"/v1/responses/{events[0]['response']['id']}?stream=true"
        for after in range(numbers[-1]):
            rest = await followed(web, f"{path}&starting_after={after}")
            assert rest[-1]["response"]["output"] == events[-1]["response"]["output"]
            assert all(each["sequence_number"] > after for each in rest)
            told = "".join(each["delta"] for each in rest if each["type"].endswith("text.delta"))
            assert told == "hello you"[max(0, after - 3) :]
        (last,) = await followed(web, f"{path}&starting_after={numbers[-1]}")
        assert (last["type"], last["sequence_number"]) == ("response.completed", numbers[-1])


async def test_in_the_background(tmp_path: Path) -> None:
    """A response in the background is told as it stands, outlives who made it, and ends where it is cancelled."""
    async with web_of(tmp_path, behaviour={"step_s": 0.01}, kernel=kept(tmp_path)) as web:
        made = await web.post("/v1/responses", model="fake", input="hello", background=True)
        assert made["status"] in ("queued", "in_progress")
        assert (await until_ended(web, made["id"]))["output"][0]["content"][0]["text"] == "hello"
        endless = {"model": "fake", "input": "x" * 100, "min_tokens": 900, "max_output_tokens": 900, "ignore_eos": True}
        running = await web.post("/v1/responses", **endless, background=True)
        async with asyncio.timeout(LONG_S):
            cancelled = (await web.http.post(f"/v1/responses/{running['id']}/cancel")).json()
        assert (cancelled["status"], cancelled["error"]["code"]) == ("cancelled", "TASK_CANCELLED")
        wrong = await web.http.post(
            "/v1/responses", json={"model": "fake", "input": "x", "background": True, "store": False}
        )
        assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "store")


async def test_a_kernel_that_keeps_nothing(tmp_path: Path) -> None:
    """Where the kernel keeps no blobs, a response says that it is not stored; who asks for that is refused."""
    async with web_of(tmp_path) as web:
        made = await web.post("/v1/responses", model="fake", input="hello")
        assert (made["status"], made["store"]) == ("completed", False)
        refused = await web.http.post("/v1/responses", json={"model": "fake", "input": "hello", "store": True})
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "STORE_UNAVAILABLE")


@pytest.mark.parametrize("how", [{}, {"stream": True}, {"background": True}])
async def test_a_response_that_is_refused(tmp_path: Path, how: dict[str, Any]) -> None:
    """Where there is no task, nothing stays of what it was asked."""
    async with web_of(tmp_path, kernel=kept(tmp_path)) as web:
        status, error = await web.refused("/v1/responses", model="none", input="x", **how)
        assert (status, error["code"]) == (404, "MODEL_NOT_FOUND")
        assert not [blob async for blob in web.kernel.list_blobs()]


async def test_marks_that_are_the_gateways(tmp_path: Path) -> None:
    """Nobody gives a task the marks of responses by metadata; one that has them and no response's blob is none."""
    async with web_of(tmp_path, kernel=kept(tmp_path)) as web:
        blob = await web.kernel.put_blob(b'{"a": 1}')
        status, error = await web.refused(
            "/v1/responses", model="fake", input="x", metadata={"openai.response": blob.digest}
        )
        assert (status, error["param"]) == (400, "metadata")
        task = await web.kernel.create_task("fake", "x", labels={"openai.response": blob.digest})
        assert (await web.http.get(f"/v1/responses/resp_{task.task_id}")).status_code == 404
