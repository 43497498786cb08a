"""Files of models that an agent fetches and keeps: checked, bounded, and nothing of what a kernel must not give."""

import hashlib
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from inferd.agent.cache import WHOLE, Cache, CachedFile, check_files
from inferd.agent.fetching import Fetching
from inferd.errors import DiskFullError, ModelLoadError
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
    """

    def __init__(self, files: dict[str, bytes], *, spoilt: int = 0) -> None:
        self.files = files
        self.spoilt = spoilt
        self.given: list[int] = []

    @asynccontextmanager
    async def connect(self) -> AsyncGenerator[Any]:
        yield self

    async def fetch(self, request: service.FetchModelRequest) -> AsyncGenerator[service.FetchModelResponse]:
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


async def fetch(folder: Path, kernel: Kernel, path: str, *, most_bytes: int = 1 << 20) -> Path:
    fetching = Fetching(Cache(folder, most_bytes), kernel.connect)  # type: ignore[arg-type] # as far as it is used
    found, place = await fetching.fetch(OPENING, path, lambda _: None)
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
    fetching = {name: Fetching(cache, kernel.connect) for name, kernel in kernels.items()}  # type: ignore[arg-type] # as above
    places = {}
    for number, name in enumerate("ab"):
        _, places[name] = await fetching[name].fetch(OPENING, f"/{name}.bin", lambda _: None)
        os.utime(places[name] / WHOLE, (number, number))
    with pytest.raises(DiskFullError, match=r"hosts\.cache_bytes"):
        await fetching["c"].fetch(OPENING, "/c.bin", lambda _: None)
    cache.leave(places["a"])
    cache.leave(places["b"])
    await fetching["c"].fetch(OPENING, "/c.bin", lambda _: None)
    assert (not places["a"].exists(), places["b"].exists()) == (True, True)
