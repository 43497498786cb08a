import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from connection import Connection
from proxy import Proxy, proxy_to

from inferd.testing.kernel import OPEN_PORT, kernel_here
from inferd_api.v1 import task_pb2 as tp
from inferd_client import AsyncClient, Client, channel
from inferd_client.errors import KernelUnreachableError

BREAKS = 4
TASKS = 5
TOKENS = 300
BETWEEN = 50  # tokens that come before the next break
PATIENCE_S = 60
PAUSE_MS = 3000  # between two tries to connect


class Reader:
    """Takes what comes of a task, and breaks the connection now and then.

    Attributes:
        events: All that came.
    """

    def __init__(self, proxy: Proxy, loop: asyncio.AbstractEventLoop, *, breaks: bool) -> None:
        self.events: list[tp.TaskEvent] = []
        self._proxy = proxy
        self._loop = loop
        self._next = BETWEEN if breaks else TOKENS
        self._tokens = 0

    def take(self, event: tp.TaskEvent) -> None:
        self.events.append(event)
        self._tokens += len(event.output.token_ids)
        if self._next <= self._tokens < BETWEEN * (BREAKS + 1):
            self._next = self._tokens + BETWEEN
            self._loop.call_soon_threadsafe(self._proxy.abort)

    @property
    def text(self) -> str:
        return "".join(event.output.text for event in self.events)


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_tasks_lose_and_repeat_nothing_where_connections_break(connection: Connection, kind: str) -> None:
    """The tasks of a client whose connection breaks time and again give each of their tokens once, and their end."""
    await connection.create(step_s=0.005)
    loop = asyncio.get_running_loop()
    async with proxy_to(connection.kernel.addresses[0]) as proxy:
        readers = [Reader(proxy, loop, breaks=not n) for n in range(TASKS)]
        async with asyncio.timeout(PATIENCE_S):
            await (_read_sync if kind == "sync" else _read_async)(proxy, readers)
        assert proxy.connections > 2
    for reader in readers:
        assert reader.text == "abc" * (TOKENS // 3)
        numbers = [event.sequence for event in reader.events]
        assert numbers == sorted(set(numbers))
        assert reader.events[-1].finished.state == tp.TASK_STATE_SUCCEEDED


async def _read_async(proxy: Proxy, readers: list[Reader]) -> None:
    async def read(reader: Reader) -> None:
        async for event in client.run("fake", "abc", max_tokens=TOKENS, temperature=0):
            reader.take(event)

    async with AsyncClient(proxy.address) as client, asyncio.TaskGroup() as group:
        for reader in readers:
            group.create_task(read(reader))


async def _read_sync(proxy: Proxy, readers: list[Reader]) -> None:
    def read(reader: Reader) -> None:
        for event in client.run("fake", "abc", max_tokens=TOKENS, temperature=0):
            reader.take(event)

    with Client(proxy.address) as client:
        async with asyncio.TaskGroup() as group:
            for reader in readers:
                group.create_task(asyncio.to_thread(read, reader))


@asynccontextmanager
async def kernel_at(folder: Path, address: str) -> AsyncIterator[Connection]:
    """A kernel with a model, at an address that is free."""
    await asyncio.to_thread(folder.mkdir)
    async with kernel_here(folder, **{**OPEN_PORT, "listen": (address,)}) as kernel:
        made = Connection(kernel, folder)
        await made.create()
        yield made
        await made.channel.close()


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_a_client_outlives_its_kernel(tmp_path: Path, kind: str) -> None:
    """A client runs tasks again, on the same address, after its kernel has been started again, however often."""
    address = "127.0.0.1:0"
    async with asyncio.timeout(PATIENCE_S):
        async with kernel_at(tmp_path / "first", address) as first:
            address = first.kernel.addresses[0]
            sync, other = Client(address), AsyncClient(address)
            texts = [await _generate(sync, other, kind)]
        for name in ("second", "third"):
            async with kernel_at(tmp_path / name, address):
                texts.append(await _generate(sync, other, kind))
    sync.close()
    await other.close()
    assert texts == ["abcabc"] * 3


async def test_a_kernel_that_has_come_back_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next call of whatever kind is answered once a kernel is there, though the one before found none."""
    pauses = {"grpc.initial_reconnect_backoff_ms": PAUSE_MS, "grpc.max_reconnect_backoff_ms": PAUSE_MS}
    monkeypatch.setattr(channel, "OPTIONS", tuple({**dict(channel.OPTIONS), **pauses}.items()))
    async with kernel_at(tmp_path / "first", "127.0.0.1:0") as first:
        address = first.kernel.addresses[0]
    syncs, others = [Client(address) for _ in range(3)], [AsyncClient(address) for _ in range(3)]
    for sync, other in zip(syncs, others, strict=True):
        with pytest.raises(KernelUnreachableError):
            await asyncio.to_thread(sync.get_host)
        with pytest.raises(KernelUnreachableError):
            await other.get_host()
    async with asyncio.timeout(PATIENCE_S), kernel_at(tmp_path / "second", address):
        names = await asyncio.gather(
            asyncio.to_thread(lambda: syncs[0].get_model("fake").name),
            asyncio.to_thread(lambda: next(syncs[1].watch_model("fake")).name),
            others[0].get_model("fake"),
            anext(others[1].watch_model("fake")),
            _generate(syncs[2], others[2], "sync"),
            _generate(syncs[2], others[2], "async"),
        )
        assert [getattr(name, "name", name) for name in names] == ["fake"] * 4 + ["abcabc"] * 2
        for sync, other in zip(syncs, others, strict=True):
            sync.close()
            await other.close()


async def _generate(sync: Client, other: AsyncClient, kind: str) -> str:
    if kind == "async":
        return (await other.generate("fake", "abc", max_tokens=6, temperature=0)).text
    return (await asyncio.to_thread(sync.generate, "fake", "abc", max_tokens=6, temperature=0)).text
