"""Files of models that an agent fetches and keeps: checked, bounded, and nothing of what a kernel must not give."""

import asyncio
import hashlib
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_status import rpc_status
from time_limits import LONG_S

from inferd.agent.cache import WHOLE, Cache, CachedFile, check_files
from inferd.agent.fetching import Fetching
from inferd.agent.holding import Holding
from inferd.errors import DiskFullError, InferdError, LimitExceededError, ModelLoadError
from inferd.runtime.signal import Signal
from inferd.services.status import status_of
from inferd_api.agent.v1 import agent_pb2 as wire
from inferd_api.agent.v1 import agent_service_pb2 as service

PIECE = 100
OPENING = service.CarryOpening(host="b", launch_id=1)


def described(name: str, data: bytes) -> CachedFile:
    pieces = tuple(hashlib.sha256(data[at : at + PIECE]).digest() for at in range(0, len(data), PIECE))
    return CachedFile(name, hashlib.sha256(data).hexdigest(), len(data), PIECE, pieces)


class Kernel:
    """Gives files, some of it perhaps wrong.

    Attributes:
        given: Bytes that it has sent, by call.
        busy: How often it says that others are before who asks, and then how often that there is no place in the line.
    """

    def __init__(self, files: dict[str, bytes], *, spoilt: int = 0, busy: int = 0) -> None:
        self.files = files
        self.busy = busy
        self.spoilt = spoilt
        self.given: list[int] = []

    @asynccontextmanager
    async def connect(self) -> AsyncGenerator[Any]:
        yield self

    async def fetch(self, request: service.FetchModelRequest) -> AsyncGenerator[service.FetchModelResponse]:
        if self.busy:
            assert request.waits
            for _ in range(self.busy):
                await Signal().wait(0, limit_s=0.02)
                yield service.FetchModelResponse(queued=service.FetchQueued(ahead=3))
            self.busy -= 1
            error = LimitExceededError("as many are given files as may be; come again", retry_after_s=0.01)
            raise failure(error)
        for name, data in self.files.items():
            file = described(name, data)
            told = service.FetchedFile(
                name=name,
                sha256=file.sha256,
                size_bytes=len(data),
                piece_bytes=PIECE,
                piece_digests=b"".join(file.pieces),
            )
            yield service.FetchModelResponse(file=told)
        if request.only_names:
            return
        had = {request.had_pieces[at : at + 32] for at in range(0, len(request.had_pieces), 32)}
        self.given.append(0)
        for name, data in self.files.items():
            for number, digest in enumerate(described(name, data).pieces):
                if digest not in had:
                    piece = data[number * PIECE : (number + 1) * PIECE]
                    self.given[-1] += len(piece)
                    if self.spoilt:
                        self.spoilt -= 1
                        piece = bytes(len(piece))
                    for at in range(0, len(piece), 30):
                        yield service.FetchModelResponse(chunk=piece[at : at + 30])


def failure(error: InferdError) -> grpc.aio.AioRpcError:
    """What a client of gRPC raises for an error of a kernel."""
    status = rpc_status.to_status(status_of(error))
    trailing = grpc.aio.Metadata(*((key, value) for key, value in status.trailing_metadata or ()))
    return grpc.aio.AioRpcError(status.code, grpc.aio.Metadata(), trailing, details=status.details)


def fetching_of(cache: Cache, kernel: Kernel) -> Fetching:
    return Fetching(cache, kernel.connect, Holding(cache))  # type: ignore[arg-type] # as far as it is used


async def fetch(folder: Path, kernel: Kernel, path: str, *, version: str = "") -> Path:
    fetching = fetching_of(Cache(folder, 1 << 20), kernel)
    found, place = await fetching.fetch(OPENING, path, version, lambda _: None)
    fetching.cache.leave(place)
    return found


async def test_a_folder_and_a_file_are_fetched_once(tmp_path: Path) -> None:
    """A model of one file is that file, one of a folder the folder; what is there is not fetched again."""
    files = {"a.bin": os.urandom(250), "b.json": b"", "c.bin": os.urandom(100)}
    kernel = Kernel(files)
    found = await fetch(tmp_path, kernel, "/models/folder")
    assert {each.name: each.read_bytes() for each in found.iterdir() if each.name != WHOLE} == files
    assert await fetch(tmp_path, kernel, "/elsewhere/folder") == found
    assert (await fetch(tmp_path, kernel, "/models/a.bin")) == found / "a.bin"
    assert kernel.given == [350]


async def test_what_is_there_of_a_broken_fetch_stays(tmp_path: Path) -> None:
    """Pieces that are right stay, those that are wrong come again, and equal ones come once."""
    same = os.urandom(100)
    files = {"a.bin": os.urandom(100) + same, "b.bin": same}
    cached = [described(name, data) for name, data in files.items()]
    place = Cache(tmp_path, 1 << 20).place(cached)
    place.mkdir(parents=True)
    (place / "a.bin").write_bytes(bytes(100) + same)
    kernel = Kernel(files)
    found = await fetch(tmp_path, kernel, "/m")
    assert (found / "a.bin").read_bytes() + (found / "b.bin").read_bytes() == files["a.bin"] + same
    assert kernel.given == [100]


async def test_wrong_bytes_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong piece is asked for again; from who gives nothing else, nothing is taken, and no model is there."""
    monkeypatch.setattr("inferd.agent.fetching.AGAIN_S", 0.0)
    files = {"a.bin": os.urandom(250)}
    assert (await fetch(tmp_path / "1", Kernel(files, spoilt=1), "/a.bin")).read_bytes() == files["a.bin"]
    with pytest.raises(ModelLoadError, match="has not the digests that it says"):
        await fetch(tmp_path / "2", Kernel(files, spoilt=100), "/a.bin")
    assert not list((tmp_path / "2").rglob(WHOLE))


@pytest.mark.parametrize(
    "change",
    [{"name": "../a"}, {"name": ".whole"}, {"sha256": "x"}, {"size_bytes": 1000}, {"piece_bytes": 0}, {"pieces": ()}],
)
def test_what_cannot_be_a_model_is_refused(change: dict[str, Any]) -> None:
    """Names are labels and no paths, and sizes and pieces belong together."""
    file = described("a.bin", bytes(250))
    check_files([file])
    with pytest.raises(ModelLoadError):
        check_files([replace(file, **change)])
    for files in ([], [file, replace(file, name="A.bin")]):
        with pytest.raises(ModelLoadError):
            check_files(files)


async def test_the_oldest_goes_that_nobody_uses(tmp_path: Path) -> None:
    """Beyond the bound those go that were not used for longest; what is in use stays, and then there is no room."""
    cache = Cache(tmp_path, 20_000)
    kernels = {name: Kernel({f"{name}.bin": os.urandom(4096 * 2)}) for name in "abc"}
    fetching = {name: fetching_of(cache, kernel) for name, kernel in kernels.items()}
    places = {}
    for number, name in enumerate("ab"):
        _, places[name] = await fetching[name].fetch(OPENING, f"/{name}.bin", "", lambda _: None)
        os.utime(places[name] / WHOLE, (number, number))
    with pytest.raises(DiskFullError, match=r"hosts\.cache_bytes"):
        await fetching["c"].fetch(OPENING, "/c.bin", "", lambda _: None)
    cache.leave(places["a"])
    cache.leave(places["b"])
    await fetching["c"].fetch(OPENING, "/c.bin", "", lambda _: None)
    assert (not places["a"].exists(), places["b"].exists()) == (True, True)


async def test_a_kernel_that_has_no_time_is_no_silent_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is told that others are before it, or to come again, waits longer than for a silent kernel."""
    monkeypatch.setattr("inferd.agent.fetching.SILENT_S", 0.2)
    monkeypatch.setattr("inferd.agent.fetching.AGAIN_S", 0.0)
    monkeypatch.setattr("inferd.agent.fetching.NAMES_S", 0.2)
    files = {"a.bin": os.urandom(250)}
    kernel = Kernel(files, busy=8)
    began = asyncio.get_running_loop().time()
    assert (await fetch(tmp_path / "names", kernel, "/a.bin")).read_bytes() == files["a.bin"]
    assert asyncio.get_running_loop().time() - began > 2 * 0.2
    names = Kernel.fetch

    async def busy_later(self: Kernel, request: service.FetchModelRequest) -> AsyncGenerator[Any]:
        self.busy, waits = (0 if request.only_names else self.busy), self.busy
        async for each in names(self, request):
            yield each
        self.busy = waits

    monkeypatch.setattr(Kernel, "fetch", busy_later)
    kernel = Kernel(files, busy=8)
    assert (await fetch(tmp_path / "bytes", kernel, "/a.bin")).read_bytes() == files["a.bin"]
    assert kernel.busy == 0


async def test_what_is_there_is_known_by_what_kernels_call_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model has the names that it was asked for by, the one that was used last first; one that goes has none."""
    cache = Cache(tmp_path / "hosted", 30_000)
    monkeypatch.setattr("inferd.agent.holding.AGAIN_S", 0.01)
    holding = Holding(cache)
    told = asyncio.Queue[wire.HostHolds]()
    telling = asyncio.create_task(holding.tell(wire.HostHolds(), told.put_nowait))
    for number, name in enumerate("ab"):
        kernel = Kernel({f"{name}.bin": os.urandom(4096 * 2)})
        fetching = Fetching(cache, kernel.connect, holding)  # type: ignore[arg-type] # as above
        for version in (name * 64, f"{number}f", "../x"):
            _, place = await fetching.fetch(OPENING, f"/{name}.bin", version, lambda _: None)
            cache.leave(place)
        os.utime(place / WHOLE, (number, number))
    held = await holding.versions()
    assert (held.versions, held.near) == (["1f", "b" * 64, "0f", "a" * 64], 0)
    holding.see("5" * 64)
    holding.see("no name")
    kernel = Kernel({"c.bin": os.urandom(4096 * 2)})
    await Fetching(cache, kernel.connect, holding).fetch(OPENING, "/c.bin", "cc", lambda _: None)  # type: ignore[arg-type] # as above
    wanted = {"5" * 64, "cc", "1f", "b" * 64}
    held = await holding.versions()
    assert (set(held.versions), held.near, held.versions[0]) == (wanted, 1, "5" * 64)
    async with asyncio.timeout(LONG_S):
        while set((await told.get()).versions) != wanted:
            pass
    telling.cancel()
