"""A web server with TLS and an authority of its own, on the loopback, and what it was asked."""

import http.server
import json
import re
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tls_kernel import Certs


class Web(http.server.ThreadingHTTPServer):
    """Serves files by path.

    Attributes:
        files: By path.
        pages: Lists in JSON by path.
        redirects: Paths to URLs.
        cut_after: The body of the next answer is cut behind so many bytes.
        stall_after: A body stands still behind so many bytes, until `go` is set; None for none.
        stalled: Set when one stands still.
        said_bytes: What is said to be the length of a body, in place of what it is.
        asked: The path and the range of each request.
    """

    daemon_threads = True

    def __init__(self, certs: Certs) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certs.folder / "kernel.pem", certs.folder / "kernel.key")
        self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
        self.ca_file = certs.ca_file
        self.files: dict[str, bytes] = {}
        self.pages: dict[str, Any] = {}
        self.redirects: dict[str, str] = {}
        self.cut_after: int | None = None
        self.stall_after: int | None = None
        self.said_bytes: int | None = None
        self.stalled, self.go = threading.Event(), threading.Event()
        self.asked: list[tuple[str, str]] = []

    def handle_error(self, *_: Any) -> None:
        """Clients that go away are part of the tests."""

    @property
    def host(self) -> str:
        return f"localhost:{self.server_port}"

    def url(self, path: str) -> str:
        return f"https://{self.host}{path}"

    def settings(self, **more: Any) -> dict[str, Any]:
        """Of a kernel that may fetch from here."""
        return {"hosts": [self.host], "networks": ["127.0.0.0/8", "::1/128"], "ca_file": str(self.ca_file), **more}


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Web

    def log_message(self, *_: Any) -> None:
        """Tests read what they need from `Web.asked`."""

    def do_GET(self) -> None:
        web, given = self.server, self.headers.get("Range", "")
        web.asked.append((self.path, given))
        if self.path in web.redirects:
            self._answer(302, b"", Location=web.redirects[self.path])
        elif self.path in web.pages:
            self._answer(200, json.dumps(web.pages[self.path]).encode())
        elif (body := web.files.get(self.path)) is None:
            self._answer(404, b"")
        elif found := re.fullmatch(r"bytes=(\d+)-", given):
            start, size = int(found[1]), len(body)
            self._answer(206, body[start:], ETag='"1"', **{"Content-Range": f"bytes {start}-{size - 1}/{size}"})
        else:
            self._answer(200, body, ETag='"1"')

    def _answer(self, status: int, body: bytes, **headers: str) -> None:
        web, self.close_connection = self.server, True
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(web.said_bytes or len(body)))
        self.end_headers()
        cut, web.cut_after = web.cut_after, None
        if cut is not None:
            body = body[:cut]
        if web.stall_after is not None and len(body) > web.stall_after:
            self.wfile.write(body[: web.stall_after])
            self.wfile.flush()
            web.stalled.set()
            web.go.wait(120)
            body = body[web.stall_after :]
        self.wfile.write(body)


@contextmanager
def served(folder: Path) -> Iterator[Web]:
    """A web server until the block ends."""
    certs = Certs(folder)
    certs.server()
    web = Web(certs)
    thread = threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield web
    finally:
        web.go.set()
        web.shutdown()
        web.server_close()
        thread.join()
