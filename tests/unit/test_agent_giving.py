"""Files of models from one host to another: by TLS and ticket, checked by digest, and nothing else is given."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import grpc
import pytest
from time_limits import LONG_S

from inferd.agent import giving as givings
from inferd.agent import peers
from inferd.agent.arriving import Arriving
from inferd.agent.cache import Cache, CachedFile
from inferd.agent.giving import PATH, SERVER_NAME, Giving, check_reached
from inferd.agent.peers import fetch_from
from inferd.errors import InvalidFieldError
from inferd.runtime.signal import Signal
from inferd_api.agent.v1 import agent_pb2 as wire

TICKET = b"t" * 32
MIB = 1 << 20
PIECE = 100


def described(name: str, data: bytes) -> CachedFile:
    pieces = tuple(sha256(data[at : at + PIECE]).digest() for at in range(0, len(data), PIECE))
    return CachedFile(name, sha256(data).hexdigest(), len(data), PIECE, pieces)


class Host:
    """One that has a model, and one that is to get it."""

    def __init__(self, folder: Path, giving: Giving, files: dict[str, bytes]) -> None:
        self.giving = giving
        self.files = [described(name, data) for name, data in files.items()]
        self.place = giving.cache.place(self.files)
        self.place.mkdir(parents=True)
        for name, data in files.items():
            (self.place / name).write_bytes(data)
        assert giving.cache.finish(self.place, self.files)
        self.cache = Cache(folder / "fetcher", 1 << 40)
        (self.cache.place(self.files)).mkdir(parents=True)

    def allow(self, *, holds_s: float = 60.0, ticket: bytes = TICKET) -> None:
        self.giving.allow(wire.GiveFiles(ticket=ticket, folder=self.place.name, holds_s=holds_s))

    def peer(self, **more: Any) -> wire.FilePeer:
        return wire.FilePeer(**{"host": "b", "server": self.giving.server, "ticket": TICKET, **more})

    async def arriving(self) -> Arriving:
        made = Arriving(self.cache, self.cache.place(self.files), self.files, lambda: None)
        await made.look()
        return made

    def got(self, file: CachedFile) -> bytes:
        path = self.cache.place(self.files) / file.name
        return path.read_bytes() if path.exists() else b""


@asynccontextmanager
async def host(folder: Path, files: dict[str, bytes], *, most: int = 2) -> AsyncIterator[Host]:
    made = Giving(Cache(folder / "giver", 1 << 40), most)
    async with made.running("127.0.0.1:0"):
        yield Host(folder, made, files)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "AGAIN_S", 0.01)


async def test_a_model_is_read_from_another_host(tmp_path: Path) -> None:
    """All that is missing comes, equal pieces once; what was there stays, and a ticket may come behind its reader."""
    same = os.urandom(100)
    files = {"a.bin": os.urandom(250) + same[:50], "b.json": b"", "c.bin": same + os.urandom(30), "d.bin": same}
    async with host(tmp_path, files) as there:
        there.cache.write(there.cache.place(there.files), there.files[0], 1, files["a.bin"][100:200])
        arriving = await there.arriving()
        assert arriving.known == {("a.bin", 1)}
        fetching = asyncio.create_task(fetch_from(there.peer(), arriving))
        await asyncio.wait({fetching}, timeout=0.02)
        there.allow()
        assert await fetching
        assert arriving.whole
        place = there.cache.place(there.files)
        assert there.cache.finish(place, there.files)
        assert {each.name: (place / each.name).read_bytes() for each in there.files} == files


async def test_a_hostile_or_broken_host_is_found(tmp_path: Path) -> None:
    """Bytes that are not what the kernel says, or too few, are not taken; what was right before them stays."""
    files = {"a.bin": os.urandom(300)}
    async with host(tmp_path, files) as there:
        there.allow()
        (there.place / "a.bin").write_bytes(files["a.bin"][:100] + bytes(200))
        arriving = await there.arriving()
        assert not await fetch_from(there.peer(), arriving)
        assert arriving.known == {("a.bin", 0)}
        os.truncate(there.place / "a.bin", 150)
        assert not await fetch_from(there.peer(), arriving)
        (there.place / ".whole").unlink()
        assert not await fetch_from(there.peer(), arriving)
        (there.place / "a.bin").write_bytes(files["a.bin"])
        (there.place / ".whole").touch()
        assert await fetch_from(there.peer(), arriving)
        assert there.got(there.files[0]) == files["a.bin"]


async def test_a_host_that_trickles_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is never silent and gives next to nothing is given up as a silent one is; a quick one is not."""
    ended = asyncio.Event()

    async def trickles(_giving: Giving, _place: Path, _part: wire.FilePart, context: Any) -> None:
        try:
            while True:
                await Signal().wait(0, limit_s=0.01)
                await context.write(wire.PartBytes(data=b"x"))
        finally:
            ended.set()

    async with host(tmp_path, {"a.bin": os.urandom(100_000)}) as there:
        there.allow()
        with monkeypatch.context() as slow:
            slow.setattr(peers, "PACE_S", 0.05)
            slow.setattr(Giving, "_give", trickles)
            async with asyncio.timeout(LONG_S):
                assert not await fetch_from(there.peer(), await there.arriving())
                await ended.wait()
        assert await fetch_from(there.peer(), await there.arriving())


async def test_nobody_reads_without_a_ticket_or_another_server(tmp_path: Path) -> None:
    """An unknown, an ended and no ticket are refused; who has not the certificate that the kernel told is not asked."""
    async with host(tmp_path, {"a.bin": os.urandom(100)}) as there, host(tmp_path / "2", {"a.bin": b"x"}) as other:
        arriving = await there.arriving()
        there.allow(holds_s=-1)
        there.allow(ticket=b"")
        for ticket in (TICKET, b"", b"x" * 32):
            assert not await fetch_from(there.peer(ticket=ticket), arriving)
        there.allow()
        server = wire.FileServer(address=there.giving.server.address, certificate=other.giving.server.certificate)
        assert not await fetch_from(there.peer(server=server), arriving)
        assert not await fetch_from(there.peer(server=wire.FileServer(address="x", certificate=b"none")), arriving)
        assert not arriving.known


@pytest.mark.parametrize(
    "part",
    [
        {"name": "../giver.key", "size_bytes": 1},
        {"name": ".whole", "size_bytes": 1},
        {"name": "link", "size_bytes": 1},
        {"name": "pipe", "size_bytes": 1},
        {"name": "a.bin", "size_bytes": 0},
        {"name": "a.bin", "offset_bytes": 101, "size_bytes": 1},
        {"name": "a.bin", "offset_bytes": (1 << 64) - 1, "size_bytes": 1},
        {"name": "a.bin", "size_bytes": 1 << 40},
    ],
)
async def test_only_what_is_of_the_model_is_given(tmp_path: Path, part: dict[str, Any]) -> None:
    """Whoever has a ticket reads files of that model by name, and no links, no pipes, nothing beside or behind them."""
    async with host(tmp_path, {"a.bin": os.urandom(100)}) as there:
        there.allow()
        (tmp_path / "giver.key").write_text("secret")
        (there.place / "link").symlink_to(tmp_path / "giver.key")
        os.mkfifo(there.place / "pipe")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await read(there, wire.FilePart(**part))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_a_ticket_is_read_with_once_at_a_time_and_may_be_taken_back(tmp_path: Path) -> None:
    """It takes one place, however many read with it; taken back it opens nothing, and costs no other one its place."""
    async with host(tmp_path, {"a.bin": os.urandom(32 * MIB)}) as there:
        there.allow()
        there.allow(ticket=b"other")
        byte = wire.FilePart(name="a.bin", size_bytes=1)
        async with channel(there) as opened:
            parts = [wire.FilePart(name="a.bin", size_bytes=32 * MIB)]
            stream = stub(opened)(wire.ReadParts(ticket=TICKET, parts=parts))
            assert len((await stream.read()).data) == MIB
            with pytest.raises(grpc.aio.AioRpcError, match="reads with this ticket already"):
                await read(there, byte)
            assert await read(there, byte, ticket=b"other") == 1
            stream.cancel()
        there.allow(holds_s=0.0)
        with pytest.raises(grpc.aio.AioRpcError, match="not known, or holds no longer"):
            await read(there, byte)
        for number in range(2 * givings.MOST_TICKETS):
            there.allow(holds_s=1e-9, ticket=b"%d" % number)
        assert await read(there, byte, ticket=b"other") == 1


async def test_a_host_gives_to_so_many_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One more is refused until one has ended, also one that takes nothing; meanwhile the model does not go."""
    monkeypatch.setattr(givings, "IDLE_S", 0.3)
    async with host(tmp_path, {"a.bin": os.urandom(32 * MIB)}, most=1) as there:
        there.allow()
        part = wire.FilePart(name="a.bin", size_bytes=32 * MIB)
        async with channel(there) as opened:
            stream = stub(opened)(wire.ReadParts(ticket=TICKET, parts=[part]))
            assert len((await stream.read()).data) == MIB
            assert there.giving.cache._used[there.place] == 1
            there.allow(ticket=b"other")
            with pytest.raises(grpc.aio.AioRpcError, match=r"hosts\.gives"):
                await read(there, wire.FilePart(name="a.bin", size_bytes=1), ticket=b"other")
            while there.giving._open:
                await Signal().wait(0, limit_s=0.02)
            stream.cancel()
        assert there.giving.cache._used[there.place] == 0
        assert await read(there, wire.FilePart(name="a.bin", size_bytes=5)) == 5


@asynccontextmanager
async def channel(there: Host) -> AsyncIterator[grpc.aio.Channel]:
    credentials = grpc.ssl_channel_credentials(root_certificates=there.giving.server.certificate)
    options = (("grpc.ssl_target_name_override", SERVER_NAME),)
    async with grpc.aio.secure_channel(there.giving.server.address, credentials, options=options) as made:
        yield made


def stub(opened: grpc.aio.Channel) -> Any:
    return opened.unary_stream(
        PATH, request_serializer=wire.ReadParts.SerializeToString, response_deserializer=wire.PartBytes.FromString
    )


async def read(there: Host, part: wire.FilePart, *, ticket: bytes = TICKET) -> int:
    """How many bytes come of a part."""
    async with channel(there) as opened:
        return sum([len(each.data) async for each in stub(opened)(wire.ReadParts(ticket=ticket, parts=[part]))])


@pytest.mark.parametrize("address", ["", "host", ":1", "0.0.0.0:7412", "[::]:1", "host:x", "host:70000"])
def test_an_address_that_nobody_reaches_is_refused(address: str) -> None:
    """With what to write instead."""
    check_reached("10.0.0.5:7412")
    with pytest.raises(InvalidFieldError, match="by which other hosts reach it"):
        check_reached(address)


async def test_an_address_of_another_machine_is_told(tmp_path: Path) -> None:
    """It cannot be listened on: the option is named."""
    with pytest.raises(InvalidFieldError, match=r"--serve-files 203\.0\.113\.9:1"):
        async with Giving(Cache(tmp_path, 1), 1).running("203.0.113.9:1"):
            pass
