"""`/v1/files` and `/v1/batches` before a kernel in this process."""

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.responses import Response
from test_http_gateway import Web, gateway_at, web_of
from time_limits import LONG_S

from inferd.http.batch_run import Line, Lines, Run
from inferd.http.calls import Call, answer
from inferd.http_settings import Http
from inferd_api.v1.priority_pb2 import Priority
from inferd_api.v1.task_pb2 import TaskState
from inferd_client import AsyncClient


def kept(folder: Path) -> dict[str, Any]:
    """Settings of a kernel that keeps blobs."""
    return {"store": {"url": f"sqlite:{folder}/kept/store"}}


def line(number: int, text: str, **more: Any) -> str:
    body = {"model": "fake", "messages": [{"role": "user", "content": text}], **more}
    return json.dumps({"custom_id": f"c{number}", "method": "POST", "url": "/v1/chat/completions", "body": body})


async def upload(web: Web, text: str) -> str:
    """The id of a file."""
    given = await web.http.post(
        "/v1/files", data={"purpose": "batch"}, files={"file": ("asked.jsonl", text.encode(), "application/json")}
    )
    assert given.status_code == 200, given.text
    found: str = given.json()["id"]
    return found


async def until_ended(web: Web, batch_id: str, tasks: int = 0) -> dict[str, Any]:
    """A batch, once it has ended: when so many tasks have."""
    async with asyncio.timeout(LONG_S):
        ended: set[str] = set()
        while len(ended) < tasks:
            async for response in web.kernel.watch_tasks():
                ended |= {task.task_id for task in response.tasks if task.HasField("finish_time")}
                if len(ended) >= tasks:
                    break
        while True:
            batch: dict[str, Any] = (await web.http.get(f"/v1/batches/{batch_id}")).json()
            if batch["status"] not in ("validating", "in_progress", "cancelling"):
                return batch
            await asyncio.sleep(0)


async def answers(web: Web, file_id: str) -> dict[str, Any]:
    """What a file of answers says, by the ids of the requests."""
    text = (await web.http.get(f"/v1/files/{file_id}/content")).text
    return {each["custom_id"]: each["response"] for each in map(json.loads, text.splitlines())}


async def test_files(tmp_path: Path) -> None:
    """A file keeps its name and its bytes, is listed, and is gone once deleted; one with the same bytes stays."""
    async with web_of(tmp_path, kernel=kept(tmp_path)) as web:
        first, second = await upload(web, "a"), await upload(web, "a")
        assert (await web.http.get(f"/v1/files/{first}")).json()["filename"] == "asked.jsonl"
        assert [each["id"] for each in (await web.http.get("/v1/files")).json()["data"]] == [second, first]
        assert (await web.http.delete(f"/v1/files/{first}")).json()["deleted"]
        assert (await web.http.get(f"/v1/files/{second}/content")).text == "a"
        await web.kernel.delete_blob((await web.kernel.put_blob(b"a")).digest)
        lost = await web.http.get(f"/v1/files/{second}/content")
        assert (lost.status_code, lost.json()["error"]["code"]) == (404, "BLOB_NOT_FOUND")
        gone = await web.http.get(f"/v1/files/{first}")
        assert (gone.status_code, gone.json()["error"]["code"]) == (404, "BLOB_NOT_FOUND")


FORGED: list[dict[str, Any]] = [
    {"inferd.http": "file"},
    {"inferd.http": "file", "nonce": "", "filename": "x", "purpose": "x", "bytes": 1, "content": 5, "created_at": 1},
    {"inferd.http": "batch", "nonce": "", "endpoint": "/x", "input_file_id": "y", "metadata": {}, "created_at": 1},
    {"inferd.http": "batch-end"},
    {"inferd.http": "batch-end", "nonce": "", "batch": "ab" * 32, "status": {}},
    {"inferd.http": "batch-end", "nonce": "", "batch": "ab" * 32, "status": "failed", "errors": [5]},
]


async def test_blobs_that_look_like_records(tmp_path: Path) -> None:
    """Blobs of the tenant that are no whole records stop no call about files and batches, and no upload makes one."""
    async with web_of(tmp_path, kernel=kept(tmp_path)) as web:
        for each in FORGED:
            await web.kernel.put_blob(json.dumps(each).encode())
        file_id = await upload(web, line(1, "x"))
        begun = await web.post("/v1/batches", input_file_id=file_id, endpoint="/v1/chat/completions")
        assert (await until_ended(web, begun["id"]))["status"] == "completed"
        for path in ("/v1/files", "/v1/batches"):
            assert (await web.http.get(path)).status_code == 200
        end = {"inferd.http": "batch-end", "nonce": "", "batch": begun["id"][6:], "status": "failed"}
        refused = await web.http.post("/v1/files", data={"purpose": "x"}, files={"file": json.dumps(end).encode()})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "file")
        assert (await web.http.delete(f"/v1/files/{file_id}")).status_code == 200


async def test_a_batch(tmp_path: Path) -> None:
    """Each line is answered as its request would be, by a kept task of class LOW; what fails is in a file of errors."""
    async with web_of(tmp_path, kernel=kept(tmp_path)) as web:
        lines = [line(1, "one"), line(2, "two"), line(3, "three", temperature=1000)]
        asked = {"input_file_id": await upload(web, "\n".join(lines)), "endpoint": "/v1/chat/completions"}
        begun = await web.post("/v1/batches", **asked, metadata={"team": "a"})
        batch = await until_ended(web, begun["id"], 2)
        assert (batch["status"], batch["metadata"]) == ("completed", {"team": "a"})
        assert batch["request_counts"] == {"total": 3, "completed": 2, "failed": 1}
        told = await answers(web, batch["output_file_id"])
        assert {name: each["body"]["choices"][0]["message"]["content"] for name, each in told.items()} == {
            "c1": "one", "c2": "two",
        }  # fmt: skip
        failed = await answers(web, batch["error_file_id"])
        assert (failed["c3"]["status_code"], failed["c3"]["body"]["error"]["param"]) == (400, "temperature")
        tasks = [task async for task in web.kernel.list_tasks()]
        assert [task.priority for task in tasks] == [Priority.PRIORITY_LOW] * 2
        assert [each["id"] for each in (await web.http.get("/v1/batches")).json()["data"]] == [begun["id"]]


async def test_a_batch_goes_on_with_another_gateway(tmp_path: Path) -> None:
    """What a gateway leaves behind that ends, the next one goes on with, and no line is asked twice."""
    async with web_of(tmp_path, kernel=kept(tmp_path), behaviour={"step_s": 0.02}, at_once=2) as web:
        lines = "\n".join(line(number, f"line number {number}") for number in range(4))
        lines = lines.replace("messages", "input").replace("/v1/chat/completions", "/v1/responses")
        async with gateway_at(web.address, at_once=2) as url:
            first = Web(url, web.address, web.key)
            given = {"input_file_id": await upload(first, lines), "endpoint": "/v1/responses"}
            begun = await first.post("/v1/batches", **given)
            async with asyncio.timeout(LONG_S):
                async for response in web.kernel.watch_tasks():
                    if response.tasks:
                        break
            await first.http.aclose()
            await first.kernel.close()
        batch = await until_ended(web, begun["id"])
        assert batch["request_counts"] == {"total": 4, "completed": 4, "failed": 0}
        assert len([task async for task in web.kernel.list_tasks()]) == 4


async def test_a_file_that_is_no_batch(tmp_path: Path) -> None:
    """Lines that are no requests of the endpoint fail the batch before any is made, each with its number."""
    async with web_of(tmp_path, kernel=kept(tmp_path)) as web:
        text = "\n".join([line(1, "x"), line(1, "y"), "{", line(2, "z", stream=True)])
        begun = await web.post("/v1/batches", input_file_id=await upload(web, text), endpoint="/v1/chat/completions")
        batch = await until_ended(web, begun["id"])
        assert batch["status"] == "failed"
        gone = await web.http.get("/v1/batches?after=batch_gone")
        assert (gone.status_code, gone.json()["error"]["param"]) == (400, "after")
        assert [each["line"] for each in batch["errors"]["data"]] == [2, 3, 4]
        assert not [task async for task in web.kernel.list_tasks()]


async def until_running(web: Web, tasks: int) -> None:
    """Until so many tasks run."""
    async with asyncio.timeout(LONG_S):
        running: set[str] = set()
        async for response in web.kernel.watch_tasks(states=[TaskState.TASK_STATE_RUNNING]):
            running |= {task.task_id for task in response.tasks}
            if len(running) >= tasks:
                return


async def until_all_ended(web: Web) -> set[TaskState.ValueType]:
    """How the tasks have ended, once all have."""
    async with asyncio.timeout(LONG_S):
        states: dict[str, Any] = {}
        async for response in web.kernel.watch_tasks():
            states |= {task.task_id: task for task in response.tasks}
            if states and not response.more and all(task.HasField("finish_time") for task in states.values()):
                return {task.state for task in states.values()}
    raise AssertionError("the kernel tells no more")


@pytest.mark.parametrize("how", ["cancel", "its time is over"])
async def test_the_tasks_of_a_batch_end_with_it(tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a batch is cancelled, or its 24 hours are over, nothing of it goes on in the kernel."""
    endless, over = {"max_tokens": 900, "ignore_eos": True}, asyncio.Event()

    async def wait(_: object, *, timeout: float) -> None:  # noqa: ASYNC109 - as of asyncio
        assert 86_000 < timeout <= 86_400
        await over.wait()

    async with web_of(tmp_path, kernel=kept(tmp_path), behaviour={"step_s": 0.05}, at_once=2) as web:
        if how != "cancel":
            own = SimpleNamespace(**{**vars(asyncio), "wait": wait})
            monkeypatch.setattr("inferd.http.batch_run.asyncio", own)
        lines = "\n".join(line(number, "x" * 50, **endless) for number in range(4))
        begun = await web.post("/v1/batches", input_file_id=await upload(web, lines), endpoint="/v1/chat/completions")
        await until_running(web, 1)
        if how == "cancel":
            assert (await web.http.post(f"/v1/batches/{begun['id']}/cancel")).json()["status"] == "cancelling"
        else:
            over.set()
        batch = await until_ended(web, begun["id"])
        assert batch["status"] == ("cancelled" if how == "cancel" else "expired")
        assert await until_all_ended(web) == {TaskState.TASK_STATE_CANCELLED}


async def test_a_batch_is_cancelled_by_another_gateway(tmp_path: Path) -> None:
    """Whichever gateway is told to end a batch, it ends: its tasks, and that another one goes through its lines."""
    endless = {"max_tokens": 900, "ignore_eos": True}
    async with web_of(tmp_path, kernel=kept(tmp_path), behaviour={"step_s": 0.05}, at_once=2) as web:
        lines = "\n".join(line(number, "x" * 50, **endless) for number in range(6))
        begun = await web.post("/v1/batches", input_file_id=await upload(web, lines), endpoint="/v1/chat/completions")
        await until_running(web, 1)
        async with gateway_at(web.address) as url:
            other = Web(url, web.address, web.key)
            await other.http.post(f"/v1/batches/{begun['id']}/cancel")
            assert (await until_ended(other, begun["id"]))["status"] == "cancelled"
            await other.http.aclose()
            await other.kernel.close()
        assert await until_all_ended(web) == {TaskState.TASK_STATE_CANCELLED}
        assert len([task async for task in web.kernel.list_tasks()]) <= 4


async def test_a_defect_in_a_line_is_told_of_it() -> None:
    """Where the gateway fails at a line, in whatever way, that line says so, and the others are answered."""

    async def handler(call: Call) -> Any:
        if call.body["model"] == "wrong":
            raise RuntimeError("a defect")
        if call.body["model"] == "odd":
            return Response(b'{"text": "\\ud800"}')  # which no file can have
        return answer({"text": "good"})

    async def no(_: AsyncClient) -> bool:
        return False

    run = Run("ab" * 32, handler, Http(at_once=1), no)
    lines = [Line(model, json.dumps({"body": {"model": model}}).encode()) for model in ("wrong", "odd", "good")]
    async with AsyncClient("127.0.0.1:1", credential="") as client:
        await run.go(client, Lines(lines, []), until=2**40)
    assert [json.loads(each)["custom_id"] for each in run.output.splitlines()] == ["good"]
    failed = [json.loads(each) for each in run.errors.splitlines()]
    assert {each["custom_id"]: each["response"]["body"]["error"]["code"] for each in failed} == {
        "wrong": "INTERNAL", "odd": "INTERNAL",
    }  # fmt: skip


async def test_batches_of_one_tenant_leave_room_for_others(tmp_path: Path) -> None:
    """As many batches as may run at once are those of a tenant: another one's begins."""
    async with web_of(tmp_path, kernel=kept(tmp_path), behaviour={"step_s": 0.05}, batches=1) as web:
        endless = line(1, "x" * 50, max_tokens=900, ignore_eos=True)
        asked = {"input_file_id": await upload(web, endless), "endpoint": "/v1/chat/completions"}
        await web.post("/v1/batches", **asked)
        refused = await web.http.post("/v1/batches", json=asked)
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "LIMIT_EXCEEDED")
        key = (await web.kernel.create_key("other", roles=["user"], tenants=["second"])).credential
        other = Web(web.url, web.address, key)
        other.http.headers["inferd-tenant"] = "second"
        await other.post("/v1/batches", **{**asked, "input_file_id": await upload(other, endless)})
        await other.http.aclose()
        await other.kernel.close()


async def test_a_batch_whose_file_is_gone(tmp_path: Path) -> None:
    """A batch whose file was deleted has failed, and says by which file."""
    async with web_of(tmp_path, kernel=kept(tmp_path), behaviour={"step_s": 0.05}) as web:
        file_id = await upload(web, line(1, "x" * 50, max_tokens=900, ignore_eos=True))
        async with gateway_at(web.address) as url:
            other = Web(url, web.address, web.key)
            begun = await other.post("/v1/batches", input_file_id=file_id, endpoint="/v1/chat/completions")
            await until_running(web, 1)
            await other.http.aclose()
            await other.kernel.close()
        await web.http.delete(f"/v1/files/{file_id}")
        batch = await until_ended(web, begun["id"])
        assert (batch["status"], batch["errors"]["data"][0]["param"]) == ("failed", "input_file_id")
