"""Callers of the HTTP gateway that do not keep to the rules of sockets: each costs what its bound says, and ends."""

import asyncio
import json
import socket
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from test_http_gateway import ENDLESS, Web, ended, web_of
from time_limits import LONG_S

from inferd_api.v1.task_pb2 import TaskState


async def opened(web: Web) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    parts = urlsplit(web.url)
    return await asyncio.open_connection(parts.hostname, parts.port, limit=1024)


async def is_closed(reader: asyncio.StreamReader) -> bool:
    """Whether the other side closes the connection."""
    async with asyncio.timeout(LONG_S):
        try:
            while await reader.read(65536):
                pass
        except ConnectionResetError:
            return True
    return True


async def test_a_key_that_is_unknown(tmp_path: Path) -> None:
    """Who has no key that the kernel knows is told so before anything of the body is waited for."""
    async with web_of(tmp_path) as web:
        reader, writer = await opened(web)
        head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer wrong\r\n"
        writer.write(f"{head}Content-Length: 1000000\r\n\r\n".encode())
        async with asyncio.timeout(LONG_S):
            assert b" 401 " in await reader.readline()
        writer.close()


async def test_heads_as_nobody_means_them(tmp_path: Path) -> None:
    """Whatever a head says, it is answered with what is wrong, and is no defect."""
    async with web_of(tmp_path, kernel={"store": {"url": f"sqlite:{tmp_path}/kept/store"}}) as web:
        for path, headers, status, param in (
            ("/v1/models", {"Inferd-Tenant": "é"}, 400, "Inferd-Tenant"),
            ("/v1/models", {"Authorization": "Bearer é"}, 401, None),
            ("/v1/models", {"Origin": "http://["}, 403, None),
            ("/v1/files?limit=" + "9" * 5000, {}, 400, "limit"),
            ("/v1/files?limit=%D9%A3", {}, 400, "limit"),
            ("/v1/models/%ED%A0%80", {}, 404, "model"),
        ):
            raw = {name: value.encode("latin-1") for name, value in headers.items()}
            told = await web.http.get(path, headers=raw)
            assert told.status_code == status, path
            assert told.json()["error"]["param"] == param


@pytest.mark.parametrize("sent", [b"", b"GET /health HTTP/1.1\r\nHost: local"])
async def test_a_head_that_does_not_come(tmp_path: Path, sent: bytes) -> None:
    """A connection that sends no head, or half of one, is closed when its time is over."""
    async with web_of(tmp_path, head_s=0.1) as web:
        reader, writer = await opened(web)
        writer.write(sent)
        assert await is_closed(reader)
        writer.close()


async def test_more_connections_than_may_be(tmp_path: Path) -> None:
    """One more than may be open is closed as it comes, and those that are there go on."""
    async with web_of(tmp_path, connections=1) as web:
        reader, writer = await opened(web)
        late, later = await opened(web)
        assert await is_closed(late)
        writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert b"200" in await reader.readline()
        for each in (writer, later):
            each.close()


async def test_who_takes_nothing_is_left(tmp_path: Path) -> None:
    """A caller that does not read for as long as that is waited for is left, and its task is cancelled."""
    small = {"stalled_s": 0.2, "waiting_bytes": 1024, "send_bytes": 4096}
    async with web_of(tmp_path, behaviour={"step_s": 0.005}, **small) as web:
        body = json.dumps({**ENDLESS, "stream": True, "logprobs": 20}).encode()
        with socket.socket() as plug:
            plug.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            plug.connect((urlsplit(web.url).hostname, urlsplit(web.url).port))
            head = (
                f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {web.key}\r\n"
                f"Content-Length: {len(body)}\r\n\r\n"
            )
            plug.sendall(head.encode() + body)
            assert await ended(web) == TaskState.TASK_STATE_CANCELLED


async def test_too_many_requests_at_once(tmp_path: Path) -> None:
    """One more than are answered at once is told to come again; silence is told by comments meanwhile."""
    async with web_of(tmp_path, behaviour={"load_s": 1.0}, requests=1, status_s=0.0, ping_s=0.05) as web:
        asked = {"model": "fake", "prompt": "ab", "max_tokens": 4, "stream": True}
        async with web.http.stream("POST", "/v1/completions", json=asked) as response:
            lines = response.aiter_lines()
            async for line in lines:
                if line == ": ping":
                    break
            refused = await web.http.get("/v1/models")
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "LIMIT_EXCEEDED")
            assert refused.headers["retry-after"] == "1"
            assert "data: [DONE]" in [line async for line in lines]
