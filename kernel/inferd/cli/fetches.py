"""Models whose files the kernel fetches: what they are called, and how far they are."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING

from inferd.cli.amounts import size
from inferd.cli.source import file_name, is_folder, parse
from inferd.runtime.formats import model_name
from inferd_client import AsyncClient
from inferd_client.errors import ModelNotFoundError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from inferd.cli.output import Output
    from inferd_api.v1.model_pb2 import Model

FETCHED = ("https:", "hub:", "hf:", "package:", "pypi:")
LOOK_S = 0.2  # between two looks for a model that is not on its way yet


def is_fetched(source: str) -> bool:
    """Whether the kernel fetches a source."""
    return source.startswith(FETCHED)


def name_of(source: str) -> str:
    """What a model of a source is called.

    Raises:
        CommandError: It is none.
    """
    found = parse(source)
    return model_name(file_name(found), folder=is_folder(found))


def wait_for(output: Output, address: str, name: str, call: Callable[[AsyncClient], Awaitable[Model]]) -> Model:
    """Do what makes a kernel fetch a model's files, and show meanwhile how far they are; Ctrl-C ends it there, too."""
    return asyncio.run(_wait_for(output, address, name, call))


async def _wait_for(output: Output, address: str, name: str, call: Callable[[AsyncClient], Awaitable[Model]]) -> Model:
    with output.status(f"fetching {name}") as say:

        async def show(client: AsyncClient) -> None:
            while True:
                try:
                    async with aclosing(client.watch_model(name)) as models:
                        async for model in models:
                            done, total = model.fetch.done_bytes, model.fetch.total_bytes
                            of = f" of {size(total)}" if total else ""
                            if model.HasField("fetch"):
                                say(f"fetching {name}: {size(done)}{of}")
                except ModelNotFoundError:
                    await asyncio.sleep(LOOK_S)

        async with AsyncClient(address) as client:
            shown = asyncio.create_task(show(client))
            try:
                return await call(client)
            finally:
                shown.cancel()
                await asyncio.gather(shown, return_exceptions=True)
