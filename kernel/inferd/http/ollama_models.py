"""Ollama's interface to models: `/api/tags`, `ps`, `show`, `pull`, `delete` and `version`."""

from __future__ import annotations

import asyncio
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Any, Final

from starlette.responses import PlainTextResponse, Response

from inferd import __version__
from inferd.http.calls import answer
from inferd.http.fields import check_fields, take
from inferd.http.models import offered
from inferd.http.ollama import encoded, now, write_error
from inferd.http.ollama_fields import read_model
from inferd.http.problems import Refusal
from inferd.http.streams import NDJSON, Streamed, dumps
from inferd_api.v1.model_pb2 import InstanceState
from inferd_client.errors import ModelNotFoundError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from starlette.requests import Request
    from starlette.types import ASGIApp

    from inferd.http.calls import Call
    from inferd.http.speech import Speeches
    from inferd_api.v1.model_pb2 import Instance, Model
    from inferd_client import AsyncClient

LEVEL: Final = "0.9.0"
"""The version of Ollama whose interface this is: programs look at it for what they may ask."""
HUBS: Final = ("hf.co/", "huggingface.co/")
SOURCES: Final = ("hub:", "package:", "https://")
REFUSED_S: Final = 0.5  # within which the kernel refuses what may not be fetched
LOOK_S: Final = 0.5  # between two looks at how far fetching is
NEVER: Final = "0001-01-01T00:00:00Z"


async def version(_: Request) -> Response:
    """Which interface this is."""
    return Response(dumps({"version": LEVEL, "inferd": __version__}), media_type="application/json")


async def running(_: Request) -> Response:
    """What programs look for at the root."""
    return PlainTextResponse("Ollama is running")


async def tags(call: Call) -> ASGIApp:
    """All models."""
    return answer({"models": [_listed(model) for model in await offered(call)]})


async def ps(call: Call) -> ASGIApp:
    """Those that are loaded."""
    found = []
    for model in await offered(call):
        loaded = [each for each in model.instances if each.state == InstanceState.INSTANCE_STATE_READY]
        if loaded:
            beside = sum(each.reserved_bytes for each in loaded if not each.device.startswith("cpu"))
            found.append(
                {
                    **_listed(model),
                    "size": sum(each.reserved_bytes for each in loaded),
                    "size_vram": beside,
                    "expires_at": NEVER,
                    "context_length": min(each.context_tokens for each in loaded),
                }
            )
    return answer({"models": found})


async def show(call: Call, *, speeches: Speeches) -> ASGIApp:
    """One model. What it can is known while it is loaded: nothing is loaded to tell."""
    check_fields(call.body, {"model", "name", "verbose"}, {})
    model = await call.client.get_model(read_model(call.body))
    ready = any(each.state == InstanceState.INSTANCE_STATE_READY for each in model.instances)
    able = await speeches.abilities(call.client, model.name, model.version) if ready else []
    defaults = model.effective_sampling_defaults
    contexts = [each.context_tokens for each in model.instances if each.context_tokens]
    info: dict[str, Any] = {"general.architecture": "inferd"}
    if contexts:
        info["inferd.context_length"] = min(contexts)
    return answer(
        {
            "modelfile": f"FROM {model.name}\n",
            "parameters": "\n".join(f"{field.name} {value:g}" for field, value in defaults.ListFields()),
            "template": "",
            "details": _details(model),
            "model_info": info,
            "capabilities": ["completion", *able],
            "modified_at": model.create_time.ToJsonString(),
        }
    )


async def delete(call: Call) -> ASGIApp:
    """Have the kernel forget a model."""
    check_fields(call.body, {"model", "name"}, {})
    await call.client.delete_model(read_model(call.body))
    return Response(status_code=200)


async def pull(call: Call) -> ASGIApp:
    """Have the kernel fetch a model; one that it has is there already."""
    check_fields(call.body, {"model", "name", "stream", "insecure"}, {})
    name = read_model(call.body)
    streams = take(call.body, "stream", bool, "true or false", default=True)
    try:
        await call.client.get_model(name)
    except ModelNotFoundError:
        lines = _pulled(call.client, name, source_of(name))
    else:
        lines = _there()
    if streams:
        return await Streamed(encoded(lines), call.settings, media=NDJSON, ping=b"", failed=write_error).begin()
    async with aclosing(lines):
        told = [line async for line in lines]
    return answer(told[-1])


def source_of(name: str) -> str:
    """Where the kernel is to fetch a model of this name from.

    Raises:
        Refusal: The name does not say.
    """
    for hub in HUBS:
        if name.startswith(hub):
            return f"hub:{name.removeprefix(hub).partition(':')[0]}"
    if name.startswith(SOURCES):
        return name
    raise Refusal(
        f"there is no model {name!r}, and the name does not say where to fetch it from: pull hf.co/OWNER/REPO, or on "
        f"the kernel's machine: inferd pull {name}",
        status=404,
        code="MODEL_NOT_FOUND",
        param="model",
    )


async def _there() -> AsyncGenerator[dict[str, Any]]:
    yield {"status": "success"}


async def _pulled(client: AsyncClient, name: str, source: str) -> AsyncGenerator[dict[str, Any]]:
    """How far the kernel is with fetching, until it has the model."""
    making = asyncio.ensure_future(client.create_model(name, source))
    try:
        await asyncio.wait({making}, timeout=REFUSED_S)
        if making.done():
            await making  # what is refused is a status, before the first line
        yield {"status": f"pulling {name}"}
        while not making.done():
            await asyncio.wait({making}, timeout=LOOK_S)
            with suppress(ModelNotFoundError):  # it may not have begun
                model = await client.get_model(name)
                if model.fetch.total_bytes:
                    line = {"status": f"pulling {name}", "digest": model.content_digest}
                    yield {**line, "total": model.fetch.total_bytes, "completed": model.fetch.done_bytes}
        await making
        yield {"status": "success"}
    finally:
        making.cancel()
        await asyncio.gather(making, return_exceptions=True)


def _listed(model: Model) -> dict[str, Any]:
    return {
        "name": model.name,
        "model": model.name,
        "modified_at": model.create_time.ToJsonString() if model.HasField("create_time") else now(),
        "size": model.size_bytes,
        "digest": model.content_digest.removeprefix("sha256:"),
        "details": _details(model),
    }


def _details(model: Model) -> dict[str, Any]:
    ready: list[Instance] = [each for each in model.instances if each.description]
    return {
        "parent_model": "",
        "format": "gguf" if model.source.endswith(".gguf") else "",
        "family": "",
        "families": None,
        "parameter_size": ready[0].description if ready else "",
        "quantization_level": "",
    }
