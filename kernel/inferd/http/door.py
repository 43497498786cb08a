"""The one door of the gateway: by which name, from which page and how many may call; errors in one shape."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import structlog
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import Response

from inferd.http.calls import GoneError
from inferd.http.problems import INTERNAL, Problem, Refusal, problem_of

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from inferd.http_settings import Http

OLLAMA: Final = "/api/"
"""What the paths of Ollama's interface begin with."""
LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})
PREFLIGHT_S: Final = 600  # how long a browser may remember what it was allowed
KNOWN: Final = (
    *("/chat/completions", "/completions", "/embeddings", "/responses", "/models", "/files", "/batches", "/rerank"),
    *("/audio/transcriptions", "/audio/translations"),
)
"""What there is behind /v1."""
FOREIGN: Final = frozenset({"cross-site", "same-site"})
"""What browsers say of a call of a page of another site, such as that for an image, where they name no origin."""
CODES: Final = {404: "NOT_FOUND", 405: "METHOD_NOT_ALLOWED"}

log = structlog.get_logger()


class Door:
    """Lets requests in; an ASGI application around another.

    Args:
        app: What answers those that come in.
        settings: Of the gateway.
        names: By which it may be called: names of hosts, without ports.
    """

    def __init__(self, app: ASGIApp, settings: Http, names: frozenset[str]) -> None:
        self._app = app
        self._settings = settings
        self._names = names
        self._open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        if scope["type"] != "http":
            return
        headers = Headers(scope=scope)
        origin = headers.get("origin", "")
        started = False

        async def sending(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                if origin in self._settings.origins:
                    message["headers"] = [*message["headers"], *_allowed(origin)]
            await send(message)

        self._open += 1
        try:
            self._check(scope["method"], headers, origin)
            if scope["method"] == "OPTIONS" and origin:
                await _preflight(headers)(scope, receive, sending)
            else:
                await self._app({**scope, "app": self}, receive, sending)
        except GoneError:
            return
        except Exception as error:
            if started or not _is_told(error):
                log.exception("a request of the gateway failed")
            if started:
                raise
            await _told(scope["path"], error)(scope, receive, sending)
        finally:
            self._open -= 1

    def _check(self, method: str, headers: Headers, origin: str) -> None:
        """Refuse who may not come in.

        Raises:
            Refusal: The name that it calls by is none of ours, its page is none that may, or there are too many.
        """
        if self._open > self._settings.requests:
            raise Refusal(
                f"{self._settings.requests} requests are answered at once, as many as may (http.requests)",
                status=503,
                code="LIMIT_EXCEEDED",
                retry_after_s=1,
            )
        called = self._called(headers)
        for name in map(_host, called):
            if name not in self._names:
                raise Refusal(
                    f"the gateway is not called {name!r}: a page of another site may be behind this; whoever runs it "
                    "can allow the name by http.hosts",
                    status=421,
                    code="HOST_NOT_ALLOWED",
                )
        if origin and origin not in self._settings.origins and origin.partition("://")[2] not in called:
            raise Refusal(
                f"pages of {origin} may not call the gateway; whoever runs it can allow them by http.origins",
                status=403,
                code="ORIGIN_NOT_ALLOWED",
            )
        if not origin and headers.get("sec-fetch-site") in FOREIGN and not _is_followed(method, headers):
            raise Refusal(
                "a page of another site may not call the gateway; whoever runs it can allow it by http.origins, and it "
                "has to ask by CORS then",
                status=403,
                code="ORIGIN_NOT_ALLOWED",
            )

    def _called(self, headers: Headers) -> list[str]:
        """By which names it is called, each with its port: by the caller, and before that by that of its proxy."""
        called = [headers.get("host", "")]
        if self._settings.behind_proxy and (told := headers.getlist("x-forwarded-host")):
            called.append(told[-1].rpartition(",")[2].strip())  # by the nearest one: all before it anyone may write
        return called


def _is_followed(method: str, headers: Headers) -> bool:
    """Whether somebody follows a link to here: what comes is shown in place of the other page, and not within it."""
    mode, shown_as = headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest")
    return method in ("GET", "HEAD") and mode == "navigate" and shown_as == "document"


def _host(text: str) -> str:
    """The name in a header `Host`, without its port."""
    if text.startswith("["):
        return text[1:].partition("]")[0].lower()
    return text.partition(":")[0].lower().rstrip(".")


def _allowed(origin: str) -> list[tuple[bytes, bytes]]:
    return [
        (b"access-control-allow-origin", origin.encode("latin-1")),
        (b"access-control-expose-headers", b"retry-after"),
        (b"vary", b"origin"),
    ]


def _preflight(headers: Headers) -> ASGIApp:
    asked = headers.get("access-control-request-headers", "")
    return Response(
        status_code=204,
        headers={
            "access-control-allow-methods": "GET, POST, DELETE",
            "access-control-allow-headers": asked or "authorization, content-type",
            "access-control-max-age": str(PREFLIGHT_S),
        },
    )


def _nothing_at(path: str) -> str:
    """That there is nothing, and what is likely meant: the base of a URL is often given with too little, or twice."""
    known = next((known for known in KNOWN if path.rstrip("/").endswith(known)), "")
    return f"there is nothing at {path}" + (
        f"; did you mean /v1{known}? The base of the URL ends in /v1" if known else ""
    )


def _is_told(error: Exception) -> bool:
    return isinstance(error, HTTPException) or problem_of(error) is not None


def _told(path: str, error: Exception) -> ASGIApp:
    """The answer that tells of an error."""
    if isinstance(error, HTTPException):
        what = _nothing_at(path) if error.status_code == 404 else error.detail  # noqa: PLR2004
        code = CODES.get(error.status_code, "INVALID_FIELD")
        problem = Problem(message=what, status=error.status_code, code=code)
    else:
        problem = problem_of(error) or INTERNAL
    body: Any = problem.ollama if path.startswith(OLLAMA) else problem.openai
    told = json.dumps(body)  # in ASCII: nothing that it tells of can make this fail
    return Response(told, status_code=problem.status, headers=problem.headers, media_type="application/json")
