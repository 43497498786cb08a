"""A model that many hosts load together leaves the kernel about once: they give it to each other."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from connection import Connection, read_all
from far_host import cache_of, far_host, until_state

from inferd.agent.giving import Giving
from inferd.core.host import HostState
from inferd.services.agents import Agents
from inferd.testing.kernel import kernel_here
from inferd_api.v1.model_pb2 import Model, PlacementRules
from inferd_api.v1.model_service_pb2 import CreateModelRequest, LoadModelRequest

MIB = 1 << 20
HOSTS, SIZE = "bc", 9 * MIB
DEADLINE_S = 60.0


@pytest.fixture
def left(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes of models that the kernel gives, by part; all hosts have to fetch, and soon say what they have."""
    monkeypatch.setattr("inferd.agent.hosted._is_missing", lambda _: True)
    monkeypatch.setattr("inferd.agent.holding.AGAIN_S", 0.01)
    given, give = list[int](), Agents._give

    async def noted(self: Agents, call: Any, part: Any) -> None:
        given.append(len(part.chunk))
        await give(self, call, part)

    monkeypatch.setattr(Agents, "_give", noted)
    return given


class Fleet:
    """A kernel with hosts that give files, and a connection to it."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.folder = connection.folder

    async def create(self, name: str) -> str:
        """A large model, on each host by a name of its own; its text."""
        path = self.folder / f"{name}.fake"
        path.write_text("{}" + " " * SIZE)
        for host in HOSTS:
            rules = PlacementRules(selector={"host": host})
            model = Model(name=f"{name}-{host}", source=str(path), placement=rules)
            await self.connection.models.CreateModel(CreateModelRequest(model=model))
        return path.read_text()

    async def load(self, name: str, hosts: str = HOSTS) -> None:
        loads = [self.connection.models.LoadModel(LoadModelRequest(name=f"{name}-{host}")) for host in hosts]
        async with asyncio.timeout(DEADLINE_S):
            await asyncio.gather(*loads)

    def file(self, name: str, host: str) -> Path:
        (found,) = cache_of(self.folder, host).folder.glob(f"*/{name}.fake")
        return found


@asynccontextmanager
async def fleet(folder: Path) -> AsyncIterator[Fleet]:
    async with kernel_here(folder) as kernel, AsyncExitStack() as stack:
        for name in HOSTS:
            giving = Giving(cache_of(folder, name), 3)
            await stack.enter_async_context(giving.running("127.0.0.1:0"))
            await stack.enter_async_context(far_host(folder, kernel.addresses[0], name, giving=giving))
            await until_state(kernel, name, HostState.READY)
        made = Connection(kernel, folder)
        yield Fleet(made)
        await made.channel.close()


async def test_a_model_leaves_the_kernel_about_once(tmp_path: Path, left: list[int]) -> None:
    """Of hosts that load it at once one is given it by the kernel, and the others by that one, whole.

    A host that gives other bytes is asked once by each, and what it gave is not taken.
    """
    async with fleet(tmp_path) as made:
        text = await made.create("x")
        await made.load("x")
        assert SIZE <= sum(left) <= 1.3 * SIZE
        assert all(made.file("x", host).read_text() == text for host in HOSTS)
        await made.create("y")
        await made.load("y", "b")
        made.file("y", "b").write_text("{}" + "-" * SIZE)
        left.clear()
        await made.load("y", "c")
        assert SIZE <= sum(left) <= 2.3 * SIZE
        assert made.file("y", "c").read_text() == text
        task = made.connection.endless(model="y-c", tokens=4)
        assert (await read_all(task))[-1].finished.receipt.device == "c/fake:0"
