"""The files of the dashboard: read once, sent with headers under which a page can run nothing but these."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response

if TYPE_CHECKING:
    from starlette.requests import Request

FOLDER: Final = Path(__file__).parent / "static"
ROOT: Final = "/dashboard/"
MEDIA: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
"""What a page may do: run and call what the gateway serves; no text of a model or a name becomes a script."""
HEADERS: Final = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-cache",  # a browser asks each time whether its copy is still the one
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    body: bytes
    media: str
    etag: str


class Pages:
    """The files by their names; nothing else can be asked for."""

    def __init__(self) -> None:
        self._files = {path.name: _read(path) for path in sorted(FOLDER.iterdir()) if path.suffix in MEDIA}

    async def file(self, request: Request) -> Response:
        """One of them, or that the browser's copy is still the one."""
        name = request.path_params.get("name") or "index.html"
        file = self._files.get(name)
        if file is None:
            raise HTTPException(404)
        headers = {**HEADERS, "etag": file.etag}
        if file.etag in (each.strip() for each in request.headers.get("if-none-match", "").split(",")):
            return Response(status_code=304, headers=headers)
        return Response(file.body, media_type=file.media, headers=headers)


async def redirect(_: Request) -> Response:
    """To where the page is: its files are named beside it."""
    return RedirectResponse(ROOT, status_code=307)


def is_browser(request: Request) -> bool:
    """Whether somebody looks at it, and no program that asks what is here."""
    return "text/html" in request.headers.get("accept", "")


def _read(path: Path) -> _File:
    body = path.read_bytes()
    return _File(body=body, media=MEDIA[path.suffix], etag=f'"{hashlib.sha256(body).hexdigest()[:32]}"')
