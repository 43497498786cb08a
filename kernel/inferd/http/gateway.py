"""The gateway as one ASGI application: what is where."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.routing import Route, Router

from inferd.http import ollama, ollama_models
from inferd.http.audio import transcribe, translate
from inferd.http.batches import Batches
from inferd.http.calls import Endpoint, Handler
from inferd.http.chat import Chat
from inferd.http.clients import Clients
from inferd.http.completions import Completions
from inferd.http.dashboard.calls import Calls
from inferd.http.dashboard.feeds import Feeds
from inferd.http.dashboard.pages import Pages, is_browser, redirect
from inferd.http.door import LOOPBACK, Door
from inferd.http.embeddings import embed, rerank
from inferd.http.files import Files
from inferd.http.incoming import Bodies
from inferd.http.models import get_model, list_models
from inferd.http.records import Records
from inferd.http.responses import Responses
from inferd.http.speech import Speeches
from inferd.http.token_texts import Remembered
from inferd.http.tokens import Tokens
from inferd.http.vector_stores import VectorStores

if TYPE_CHECKING:
    from collections.abc import Iterable

    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import ASGIApp, Receive, Scope, Send

    from inferd.http_settings import Http
    from inferd_client import AsyncClient


class Gateway:
    """All of it.

    Args:
        settings: Of the gateway.
        address: Of the kernel; "" for the one that is found.
        keyless: What calls without a key are made with; "" where they are refused.

    Attributes:
        app: What a server of ASGI is given.
    """

    def __init__(self, settings: Http, *, address: str = "", keyless: str = "") -> None:
        self._settings = settings
        remembered = Remembered(settings.token_texts, settings.writings)
        where = address or settings.address
        speeches = Speeches(remembered, settings.tool_formats, settings.held_chars)

        def forget(client: AsyncClient) -> None:
            remembered.forget(client)
            speeches.forget(client)

        self._clients = Clients(where, settings, keyless=keyless, closed=forget)
        self._bodies = Bodies(settings)
        talk = ollama.Talk(remembered, speeches)
        tokens, responses = Tokens(remembered), Responses(remembered, speeches)
        records, chat, completions = Records(), Chat(remembered, speeches), Completions(remembered)
        batched: dict[str, Handler] = {
            "/v1/chat/completions": chat,
            "/v1/completions": completions,
            "/v1/embeddings": embed,
            "/v1/responses": responses.create,
        }
        self._feeds = Feeds(self._clients, settings.dashboard)
        self._batches = Batches(records, Files(records), batched, self._clients, settings)
        routes = [
            Route("/health", _health, methods=["GET"]),
            self._route("/v1/models", list_models, "GET"),
            self._route("/v1/models/{name:path}", get_model, "GET"),
            self._route("/v1/chat/completions", chat, "POST"),
            self._route("/v1/completions", completions, "POST"),
            self._route("/v1/embeddings", embed, "POST"),
            *(self._route(path, rerank, "POST") for path in ("/v1/rerank", "/v2/rerank", "/rerank")),
            self._route("/v1/responses", responses.create, "POST"),
            self._route("/v1/responses/{id}", responses.get, "GET"),
            self._route("/v1/responses/{id}", responses.delete, "DELETE"),
            self._route("/v1/responses/{id}/cancel", responses.cancel, "POST"),
            self._route("/v1/responses/{id}/input_items", responses.items, "GET"),
            *self._of_files(Files(records)),
            *self._of_batches(self._batches),
            *self._of_stores(VectorStores(Files(records), settings.embedding_model)),
            self._route("/tokenize", tokens.tokenize, "POST"),
            self._route("/detokenize", tokens.detokenize, "POST"),
            self._upload("/v1/audio/transcriptions", transcribe),
            self._upload("/v1/audio/translations", translate),
            Route("/", partial(_root, dashboard=settings.dashboard.enabled), methods=["GET"]),
            *(self._of_dashboard() if settings.dashboard.enabled else ()),
            Route("/api/version", ollama_models.version, methods=["GET"]),
            self._route("/api/chat", talk.chat, "POST"),
            self._route("/api/generate", talk.generate, "POST"),
            self._route("/api/embed", ollama.embed, "POST"),
            self._route("/api/embeddings", ollama.embeddings, "POST"),
            self._route("/api/tags", ollama_models.tags, "GET"),
            self._route("/api/ps", ollama_models.ps, "GET"),
            self._route("/api/show", partial(ollama_models.show, speeches=speeches), "POST"),
            self._route("/api/pull", ollama_models.pull, "POST"),
            self._route("/api/delete", ollama_models.delete, "DELETE"),
        ]
        router = Router(routes, redirect_slashes=False, default=_nothing)
        self.app: ASGIApp = Door(router, settings, names_of(settings))

    def _endpoint(self, handler: Handler, *, upload: bool = False) -> Endpoint:
        return Endpoint(handler, self._clients, self._bodies, self._settings, upload=upload)

    def _route(self, path: str, handler: Handler, *methods: str) -> Route:
        return Route(path, self._endpoint(handler), methods=list(methods))

    def _upload(self, path: str, handler: Handler) -> Route:
        return Route(path, self._endpoint(handler, upload=True), methods=["POST"])

    def _of_files(self, files: Files) -> list[Route]:
        return [
            self._upload("/v1/files", files.create),
            self._route("/v1/files", files.list, "GET"),
            self._route("/v1/files/{id}", files.get, "GET"),
            self._route("/v1/files/{id}", files.delete, "DELETE"),
            self._route("/v1/files/{id}/content", files.content, "GET"),
        ]

    def _of_batches(self, batches: Batches) -> list[Route]:
        return [
            self._route("/v1/batches", batches.create, "POST"),
            self._route("/v1/batches", batches.list, "GET"),
            self._route("/v1/batches/{id}", batches.get, "GET"),
            self._route("/v1/batches/{id}/cancel", batches.cancel, "POST"),
        ]

    def _of_stores(self, stores: VectorStores) -> list[Route]:
        one, file = "/v1/vector_stores/{id}", "/v1/vector_stores/{id}/files/{file_id:path}"
        return [
            self._route("/v1/vector_stores", stores.create, "POST"),
            self._route("/v1/vector_stores", stores.list, "GET"),
            self._route(one, stores.get, "GET"),
            self._route(one, stores.change, "POST"),
            self._route(one, stores.delete, "DELETE"),
            self._route(f"{one}/search", stores.search, "POST"),
            self._route(f"{one}/files", stores.add_file, "POST"),
            self._route(f"{one}/files", stores.list_files, "GET"),
            self._route(f"{file}/content", stores.read_file, "GET"),
            self._route(file, stores.get_file, "GET"),
            self._route(file, stores.add_file, "POST"),
            self._route(file, stores.remove_file, "DELETE"),
        ]

    def _of_dashboard(self) -> list[Route]:
        calls, pages = Calls(self._feeds, self._settings.dashboard), Pages()
        return [
            Route("/dashboard", redirect, methods=["GET"]),
            self._route("/dashboard/events", calls.events, "GET"),
            self._route("/dashboard/history", calls.history, "GET"),
            self._route("/dashboard/tasks/{id}/text", calls.text, "GET"),
            self._route("/dashboard/load", calls.load, "POST"),
            self._route("/dashboard/unload", calls.unload, "POST"),
            self._route("/dashboard/cancel", calls.cancel, "POST"),
            Route("/dashboard/{name:path}", pages.file, methods=["GET"]),
        ]

    async def close(self) -> None:
        """Leave batches and dashboards, and close all connections to the kernel."""
        await self._batches.close()
        await self._feeds.close()
        await self._clients.close()
        self._bodies.close()


async def _root(request: Request, *, dashboard: bool) -> Response:
    """The dashboard for who looks, and what programs of Ollama look for."""
    return await (redirect if dashboard and is_browser(request) else ollama_models.running)(request)


async def _health(_: Request) -> Response:
    """That the gateway answers; whether the kernel does is told by each call."""
    return JSONResponse({"status": "ok"})


async def _nothing(_: Scope, __: Receive, ___: Send) -> None:
    raise HTTPException(404)


def names_of(settings: Http) -> frozenset[str]:
    """The names by which the gateway may be called."""
    host = settings.listen.rpartition(":")[0].strip("[]").lower()
    given: Iterable[str] = (each.strip("[]").lower() for each in settings.hosts)
    return LOOPBACK | {host} | set(given)
