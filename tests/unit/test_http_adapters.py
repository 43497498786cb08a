"""Names of requests that stand for a model with an adapter."""

from typing import Any

import pytest

from inferd.http.adapters import find_model, settled
from inferd.http.chat import Asked
from inferd.http.models import described
from inferd_api.v1.model_pb2 import Model
from inferd_client.errors import ModelNotFoundError


class Known:
    """A client of a kernel that knows some models."""

    def __init__(self, *models: Model) -> None:
        self._models = {each.name: each for each in models}

    async def get_model(self, name: str) -> Model:
        if name not in self._models:
            raise ModelNotFoundError(f"no {name}")
        return self._models[name]


CLIENT: Any = Known(Model(name="chat", adapters={"legal": "/a"}), Model(name="chat:8b", adapters={"legal": "/a"}))


def ask(name: str) -> Asked:
    return Asked(model=name, prompt="x", options={"temperature": 0.0}, stream=False, usage=False, queue=False)


@pytest.mark.parametrize(
    ("name", "model", "adapter"),
    [
        ("chat", "chat", ""),
        ("chat:8b", "chat:8b", ""),
        ("chat:legal", "chat", "legal"),
        ("chat:8b:legal", "chat:8b", "legal"),
    ],
)
async def test_an_adapter_is_named_behind_its_model(name: str, model: str, adapter: str) -> None:
    """A model goes before an adapter of another; what is told has the name that was asked for."""
    asked = await settled(CLIENT, ask(name))
    assert (asked.model, asked.options.get("adapter", ""), asked.name) == (model, adapter, name)
    found, part = await find_model(CLIENT, name)
    told = described(found, name, adapter=part)
    assert (told["id"], told["parent"]) == (name, model if adapter else None)


@pytest.mark.parametrize("name", ["other:legal", "chat:leg", ":legal", "chat:"])
async def test_what_is_neither_is_not_found_under_its_whole_name(name: str) -> None:
    """The error is that of the name that was asked for."""
    with pytest.raises(ModelNotFoundError, match=f"no {name}"):
        await settled(CLIENT, ask(name))
