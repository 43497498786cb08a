"""An agent in this process, attached to a kernel over TCP that can be broken."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from connection import Connection

from inferd.agent.agent import Agent
from inferd.agent.cache import Cache
from inferd.agent.connection import Kernels
from inferd.agent.facts import Found
from inferd.agent.giving import Giving
from inferd.config import Settings
from inferd.core.host import HostState
from inferd.core.ids import HostId
from inferd.server import Kernel
from inferd.testing.kernel import FAKE_PLUGIN, write_fake_model
from inferd_api.v1.model_pb2 import Model, PlacementRules
from inferd_api.v1.model_service_pb2 import CreateModelRequest

DEADLINE_S = 60.0


@dataclass
class Heard:
    """What an agent has told of how it stands."""

    told: list[str] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def attached(self, epoch: int, *, resumed: bool) -> None:
        self._add("again" if resumed else f"anew {epoch}")

    def detached(self, why: str) -> None:
        self._add(f"lost: {why}")

    def _add(self, what: str) -> None:
        self.told.append(what)
        self.changed.set()

    async def until(self, begins: str, count: int = 1) -> None:
        """Wait until so many of what was told begin so."""
        async with asyncio.timeout(DEADLINE_S):
            while sum(each.startswith(begins) for each in self.told) < count:
                self.changed.clear()
                await self.changed.wait()


@dataclass
class FarHost:
    """An agent that runs.

    Attributes:
        agent: It.
        heard: What it has told.
        ends: Has it end.
        running: Its run.
    """

    agent: Agent
    heard: Heard
    ends: asyncio.Event
    running: asyncio.Task[None]


def cache_of(folder: Path, name: str) -> Cache:
    """Where an agent keeps files of models."""
    return Cache(folder / name / "data" / "hosted", 1 << 40)


async def made_agent(
    folder: Path,
    address: str | tuple[str, ...],
    name: str,
    *,
    credential: str = "",
    labels: Mapping[str, str] | None = None,
    giving: Giving | None = None,
) -> tuple[Agent, Heard]:
    """An agent that does not run yet; `giving` gives its files to others."""
    settings = Settings(
        state_dir=folder / name / "state", data_dir=folder / name / "data", plugin_modules=(FAKE_PLUGIN,), backends=()
    )
    found, heard = await Found.here(settings), Heard()
    logs = settings.state_dir / "workers"
    facts = found.facts(name, labels or {}, logs)
    if giving is not None:
        facts.files.CopyFrom(giving.server)
    agent = Agent(
        facts,
        kernels=Kernels((address,) if isinstance(address, str) else address, credential),
        found=found,
        log_folder=logs,
        own=[str(settings.state_dir)],
        cache=cache_of(folder, name) if giving is None else giving.cache,
        watcher=heard,
        giving=giving,
    )
    return agent, heard


@asynccontextmanager
async def far_host(
    folder: Path, address: str | tuple[str, ...], name: str = "b", **more: Any
) -> AsyncIterator[FarHost]:
    """An agent that runs until the block ends."""
    agent, heard = await made_agent(folder, address, name, **more)
    ends = asyncio.Event()
    running = asyncio.create_task(agent.run(ends))
    try:
        yield FarHost(agent, heard, ends, running)
    finally:
        ends.set()
        async with asyncio.timeout(DEADLINE_S):
            await asyncio.gather(running, return_exceptions=True)
        assert not agent.hosted


async def until_state(kernel: Kernel, name: str, state: HostState) -> None:
    """Wait until a host stands so in the kernel."""
    changes = kernel.driver.watchers.hosts
    async with asyncio.timeout(DEADLINE_S):
        while True:
            seen = changes.version
            host = kernel.driver.machine.hosts.known.get(HostId(name))
            if host is not None and host.state is state:
                return
            await changes.wait(seen)


async def place(connection: Connection, name: str, host: str, **behaviour: Any) -> str:
    """A model that may be on this host alone; "" for any."""
    path = write_fake_model(connection.folder, name, **behaviour)
    model = Model(name=name, source=str(path), placement=PlacementRules(selector={"host": host} if host else {}))
    await connection.models.CreateModel(CreateModelRequest(model=model))
    return name
