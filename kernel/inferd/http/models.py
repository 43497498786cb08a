"""`GET /v1/models` and `/v1/models/{name}`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from inferd.http.adapters import find_model
from inferd.http.calls import answer
from inferd.model_names import AT, TAKEN
from inferd_api.v1.model_pb2 import InstanceState, Model, ModelState

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from inferd.http.calls import Call


async def list_models(call: Call) -> ASGIApp:
    """Each name that a request may have as its model: models, and their aliases and adapters behind them."""
    models = await offered(call)
    data = [described(model, name) for model in models for name in (model.name, *model.aliases)]
    data += [described(model, f"{model.name}:{name}", adapter=name) for model in models for name in model.adapters]
    return answer({"object": "list", "data": data})


async def offered(call: Call) -> list[Model]:
    """What a request may name as its model: not the packages of functions, which are loaded as models are."""
    packages = tuple(f"{name}{AT}" for name in TAKEN)
    return [model async for model in call.client.list_models() if not model.name.startswith(packages)]


async def get_model(call: Call) -> ASGIApp:
    """One of them."""
    name = call.path["name"]
    model, adapter = await find_model(call.client, name)
    return answer(described(model, name, adapter=adapter))


def described(model: Model, name: str, *, adapter: str = "") -> dict[str, Any]:
    """A model, or one with an adapter, in OpenAI's words, and what the kernel knows besides."""
    told: dict[str, Any] = {
        "id": name,
        "object": "model",
        "created": model.create_time.seconds,
        "owned_by": "inferd",
        "root": model.name,
        "parent": model.name if adapter else None,
        "state": ModelState.Name(model.state).removeprefix("MODEL_STATE_"),
    }
    contexts = [each.context_tokens for each in model.instances if each.state == InstanceState.INSTANCE_STATE_READY]
    if contexts:
        told["max_model_len"] = min(contexts)
    return told
