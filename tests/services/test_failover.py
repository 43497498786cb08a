"""Clients that know several kernels: they find the one that leads, and go on with the one that follows it."""

import asyncio
from pathlib import Path

import pytest
from far_host import far_host, until_state
from postgres_server import PostgresServer
from stores import Postgres
from test_standby import Member, members, silence

from inferd.core.host import HostState
from inferd.testing.kernel import write_fake_model
from inferd_api.v1.model_pb2 import PlacementRules
from inferd_client import AsyncClient, Client
from inferd_client.addresses import split_addresses
from inferd_client.errors import NotLeaderError


@pytest.fixture
def stores(postgres: PostgresServer, database: str) -> Postgres:
    """The store of all kernels of a test."""
    return Postgres(postgres, database)


async def addresses_of(*made: Member) -> str:
    """Where these kernels listen, those that stand by first."""
    leader = await made[0].kernel()
    return ",".join([*(address for each in made[1:] for address in each.addresses), *leader.addresses])


async def test_a_client_finds_the_leader_and_follows_it(
    tmp_path: Path, stores: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Named a standby first, it asks the other one; a stream goes on over a leader that falls silent, nothing twice."""
    async with members(tmp_path, stores) as (first, second):
        leader = await first.kernel()
        async with AsyncClient(await addresses_of(first, second)) as client:
            await client.create_model("fake", source=str(write_fake_model(tmp_path, step_s=0.01)))
            assert client.address in leader.addresses
            task = await client.create_task("fake", "la", max_tokens=300, temperature=0)
            texts, numbers = [], []
            async for event in client.watch(task.task_id):
                texts.append(event.output.text)
                numbers.append(event.sequence)
                if len(texts) == 8:
                    silence(leader, monkeypatch)
            assert "".join(texts) == "la" * 150
            assert numbers == sorted(set(numbers))
            assert second.leads.done()
            assert client.address in (await second.kernel()).addresses


async def test_a_client_with_threads_finds_the_leader_and_follows_it(tmp_path: Path, stores: Postgres) -> None:
    """As the other one, where the leader ends in order; a creation that was asked for meanwhile is answered once."""
    async with members(tmp_path, stores) as (first, second):
        addresses = await addresses_of(first, second)
        flows = asyncio.Event()
        loop = asyncio.get_running_loop()

        def use() -> tuple[str, list[str]]:
            with Client(addresses) as client:
                client.create_model("fake", source=str(write_fake_model(tmp_path, step_s=0.01)))
                task = client.create_task("fake", "la", max_tokens=200, temperature=0)
                texts = []
                for event in client.watch(task.task_id):
                    texts.append(event.output.text)
                    if len(texts) == 8:
                        loop.call_soon_threadsafe(flows.set)
                other = client.create_task("fake", "la", max_tokens=2, request_id="one")
                again = client.create_task("fake", "la", max_tokens=2, request_id="one")
                assert other.task_id == again.task_id
                return "".join(texts), [each.task_id for each in client.list_tasks()]

        using = asyncio.create_task(asyncio.to_thread(use))
        await asyncio.wait([using, asyncio.create_task(flows.wait())], return_when=asyncio.FIRST_COMPLETED)
        await first.leave()
        text, listed = await using
        assert text == "la" * 100
        assert len(listed) == 2


async def test_where_none_leads_each_kernel_is_named_with_what_it_said(tmp_path: Path, stores: Postgres) -> None:
    """A client of standbys and of addresses where nobody answers is told so of each, and not later than it waits."""
    async with members(tmp_path, stores) as (_, second):
        (address,) = second.addresses
        nobody = f"unix:{tmp_path}/nobody"
        async with AsyncClient(f"{address},{nobody}", timeout_s=0.5) as client:
            client._kernels.hear = lambda _: None  # type: ignore[method-assign] # as if the leader told no address
            with pytest.raises(NotLeaderError, match="no kernel leads") as caught:
                await client.get_host()
        assert f"{address}: it stands by" in caught.value.message
        assert f"{nobody}: there is no such socket" in caught.value.message


async def test_an_agent_attaches_to_the_kernel_that_leads(tmp_path: Path, stores: Postgres) -> None:
    """Given both kernels, it finds the one that leads; when that goes, the one that follows goes on with its worker."""
    async with members(tmp_path, stores) as (first, second):
        leader = await first.kernel()
        async with far_host(tmp_path, split_addresses(await addresses_of(first, second))) as host:
            await until_state(leader, "b", HostState.READY)
            path, rules = write_fake_model(tmp_path, step_s=0.01), PlacementRules(selector={"host": "b"})
            async with AsyncClient(await addresses_of(first, second)) as client:
                await client.create_model("fake", source=str(path), placement=rules)
                task, texts = await client.create_task("fake", "la", max_tokens=300, temperature=0), []
                async for event in client.watch(task.task_id):
                    texts.append(event.output.text)
                    if len(texts) == 8:
                        (worker,) = host.agent.hosted.values()
                        await first.leave()
            follower = await second.kernel()
            await until_state(follower, "b", HostState.READY)
            assert "".join(texts) == "la" * 150
            assert [*host.agent.hosted.values()] == [worker]
            assert [each.pid for each in follower.driver.supervisor.workers.values()] == [worker.pid]
