"""A process that gives a blob to a folder and a store, and is killed at a point on the way; then another looks."""

import asyncio
import json
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from inferd.blob_settings import Blobs as BlobSettings
from inferd.config import Settings
from inferd.runtime.blobs import Blobs
from inferd.runtime.failpoints import Failpoints
from inferd.store.opening import open_store
from inferd.store.store import Store


async def main(given: dict[str, Any], data: bytes) -> None:
    """Give a blob, and forget it again where that is asked for."""
    points = Failpoints([f"{given['point']}=kill"])
    place = Settings(store=given["store"]).store_place
    with closing(open_store(place, at_point=points.at_store)) as store:

        async def rows(do: Callable[[Store], Any]) -> Any:
            return do(store)

        blobs = Blobs(Path(given["root"]), rows, BlobSettings(), at_point=points.at_blob)
        await blobs.read()
        async with blobs.receiving("t", given["digest"], len(data)) as entry:
            half = len(data) // 2
            for chunk in (data[entry.received_bytes : half], data[max(half, entry.received_bytes) :]):
                if chunk:
                    await blobs.add(entry, chunk)
            await blobs.finish(entry)
        if given["forget"]:
            await blobs.remove("t", given["digest"])


if __name__ == "__main__":
    told = json.loads(sys.argv[1])
    asyncio.run(main(told, Path(told["file"]).read_bytes()))
