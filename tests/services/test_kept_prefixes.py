"""The prefix cache of a model that goes, found again by the next worker of it; with real workers."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from connection import Connection, read_all, text_of

from inferd.testing.kernel import kernel_here, write_fake_model
from inferd_api.v1 import model_pb2 as mp
from inferd_api.v1 import model_service_pb2 as ms

WORDS = "one two three four five six seven"
BLOCK = 16


@pytest.fixture
async def keeping(tmp_path: Path) -> AsyncIterator[Connection]:
    """A kernel that keeps prefix caches."""
    async with kernel_here(tmp_path, prefix={"keep_bytes": 1 << 20}) as kernel:
        made = Connection(kernel, tmp_path)
        yield made
        await made.channel.close()


async def cached(connection: Connection) -> int:
    """Tokens of a prompt that came from the cache; what it answers is as it always is."""
    told = await read_all(connection.chat(WORDS))
    assert text_of(told) == WORDS
    tokens: int = told[-1].finished.usage.cached_tokens
    return tokens


async def model_of(connection: Connection) -> mp.Model:
    model: mp.Model = (await connection.models.GetModel(ms.GetModelRequest(name="fake"))).model
    return model


async def unload(connection: Connection) -> ms.UnloadModelResponse:
    answer: ms.UnloadModelResponse = await connection.models.UnloadModel(ms.UnloadModelRequest(name="fake"))
    return answer


async def update(connection: Connection, **changes: Any) -> None:
    await connection.models.UpdateModel(ms.UpdateModelRequest(name="fake", **changes), timeout=60)


async def swap(connection: Connection, **changes: Any) -> None:
    """Give the model another version, and wait until that has proved itself and the one before is gone."""
    await update(connection, **changes)
    await read_all(connection.chat("x"))
    async for told in connection.models.WatchModel(ms.WatchModelRequest(name="fake"), timeout=60):
        if all(instance.version == told.model.version for instance in told.model.instances):
            return


async def test_an_unloaded_model_finds_its_prefixes_again(keeping: Connection) -> None:
    """Unloading tells what is kept, and the model does; when it is loaded again its first task finds it."""
    await keeping.create()
    assert await cached(keeping) == 0
    answer = await unload(keeping)
    kept = answer.model.kept_prefix_tokens
    assert kept > 0
    assert kept % BLOCK == 0
    assert answer.kept_prefix_bytes == answer.model.kept_prefix_bytes > 0
    assert await cached(keeping) == len(WORDS) // BLOCK * BLOCK
    assert (await model_of(keeping)).kept_prefix_tokens == 0


async def test_a_new_version_finds_them_if_it_computes_the_same(
    keeping: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of the same files finds what the one before had, which may still come back; one of another file nothing."""
    await keeping.create()
    await cached(keeping)
    adopted = asyncio.Event()
    monkeypatch.setattr(keeping.kernel.driver.prefixes, "adopted", lambda *_: adopted.set())
    await update(keeping, settings={"context_tokens": "512"})
    async with asyncio.timeout(60):
        await adopted.wait()
    assert await cached(keeping) == len(WORDS) // BLOCK * BLOCK
    await swap(keeping, source=str(write_fake_model(keeping.folder, "other")))
    assert await cached(keeping) == 0


async def test_what_is_kept_goes_with_its_bound_and_its_model(keeping: Connection) -> None:
    """A model whose setting is 0 keeps nothing, from when it is set; nothing is left of one that is deleted."""
    await keeping.create()
    await cached(keeping)
    await unload(keeping)
    await update(keeping, settings={"prefix_keep_bytes": "0"})
    assert (await model_of(keeping)).kept_prefix_bytes == 0
    assert await cached(keeping) == 0
    assert (await unload(keeping)).kept_prefix_bytes == 0
    await update(keeping, settings={"prefix_keep_bytes": "100000"})
    await cached(keeping)
    await unload(keeping)
    assert keeping.kernel.driver.prefixes.held_bytes > 0
    await keeping.models.DeleteModel(ms.DeleteModelRequest(name="fake"))
    assert keeping.kernel.driver.prefixes.held_bytes == 0
