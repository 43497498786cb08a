"""What `inferd.runtime.opened_files` keeps of models whose files were opened."""

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from time_limits import LONG_S

from inferd.runtime.opened_files import OpenedFiles

if TYPE_CHECKING:
    from inferd.runtime.store_thread import StoreThread
    from inferd.store.blob_files import BlobFiles


class _Files:
    """Folders that are there or not."""

    seals = True

    def __init__(self) -> None:
        self.open: set[str] = set()

    def name(self, tenant: str, digest: str) -> str:
        return f"{tenant}-{digest}"

    @property
    def models(self) -> "_Files":
        return self

    def folder(self, name: str) -> Path:
        return Path("/models") / name

    def link(self, name: str, _tenant: str, _files: Mapping[str, str]) -> None:
        self.open.add(name)

    def unlink(self, name: str) -> None:
        self.open.discard(name)


class _Thread:
    """Does at once what it is given."""

    def submit(self, do: Callable[..., Any], *values: Any) -> Future[Any]:
        done = Future[Any]()
        done.set_result(do(*values))
        return done


async def test_a_model_that_nobody_reads_any_more_leaves_nothing_behind() -> None:
    """Of a model that several have read at once, no folder, count or lock stays when the last of them ends."""
    files = _Files()
    opened = OpenedFiles(cast("BlobFiles", files), cast("StoreThread", _Thread()))
    await opened.link("a", "1", {"model.gguf": "blob"})
    path, ready, end = opened.folder("a", "1") / "model.gguf", asyncio.Semaphore(0), asyncio.Event()

    async def read() -> None:
        async with opened.of(path):
            ready.release()
            await end.wait()

    async with asyncio.timeout(LONG_S), asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(read())
        for _ in range(3):
            await ready.acquire()
        assert files.open == {"a-1"}
        end.set()
    assert not files.open
    assert not opened._users
    assert not opened._locks
