"""Adapters as models of their own, as others tell of them: `MODEL:ADAPTER`, where no model has that name."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from inferd_client.errors import ModelNotFoundError

if TYPE_CHECKING:
    from inferd.http.chat import Asked
    from inferd_api.v1.model_pb2 import Model
    from inferd_client import AsyncClient


async def find_model(client: AsyncClient, name: str) -> tuple[Model, str]:
    """The model that a request names, and the adapter of it, "" for none.

    Raises:
        ModelNotFoundError: There is neither.
    """
    try:
        return await client.get_model(name), ""
    except ModelNotFoundError:
        base, _, adapter = name.rpartition(":")
        if not base:
            raise
        try:
            model = await client.get_model(base)
        except ModelNotFoundError:
            model = None
        if model is None or adapter not in model.adapters:
            raise
        return model, adapter


async def settled(client: AsyncClient, asked: Asked) -> Asked:
    """A request, of the model and with the adapter that it names; a name without a colon is that of a model."""
    if ":" not in asked.model:
        return asked
    _, adapter = await find_model(client, asked.model)
    if not adapter:
        return asked
    return replace(asked, model=asked.model.rpartition(":")[0], options={**asked.options, "adapter": adapter})
