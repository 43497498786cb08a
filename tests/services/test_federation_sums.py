"""The process that sums a round: what becomes of the federation while it runs, and where it dies."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from test_federations import gathered, plan

from inferd.errors import InternalError
from inferd.federation.accountant import epsilon_of
from inferd.federation.parts import Parts
from inferd.runtime.front import federation_running
from inferd.testing.kernel import kernel_here
from inferd_api.v1 import federation_pb2 as fp
from inferd_client import AsyncClient

PATIENCE_S = 60


@pytest.mark.parametrize(("deaths", "state"), [(2, fp.FEDERATION_STATE_SUCCEEDED), (3, fp.FEDERATION_STATE_FAILED)])
async def test_a_process_that_dies_is_begun_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deaths: int, state: int
) -> None:
    """Twice at most for a round: all updates are still there. Then the federation has failed."""
    computed, died = federation_running.computed, []

    async def dying(parts: Parts, *, limit_s: float) -> Parts:
        if len(died) < deaths:
            died.append(parts)
            raise InternalError("the process ended with status -9")
        return await computed(parts, limit_s=limit_s)

    monkeypatch.setattr(federation_running, "computed", dying)
    monkeypatch.setattr(federation_running, "SUM_PAUSE_S", 0.01)
    async with kernel_here(tmp_path) as kernel, AsyncClient(kernel.addresses[0]) as client:
        federation, _ = await gathered(client, plan(rounds=1))
        assert federation.state == state
        assert len(died) == deaths


async def test_a_federation_answers_while_it_sums(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its weights, who joins, and its end, which ends the process, too."""
    sums: asyncio.Queue[str] = asyncio.Queue()

    async def endless(*_: Any, **__: Any) -> Parts:
        sums.put_nowait("begun")
        try:
            await asyncio.Event().wait()
        finally:
            sums.put_nowait("ended")
        raise AssertionError

    monkeypatch.setattr(federation_running, "computed", endless)
    async with kernel_here(tmp_path) as kernel, AsyncClient(kernel.addresses[0]) as client:
        async with asyncio.timeout(PATIENCE_S):
            running = asyncio.create_task(gathered(client, plan(rounds=1)))
            assert await sums.get() == "begun"
            (known,) = [each.federation_id async for each in client.list_federations()]
            assert (await client.federation_weights(known)).round == 0
            assert (await client.join_federation(known)).client == 6
            assert (await client.cancel_federation(known)).state == fp.FEDERATION_STATE_CANCELLED
            assert await sums.get() == "ended"
            federation, _ = await running
        assert federation.state == fp.FEDERATION_STATE_CANCELLED


async def test_a_sum_that_is_refused_costs_privacy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each sum that was opened is accounted, also of an attempt of which nothing came."""
    computed, refused = federation_running.computed, []

    async def refusing(parts: Parts, *, limit_s: float) -> Parts:
        if not refused:
            refused.append(parts)
            return Parts({"wrong": "a client has given other examples"})
        return await computed(parts, limit_s=limit_s)

    monkeypatch.setattr(federation_running, "computed", refusing)
    privacy = fp.FederationPrivacy(clip=1.0, noise=1.0)
    async with kernel_here(tmp_path) as kernel, AsyncClient(kernel.addresses[0]) as client:
        federation, _ = await gathered(client, plan(rounds=2, secure=True, privacy=privacy))
        assert federation.rounds[0].attempt == 2
        assert federation.epsilon == pytest.approx(epsilon_of(multiplier=1.0, rounds=3, delta=1e-5))


async def test_so_many_rounds_are_summed_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`federate.sums`: others wait for their turn, and all come to their end."""
    computed, now, most = federation_running.computed, 0, 0

    async def counted(parts: Parts, *, limit_s: float) -> Parts:
        nonlocal now, most
        now += 1
        most = max(most, now)
        try:
            return await computed(parts, limit_s=limit_s)
        finally:
            now -= 1

    monkeypatch.setattr(federation_running, "computed", counted)
    federate = {"sums": 1}
    async with kernel_here(tmp_path, federate=federate) as kernel, AsyncClient(kernel.addresses[0]) as client:
        async with asyncio.timeout(PATIENCE_S):
            found = await asyncio.gather(*(gathered(client, plan(rounds=1)) for _ in range(3)))
        assert [each.state for each, _ in found] == [fp.FEDERATION_STATE_SUCCEEDED] * 3
        assert most == 1
