"""Blobs over the wire: given in chunks, gone on with, read from anywhere, listed and deleted."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import grpc
import pytest
from connection import Connection, reason_of
from stores import opened_store

from inferd.store.arrival import Arrival
from inferd.store.store import Kind
from inferd.testing.kernel import kernel_here
from inferd_api.v1 import blob_pb2 as bp
from inferd_api.v1 import blob_service_pb2 as bs
from inferd_api.v1.blob_service_pb2_grpc import BlobServiceStub
from inferd_client import AsyncClient, Client
from inferd_client.errors import (
    BlobDamagedError,
    BlobNotFoundError,
    InvalidFieldError,
    LimitExceededError,
    StoreUnavailableError,
)

MIB = 1 << 20
DATA = bytes(range(256)) * 4096 * 17 + b"the end"
DIGEST = f"sha256:{sha256(DATA).hexdigest()}"
DEADLINE_S = 60.0


@asynccontextmanager
async def kernel(folder: Path, **settings: Any) -> AsyncIterator[Connection]:
    """A kernel that keeps what it has in this folder; with the same folder again, the one after it."""
    async with kernel_here(folder, **{"store": {"url": f"sqlite:{folder}/kept/store"}, **settings}) as made:
        connection = Connection(made, folder)
        yield connection
        await connection.channel.close()


class Giving:
    """A call of `PutBlob`."""

    def __init__(self, connection: Connection, tenant: str = "default") -> None:
        stub: Any = BlobServiceStub(connection.channel)  # type: ignore[no-untyped-call]
        self.call = stub.PutBlob(metadata=(("inferd-tenant", tenant),), timeout=DEADLINE_S)

    async def start(self, digest: str = DIGEST, size_bytes: int = len(DATA)) -> None:
        start = bs.PutBlobStart(digest=digest, size_bytes=size_bytes)
        await self.call.write(bs.PutBlobRequest(start=start))

    async def accepted(self) -> int:
        """How many bytes the kernel has."""
        return int((await self.call.read()).accepted.offset_bytes)

    async def give(self, data: bytes) -> None:
        for at in range(0, len(data), MIB):
            await self.call.write(bs.PutBlobRequest(chunk=data[at : at + MIB]))

    async def refusal(self) -> tuple[str, dict[str, str], str]:
        """Why it was ended."""
        try:
            while await self.call.read() is not grpc.aio.EOF:
                pass
        except grpc.aio.AioRpcError as error:
            return *reason_of(error), str(error.details())
        raise AssertionError("it ended well")


async def received(client: AsyncClient, least: int) -> int:
    """How many bytes the kernel has, when it has so many."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            with suppress(BlobNotFoundError):
                if (blob := await client.get_blob(DIGEST)).received_bytes >= least:
                    return blob.received_bytes
            await asyncio.sleep(0)


async def test_a_blob_there_and_back(tmp_path: Path) -> None:
    """Both clients give bytes and files, read them whole and in part, are told how far it is, list and delete."""
    (tmp_path / "file").write_bytes(DATA)
    async with kernel(tmp_path) as connection, AsyncClient(connection.kernel.addresses[0]) as client:
        told: list[tuple[int, int]] = []
        blob = await client.put_blob(tmp_path / "file", progress=lambda *far: told.append(far))
        assert (blob.digest, blob.size_bytes, blob.state) == (DIGEST, len(DATA), bp.BLOB_STATE_WHOLE)
        assert told == [(0, len(DATA)), (16 * MIB, len(DATA))]
        assert b"".join([chunk async for chunk in client.read_blob(DIGEST)]) == DATA
        part = [chunk async for chunk in client.read_blob(DIGEST, offset_bytes=MIB - 1, size_bytes=MIB + 3)]
        assert b"".join(part) == DATA[MIB - 1 : 2 * MIB + 2]
        assert [each.digest async for each in client.list_blobs()] == [DIGEST]

        def again() -> None:
            with Client(connection.kernel.addresses[0]) as sync:
                told.clear()
                assert sync.put_blob(DATA, progress=lambda *far: told.append(far)).digest == DIGEST
                assert told == []  # it is there: nothing is sent
                assert b"".join(sync.read_blob(DIGEST, offset_bytes=5)) == DATA[5:]
                other = sync.put_blob(bytearray(b"other"))
                assert sync.get_blob(other.digest).size_bytes == 5
                sync.delete_blob(DIGEST)
                assert [each.digest for each in sync.list_blobs()] == [other.digest]
                with pytest.raises(BlobNotFoundError, match=DIGEST):
                    list(sync.read_blob(DIGEST))

        await asyncio.to_thread(again)


@pytest.mark.parametrize("how", ["call", "kernel"])
async def test_what_came_stays_when_its_call_breaks(tmp_path: Path, how: str) -> None:
    """A call that is cut off, also with its kernel, leaves what came; the next one is told where to go on."""
    async with kernel(tmp_path) as connection, AsyncClient(connection.kernel.addresses[0]) as client:
        giving = Giving(connection)
        await giving.start()
        assert await giving.accepted() == 0
        await giving.give(DATA[: 3 * MIB])
        assert await received(client, 3 * MIB) == 3 * MIB
        if how == "call":
            giving.call.cancel()
            second = Giving(connection)
            await second.start()
            assert await second.accepted() == 3 * MIB
            second.call.cancel()
    async with kernel(tmp_path) as connection:
        giving = Giving(connection)
        await giving.start()
        assert await giving.accepted() == 3 * MIB
        await giving.give(DATA[3 * MIB :])
        while not (response := await giving.call.read()).HasField("complete"):
            pass
        assert response.complete.blob.state == bp.BLOB_STATE_WHOLE


@pytest.mark.parametrize(
    ("given", "reason", "why"),
    [
        ("no start", "INVALID_FIELD", "the first message has no start"),
        ("no digest", "INVALID_FIELD", "start.digest is ''; it must be sha256:"),
        ("a path", "INVALID_FIELD", "must be sha256: and 64 hexadecimal digits in lower case"),
        ("other bytes", "INVALID_FIELD", "they are forgotten"),
        ("too few", "INVALID_FIELD", "the chunks end at 2 of the 3 bytes"),
        ("too many", "INVALID_FIELD", "a chunk of 4 bytes comes behind 0 of the 3 bytes"),
        ("nothing", "LIMIT_EXCEEDED", "no chunk behind 0 of 3 bytes came for 0.2 s, which is blobs.idle_s"),
        ("too large", "LIMIT_EXCEEDED", "would be 101 bytes of blobs of the tenant, and blobs.tenant_bytes is 100"),
    ],
)
async def test_what_is_refused_says_why(tmp_path: Path, given: str, reason: str, why: str) -> None:
    """Each mistake of a client ends its call with a typed error that names the field or the bound and the numbers."""
    async with kernel(tmp_path, blobs={"idle_s": 0.2, "tenant_bytes": 100}) as connection:
        giving = Giving(connection)
        digests = {"no digest": "", "a path": "sha256:../../" + "a" * 58}
        if given != "no start":
            await giving.start(digests.get(given, DIGEST), 101 if given == "too large" else 3)
        match given:
            case "no start":
                await giving.give(b"123")
            case "other bytes":
                await giving.give(b"123")
            case "too few":
                await giving.give(b"12")
                await giving.call.done_writing()
            case "too many":
                await giving.give(b"1234")
        told, facts, message = await giving.refusal()
        assert (told, why in message) == (reason, True), message
        assert facts.get("bound", "blobs.").startswith("blobs.")


async def test_tenants_do_not_see_each_other(tmp_path: Path) -> None:
    """Of another tenant's blob every call says the same as of one that nobody has, byte by byte but for its name."""
    async with kernel(tmp_path) as connection:
        address = connection.kernel.addresses[0]
        async with AsyncClient(address, tenant="one") as one, AsyncClient(address, tenant="two") as two:
            await one.put_blob(b"secret")
            here, nowhere = (f"sha256:{sha256(data).hexdigest()}" for data in (b"secret", b"nobody has this"))
            said = []
            for digest in (here, nowhere):
                for ask in (two.get_blob, two.delete_blob):
                    with pytest.raises(BlobNotFoundError) as caught:
                        await ask(digest)
                    said.append(caught.value.message.replace(digest, "X"))
                giving = Giving(connection, "two")
                await giving.start(digest, 6)
                said.append(str(await giving.accepted()))
                giving.call.cancel()
            assert said[:3] == said[3:]


async def test_so_many_calls_at_once(tmp_path: Path) -> None:
    """Calls that give or read beyond the setting are refused by its name, and others go on."""
    async with kernel(tmp_path, blobs={"tenant_streams": 1}) as connection:
        first, second, other = Giving(connection), Giving(connection), Giving(connection, "other")
        await first.start()
        await first.accepted()
        await second.start()
        reason, facts, _ = await second.refusal()
        assert (reason, facts["bound"], facts["limit"]) == ("LIMIT_EXCEEDED", "blobs.tenant_streams", "1")
        await other.start()
        assert await other.accepted() == 0
        for giving in (first, other):
            giving.call.cancel()


async def test_a_kernel_ends_behind_what_its_calls_put_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that was cut off just before still forgets a blob of which nothing came: nothing is left of it."""
    received, late = Arrival.received, threading.Event()

    def slowly(arrival: Arrival) -> int:
        late.wait(0.1)
        return received(arrival)

    monkeypatch.setattr(Arrival, "received", slowly)
    async with kernel(tmp_path) as connection:
        giving = Giving(connection)
        await giving.start()
        assert await giving.accepted() == 0
        giving.call.cancel()
    with closing(opened_store(tmp_path / "kept/store")) as store:
        assert not list(store.records(Kind.UPLOAD))


async def test_damage_is_told_and_no_wrong_byte(tmp_path: Path) -> None:
    """Of a file that was changed the reader gets the pieces before it and BLOB_DAMAGED."""
    async with kernel(tmp_path) as connection, AsyncClient(connection.kernel.addresses[0]) as client:
        await client.put_blob(DATA)
        (file,) = (tmp_path / "data" / "blobs").rglob("*-s")
        with file.open("r+b") as damaged:
            damaged.seek(3 * MIB + 9000)  # so much more it is by then
            damaged.write(b"\xff" * 9)
        got = b""

        async def read() -> None:
            nonlocal got
            async for chunk in client.read_blob(DIGEST):
                got += chunk

        with pytest.raises(BlobDamagedError, match="some are not what was written"):
            await read()
        assert got == DATA[: 3 * MIB]
        with pytest.raises(InvalidFieldError, match="the blob ends at"):
            [_ async for _ in client.read_blob(DIGEST, offset_bytes=len(DATA) + 1)]


async def test_a_kernel_that_keeps_nothing_has_no_blobs(tmp_path: Path) -> None:
    """Where the store is `memory:`, that is what is said."""
    keeping = kernel(tmp_path, store={"url": "memory:"})
    async with keeping as connection, AsyncClient(connection.kernel.addresses[0]) as client:
        with pytest.raises(StoreUnavailableError, match=r"its store\.url is memory:"):
            await client.put_blob(b"x")


async def test_an_upload_goes_on_over_the_end_of_its_kernel(tmp_path: Path) -> None:
    """A client whose kernel ends while it gives a blob goes on with the next kernel, and all of it is there."""
    address = f"unix:{tmp_path}/s"
    held = asyncio.Event()
    told: list[int] = []

    def far(done: int, _: int) -> None:
        told.append(done)
        held.set()

    data = DATA * 3
    async with AsyncClient(address) as client:
        async with kernel(tmp_path, listen=(address,)):
            giving = asyncio.create_task(client.put_blob(data, progress=far))
            async with asyncio.timeout(DEADLINE_S):
                await held.wait()
                while not told[-1]:
                    held.clear()
                    await held.wait()
        async with kernel(tmp_path, listen=(address,)), asyncio.timeout(DEADLINE_S):
            assert (await giving).size_bytes == len(data)
            assert b"".join([chunk async for chunk in client.read_blob((await giving).digest)]) == data
        assert told.count(0) == 1


async def test_a_synchronous_client_goes_on_too(tmp_path: Path) -> None:
    """Giving and reading by the synchronous client go on with the next kernel, each byte once."""
    address, loop, begun = f"unix:{tmp_path}/s", asyncio.get_running_loop(), asyncio.Event()
    data = DATA * 3
    with Client(address) as client:

        def far(done: int, _: int) -> None:
            if done:
                loop.call_soon_threadsafe(begun.set)

        async with kernel(tmp_path, listen=(address,)), asyncio.timeout(DEADLINE_S):
            giving = asyncio.create_task(asyncio.to_thread(client.put_blob, data, progress=far))
            await begun.wait()
        async with kernel(tmp_path, listen=(address,)), asyncio.timeout(DEADLINE_S):
            digest = (await giving).digest
            chunks = client.read_blob(digest)
            got = [await asyncio.to_thread(next, chunks) for _ in range(3)]
        async with kernel(tmp_path, listen=(address,)), asyncio.timeout(DEADLINE_S):
            got += await asyncio.to_thread(list, chunks)
        assert b"".join(got) == data


async def test_limits_are_typed_in_the_client(tmp_path: Path) -> None:
    """The error of a client has the bound and both numbers as facts."""
    keeping = kernel(tmp_path, blobs={"blob_bytes": 10})
    async with keeping as connection, AsyncClient(connection.kernel.addresses[0]) as client:
        with pytest.raises(LimitExceededError) as caught:
            await client.put_blob(b"12345678901")
        assert caught.value.metadata == {"bound": "blobs.blob_bytes", "value": "11", "held": "0", "limit": "10"}
