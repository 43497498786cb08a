"""What one caller of the HTTP gateway costs the others: little, whoever it is."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

import pytest
from starlette.types import ASGIApp
from structlog.testing import capture_logs
from test_http_bounds import opened
from test_http_gateway import Web, web_of
from time_limits import LONG_S

from inferd.http import incoming
from inferd.http.calls import Call, Endpoint, GoneError
from inferd.http.clients import Clients
from inferd.http.fields import shown
from inferd.http.problems import Refusal
from inferd.http_settings import Http
from inferd_client import AsyncClient

FORM = "Multipart/Form-Data; boundary=B"
BEGUN = b'--B\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'


def head(web: Web, path: str, size_bytes: int, *, key: str = "", kind: str = "application/json") -> bytes:
    return (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key or web.key}\r\n"
        f"Content-Type: {kind}\r\nContent-Length: {size_bytes}\r\n\r\n"
    ).encode()


async def status_of(reader: asyncio.StreamReader) -> int:
    async with asyncio.timeout(LONG_S):
        return int((await reader.readline()).split(b" ")[1])


async def test_a_body_of_many_values(tmp_path: Path) -> None:
    """A body with more values than may be is refused before they are read; texts may have marks as they like."""
    async with web_of(tmp_path, body_values=1000) as web:
        refused = await web.refused("/v1/completions", model="fake", prompt=[[1]] * 1000)
        assert (refused[0], refused[1]["code"]) == (413, "LIMIT_EXCEEDED")
        assert "1000 values" in refused[1]["message"]
        asked = '[{,\\":' * 3000
        assert (await web.post("/tokenize", model="fake", prompt=asked))["count"] == len(asked)
        wide = ('{"model":"fake","prompt":[' + "[1]," * 999 + "[1]]}").encode("utf-16")
        given = await web.http.post("/v1/completions", content=wide)
        assert (given.status_code, "UTF-8" in given.text) == (400, True)


def test_millions_of_texts_are_counted_some_at_a_time() -> None:
    """Texts are taken out of a body some at a time, whatever they are made of, and what is between them is counted."""
    body = b'{"a":[' + rb'"\\",' * 3000 + rb'"\",:[{"]}'
    assert len(incoming.SOME_TEXTS.match(body)[0]) < len(body) / 2  # type: ignore[index]
    incoming.check_marks(body, 3003)  # one for each comma, the colon, and two brackets
    with pytest.raises(Refusal, match="more than 3002 values"):
        incoming.check_marks(body, 3002)
    incoming.check_marks(b'{"' + rb"\"," * 3000, 10)  # has no end


async def test_a_large_body_is_read_beside_the_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a large body is read, others are answered."""
    going, may, read = asyncio.Event(), threading.Event(), incoming.parse
    loop = asyncio.get_running_loop()

    def slowly(*given: Any, **more: Any) -> Any:
        loop.call_soon_threadsafe(going.set)
        assert may.wait(LONG_S)
        return read(*given, **more)

    async with web_of(tmp_path) as web:
        monkeypatch.setattr(incoming, "parse", slowly)
        asking = asyncio.create_task(web.post("/tokenize", model="fake", prompt="a" * 100_000))
        await asyncio.wait_for(going.wait(), LONG_S)
        assert (await web.http.get("/health")).status_code == 200
        may.set()
        assert (await asking)["count"] == 100_000


@pytest.mark.parametrize("value", ["x" * 10_000_000, [{"a": ["x" * 1000]}] * 100_000])
def test_what_is_refused_is_told_short(value: Any) -> None:
    """A large value is told by its begin, and only that is written."""
    assert len(shown(value)) == 80


@pytest.mark.parametrize(("path", "kind"), [("/v1/completions", "application/json"), ("/v1/files", FORM)])
async def test_a_body_that_stops_coming(tmp_path: Path, path: str, kind: str) -> None:
    """A body of which nothing comes any more is given up long before the time for a whole one is over."""
    async with web_of(tmp_path, body_silent_s=0.05) as web:
        reader, writer = await opened(web)
        writer.write(head(web, path, 1000, kind=kind) + BEGUN)
        assert await status_of(reader) == 408
        writer.close()


async def test_bodies_have_a_bound_over_all(tmp_path: Path) -> None:
    """Bodies that are under way hold no more bytes than all may; they are free again once a caller leaves."""
    async with web_of(tmp_path, bodies_bytes=4096) as web:
        assert await web.post("/tokenize", model="fake", prompt="a" * 3000)
        _, writer = await opened(web)
        writer.write(head(web, "/v1/files", 100_000, kind=FORM) + BEGUN + b"a" * 3000)
        async with asyncio.timeout(LONG_S):
            while (given := await web.http.post("/tokenize", json={"model": "fake", "prompt": "a" * 3000})).is_success:
                pass
        assert (given.status_code, given.headers["retry-after"]) == (503, "1")
        assert "http.bodies_bytes" in given.json()["error"]["message"]
        with capture_logs() as logs:
            writer.close()
            async with asyncio.timeout(LONG_S):
                while not (await web.http.post("/tokenize", json={"model": "fake", "prompt": "a" * 3000})).is_success:
                    pass
        assert not logs


async def test_one_key_has_a_part_of_the_bytes(tmp_path: Path) -> None:
    """One key's bodies hold no more than a part of them, so that others' are read meanwhile."""
    async with web_of(tmp_path, key_bodies_bytes=2048) as web:
        refused = await web.refused("/tokenize", model="fake", prompt="a" * 3000)
        assert refused[0] == 503
        assert "http.key_bodies_bytes" in refused[1]["message"]


async def test_who_leaves_an_upload_leaves_its_work() -> None:
    """What an upload asked for is given up where its caller does not wait for it."""
    begun, cancelled = asyncio.Event(), asyncio.Event()

    async def work(_: Call) -> ASGIApp:
        try:
            begun.set()
            return await asyncio.Future()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    class Known:
        @asynccontextmanager
        async def of(self, _: Any) -> AsyncIterator[None]:
            yield

    async def send(_: Any) -> None: ...

    coming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    coming.put_nowait({"type": "http.request", "body": BEGUN + b"a\r\n--B--\r\n"})
    settings = Http()
    endpoint = Endpoint(work, cast("Clients", Known()), incoming.Bodies(settings), settings, upload=True)
    scope = {"type": "http", "method": "POST", "headers": [(b"content-type", FORM.encode())], "query_string": b""}
    asking = asyncio.create_task(endpoint(scope, coming.get, send))
    async with asyncio.timeout(LONG_S):
        await begun.wait()
        coming.put_nowait({"type": "http.disconnect"})
        await cancelled.wait()
        with pytest.raises(GoneError):
            await asking


async def test_keys_that_are_unknown_shut_out_nobody(tmp_path: Path) -> None:
    """Callers with keys that are none take no connection of those that are known, however slow their bodies are."""
    async with web_of(tmp_path, clients=1, judged=2) as web:
        assert (await web.http.get("/v1/models")).status_code == 200
        with patch.object(Clients, "_close", autospec=True, side_effect=Clients._close) as closing:
            callers = [await opened(web) for _ in range(8)]
            for number, (_, writer) in enumerate(callers):
                writer.write(head(web, "/v1/completions", 100, key=f"bogus{number}"))
            assert {await status_of(reader) for reader, _ in callers} == {401}
            assert (await web.http.get("/v1/models")).status_code == 200
            known = [given.args[1].client for given in closing.call_args_list]
        assert len(set(known)) == 8
        for _, writer in callers:
            writer.close()


async def test_a_key_waits_for_its_turn_for_a_while_only(tmp_path: Path) -> None:
    """Where the kernel does not say in time whether it knows a key, its request is refused, and known ones go on."""

    async def silent(_: AsyncClient) -> None:
        await asyncio.Future()

    async with web_of(tmp_path, judged=1, judge_s=0.1) as web:
        assert (await web.http.get("/v1/models")).status_code == 200
        with patch.object(AsyncClient, "whoami", silent):
            given = await web.http.get("/v1/models", headers={"authorization": "Bearer other"})
            assert (given.status_code, "http.judge_s" in given.text) == (503, True)
            assert (await web.http.get("/v1/models")).status_code == 200
