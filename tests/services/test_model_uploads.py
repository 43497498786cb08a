"""Models whose files are given to the kernel."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import grpc
import pytest
from connection import Connection, read_all, reason_of, text_of

from inferd.testing.kernel import kernel_here, write_fake_model
from inferd_api.v1 import model_pb2 as mp
from inferd_api.v1 import model_service_pb2 as ms
from inferd_api.v1.model_service_pb2_grpc import ModelServiceStub
from inferd_client import AsyncClient, Client
from inferd_client.errors import BlobDamagedError, BlobHeldError, InferdError, InvalidFieldError, StoreUnavailableError

DEADLINE_S = 60.0


@asynccontextmanager
async def kernel(folder: Path, **settings: Any) -> AsyncIterator[tuple[Connection, AsyncClient]]:
    """A kernel that keeps what it has in this folder; with the same folder again, the one after it."""
    usual = {"store": {"url": f"sqlite:{folder}/kept/store"}, "blobs": {"open_dir": folder / "open"}}
    async with kernel_here(folder, **{**usual, **settings}) as made:
        connection = Connection(made, folder)
        async with AsyncClient(made.addresses[0]) as client:
            yield connection, client
        await connection.channel.close()


def given_folder(folder: Path) -> Path:
    """What a client has: the kernel never sees this."""
    folder.mkdir()
    return write_fake_model(folder, "weights")


def links(folder: Path) -> list[Path]:
    """The files of models that lie open; none of them do unsealed beside the blobs."""
    assert not list((folder / "data" / "blobs").glob("*/models/*/*/*"))
    return [path for path in (folder / "open").glob("*/*/*/*") if path.is_file()]


async def until_closed(folder: Path) -> None:
    """Wait until nothing lies open: a worker that is gone is told before its files are."""
    async with asyncio.timeout(DEADLINE_S):
        while links(folder):  # noqa: ASYNC110 - of the file system
            await asyncio.sleep(0)


async def test_a_file_that_is_given_is_a_model(tmp_path: Path) -> None:
    """It runs after the client's file is gone and after a restart, and takes its blobs along when it is deleted."""
    file = given_folder(tmp_path / "mine")
    async with kernel(tmp_path) as (connection, client):
        told: list[str] = []
        model = await client.upload_model("fake", file, progress=lambda *far: told.append(far[0]))
        assert told == ["weights.fake"]
        assert model.source.startswith("blob:sha256:")
        again = await client.upload_model("fake", file)
        assert (again.source, again.create_time) == (model.source, model.create_time)
        file.unlink()
        assert links(tmp_path) == []  # as nobody reads it
        assert text_of(await read_all(connection.chat("la"))) == "la"
        held = [blob.digest async for blob in client.list_blobs() if blob.holders == ["model fake"]]
        assert len(held) == 2
        with pytest.raises(BlobHeldError, match="held by model fake"):
            await client.delete_blob(held[0])
    async with kernel(tmp_path) as (connection, client):
        assert (await client.get_model("fake")).source == model.source
        assert text_of(await read_all(connection.chat("la"))) == "la"
        assert [path.name for path in links(tmp_path)] == ["weights.fake"]
        await client.unload_model("fake")
        await client.delete_model("fake")
        assert [blob.holders async for blob in client.list_blobs()] == [[], []]
        for digest in held:
            await client.delete_blob(digest)
    assert links(tmp_path) == []


async def test_the_digest_pins_all_files_and_their_names(tmp_path: Path) -> None:
    """The source of a model is another one for any other byte, name or file, and CreateModel takes it as it is."""
    file = given_folder(tmp_path / "mine")
    for ending in (".toml", ".recipe.toml"):
        file.with_suffix(ending).write_text("# beside it\n")
    async with kernel(tmp_path) as (connection, client):
        source = (await client.upload_model("a", file)).source
        other = file.rename(file.with_name("other.fake"))
        assert (await client.upload_model("b", other)).source != source
        await client.load_model("b")
        assert {path.name for path in links(tmp_path)} == {"other.fake"}
        await client.unload_model("b")
        await until_closed(tmp_path)
        assert (await client.create_model("c", source)).source == source
        with pytest.raises(InferdError) as caught:
            await client.create_model("a", (await client.get_model("b")).source)
        assert caught.value.reason == "MODEL_EXISTS"
        async with AsyncClient(connection.kernel.addresses[0], tenant="two") as two:
            with pytest.raises(InferdError) as caught:
                await two.create_model("d", source)
            assert caught.value.reason == "BLOB_NOT_FOUND"
        await client.delete_model("a")
        assert [b.holders async for b in client.list_blobs()].count(["model c"]) == 2  # they are c's, too
        await client.delete_model("c")


LABELS = ("../x", "/etc/passwd", "a/b", "..", ".", "", "a\0b", "a\nb", ".hidden", "a" * 129, "é", "-x", "a\\b")


def start(
    name: str, digest: str = "sha256:" + "0" * 64, size_bytes: int = 3, *, model: str = "m", source: str = ""
) -> ms.UploadModelRequest:
    files = [ms.ModelFile(name=name, digest=digest, size_bytes=size_bytes)]
    wanted = mp.Model(name=model, source=source)
    return ms.UploadModelRequest(start=ms.UploadModelStart(model=wanted, files=files))


REFUSED = [
    *((start(name), "is a label and no path") for name in LABELS),
    (start("x", digest="sha256:../x"), "it must be sha256: and 64"),
    (start("x", size_bytes=0), "size_bytes is 0; it must be 1 or more"),
    (start("x", source="/etc/passwd"), "leave it empty"),
    (start("x", model="a b"), "model.name is 'a b'"),
    (ms.UploadModelRequest(start=ms.UploadModelStart(model=mp.Model(name="m"))), "files has 0 entries"),
    (ms.UploadModelRequest(chunk=b"1"), "the first message has no start"),
]


async def test_names_never_become_paths(tmp_path: Path) -> None:
    """Whatever a name is, it is refused before a byte is taken, unless it is a label; no file is made anywhere."""
    async with kernel(tmp_path) as (connection, client):
        stub: Any = ModelServiceStub(connection.channel)  # type: ignore[no-untyped-call]
        for request, why in REFUSED:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.UploadModel(iter([request]), timeout=DEADLINE_S).read()
            assert reason_of(caught.value)[0] == "INVALID_FIELD"
            assert why in str(caught.value.details())
        assert [blob async for blob in client.list_blobs()] == []
    assert links(tmp_path) == []


async def test_a_client_of_the_wire_gives_the_chunks_on_one_call(tmp_path: Path) -> None:
    """Each file that is not there is asked for, in the order in which they are named, and one that is there is not."""
    files = {"b.fake": json.dumps({}).encode(), "a.txt": b"notes", "c.md": b"read me"}
    async with kernel(tmp_path) as (connection, client):
        await client.put_blob(files["a.txt"])
        named = [
            ms.ModelFile(name=name, digest=f"sha256:{sha256(data).hexdigest()}", size_bytes=len(data))
            for name, data in files.items()
        ]
        stub: Any = ModelServiceStub(connection.channel)  # type: ignore[no-untyped-call]
        call = stub.UploadModel(timeout=DEADLINE_S)
        begin = ms.UploadModelStart(model=mp.Model(name="fake"), files=named)
        await call.write(ms.UploadModelRequest(start=begin))
        asked = []
        while not (response := await call.read()).HasField("complete"):
            asked.append(response.accepted.name)
            await call.write(ms.UploadModelRequest(chunk=files[response.accepted.name]))
        assert asked == ["b.fake", "c.md"]
        assert response.complete.model.name == "fake"
        assert text_of(await read_all(connection.chat("la"))) == "la"


async def test_a_damaged_file_is_no_model(tmp_path: Path) -> None:
    """A model of blobs is created of the bytes that its digest says, or not at all."""
    file = given_folder(tmp_path / "mine")
    async with kernel(tmp_path) as (_, client):
        source = (await client.upload_model("a", file)).source
        for sealed in (tmp_path / "data" / "blobs").rglob("*-s"):
            with sealed.open("r+b") as damaged:
                damaged.seek(40)
                damaged.write(b"\xff" * 9)
        with pytest.raises(BlobDamagedError):
            await client.create_model("b", source)
        assert not [m async for m in client.list_models() if m.name == "b"]
        plain = (await client.put_blob(b"no list")).digest
        with pytest.raises(InvalidFieldError, match="is no list of a model's files"):
            await client.create_model("b", f"blob:{plain}")


async def test_where_there_are_no_blobs(tmp_path: Path) -> None:
    """A kernel that keeps nothing says so; a folder with folders in it is refused by the client, by their names."""
    file = given_folder(tmp_path / "mine")
    async with kernel(tmp_path, store={"url": "memory:"}) as (_, client):
        with pytest.raises(StoreUnavailableError):
            await client.upload_model("a", file)
    (tmp_path / "mine" / "inner").mkdir()
    with Client("127.0.0.1:1") as client_, pytest.raises(ValueError, match="has folders in it"):
        client_.upload_model("a", tmp_path / "mine")


async def test_another_tenant_changes_a_model_by_files_of_its_own(tmp_path: Path) -> None:
    """Blobs of the same bytes are each tenant's own: what is refused takes none away, each version keeps its own."""
    file = given_folder(tmp_path / "mine")
    async with kernel(tmp_path) as (connection, client), AsyncClient(connection.kernel.addresses[0], tenant="b") as b:
        source = (await client.upload_model("fake", file)).source
        await b.upload_model("other", file)
        mine = [blob async for blob in client.list_blobs()]
        for only in (b.plan_update, b.update_model):
            with pytest.raises(InvalidFieldError, match="nonsense"):
                await only("fake", source=source, settings={"nonsense": "x"})
            assert [blob.holders async for blob in client.list_blobs()] == [blob.holders for blob in mine]
        assert links(tmp_path) == []
        assert (await b.update_model("fake", source=source)).version == 2
        await b.delete_model("other")
        assert [blob.holders for each in (client, b) async for blob in each.list_blobs()] == [["model fake"]] * 4
        await client.delete_model("fake", force=True)
        assert [blob.holders for each in (client, b) async for blob in each.list_blobs()] == [[]] * 4
