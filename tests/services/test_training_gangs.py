"""Trainings by several workers, with real workers of the fake backend: together, or with what hosts are left."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from far_host import far_host, until_state

from inferd.core.host import HostState
from inferd.core.ids import ModelName
from inferd.core.model import ModelSpec
from inferd.core.resources import MemoryNeed
from inferd.errors import ModelLoadError
from inferd.runtime.front.trials import Trials
from inferd.runtime.inspection import Inspections
from inferd.server import Kernel
from inferd.testing.kernel import kernel_here, write_fake_model
from inferd_api.v1 import training_pb2 as tp
from inferd_api.v1.model_pb2 import INSTANCE_STATE_READY
from inferd_client import AsyncClient
from inferd_client.errors import InvalidFieldError

pytestmark = pytest.mark.asyncio(loop_scope="module")

ROWS = [{"text": f"text {number}", "label": "red"} for number in range(40)]
FULL: dict[str, Any] = {"method": "full", "batch": 4, "epochs": 4, "checkpoint_every": 5}
QUICK: dict[str, Any] = {"report_s": 0.02, "retry_s": 0.1, "idle_s": 0.3, "vain": 3}
HOSTS: dict[str, Any] = {"detection_s": 1.2, "beat_s": 0.2, "grace_s": 20.0}

SMALL: dict[str, Any] = {"memory_bytes": {"fake:0": 64 << 20}}  # room for one that is large, or some that are not
DEADLINE_S = 90.0


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def kernel(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Kernel]:
    """A kernel with the backend that trains for tests."""
    async with kernel_here(tmp_path_factory.getbasetemp() / "gangs", train=QUICK, hosts=HOSTS, devices=SMALL) as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(kernel: Kernel, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[AsyncClient]:
    """A client of it, with a model whose training takes a while."""
    folder = tmp_path_factory.mktemp("models")
    async with AsyncClient(kernel.addresses[0]) as made:
        await made.create_model("slow", str(write_fake_model(folder, "slow", step_s=0.1)))
        await made.create_model("large", str(write_fake_model(folder, "large", step_s=0.1, weights_bytes=40 << 20)))
        await made.create_model("quick", str(write_fake_model(folder, "quick")))
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def wanted(client: AsyncClient) -> list[tuple[int, float]]:
    """The curve of a training by one worker that nothing has disturbed."""
    made = await client.train("alone", ROWS, recipe=FULL, model="quick")
    found = await ended(client, made.training_id)
    assert (found.state, found.ranks) == (tp.TRAINING_STATE_SUCCEEDED, 1), found.error
    return await curve(client, made.training_id)


async def ended(client: AsyncClient, training_id: str) -> tp.Training:
    """How a training ended."""
    async with asyncio.timeout(DEADLINE_S):
        return [each async for each in client.watch_training(training_id)][-1]


async def until(client: AsyncClient, training_id: str, step: int) -> tp.Training:
    """A training once it is as far as that."""
    async with asyncio.timeout(DEADLINE_S):
        async for told in client.watch_training(training_id):
            if told.step >= step and told.state == tp.TRAINING_STATE_RUNNING:
                return told
    raise AssertionError("it ended before")


async def curve(client: AsyncClient, training_id: str) -> list[tuple[int, float]]:
    return [(each.step, each.loss) async for each in client.training_steps(training_id)]


def pid_of(kernel: Kernel, training_id: str, place: int) -> int:
    """The worker of this place of a training, 0 for the one that leads."""
    name = f"training@{training_id}" + (f".{place}" if place else "")
    (found,) = [each.pid for key, each in kernel.driver.supervisor.workers.items() if key.rpartition("-")[0] == name]
    return found


async def test_several_workers_do_the_steps_of_one(
    kernel: Kernel, client: AsyncClient, wanted: list[tuple[int, float]]
) -> None:
    """Three workers come to the curve of one; clients see none of them, and nothing is left of them."""
    made = await client.train("three", ROWS, recipe={**FULL, "ranks": 3}, model="quick")
    found = await ended(client, made.training_id)
    assert found.state == tp.TRAINING_STATE_SUCCEEDED, found.error
    assert (found.ranks, found.attempts) == (3, 1)
    assert await curve(client, made.training_id) == wanted
    assert not [each async for each in client.list_models() if each.name.startswith("training@")]
    async with asyncio.timeout(DEADLINE_S):
        for place in ("", ".1", ".2"):
            await Trials(kernel.driver).gone(ModelName(f"training@{made.training_id}{place}"))


@pytest.mark.parametrize("place", [0, 1])
async def test_one_that_dies_ends_all_and_they_begin_again(
    kernel: Kernel, client: AsyncClient, wanted: list[tuple[int, float]], place: int
) -> None:
    """Killed, the one that leads or another one: all go on from the last checkpoint, and the curve is the same."""
    made = await client.train(f"killed-{place}", ROWS, recipe={**FULL, "ranks": 2}, model="slow")
    await until(client, made.training_id, step=7)
    os.kill(pid_of(kernel, made.training_id, place), signal.SIGKILL)
    found = await ended(client, made.training_id)
    assert found.state == tp.TRAINING_STATE_SUCCEEDED, found.error
    assert (found.ranks, found.attempts) == (2, 2)
    assert await curve(client, made.training_id) == wanted


async def test_it_goes_on_with_the_hosts_that_are_left(
    kernel: Kernel, client: AsyncClient, wanted: list[tuple[int, float]], tmp_path: Path
) -> None:
    """It waits for as many workers as it wants at least; one on a host that is lost leaves the others to go on."""
    made = await client.train("waits", ROWS, recipe={**FULL, "ranks": 2, "least_ranks": 2}, model="large")
    async with asyncio.timeout(DEADLINE_S):
        async for told in client.watch_training(made.training_id):
            if "1 of at least 2 ranks have room" in told.waits_for:
                break
    async with far_host(tmp_path, kernel.addresses[0]) as host:
        await until_state(kernel, "b", HostState.READY)
        found = await ended(client, made.training_id)
        assert (found.state, found.ranks) == (tp.TRAINING_STATE_SUCCEEDED, 2), found.error
        made = await client.train("left", ROWS, recipe={**FULL, "ranks": 3}, model="large")
        assert (await until(client, made.training_id, step=7)).ranks == 3  # two of them over there
        host.ends.set()
        await until_state(kernel, "b", HostState.LOST)
    found = await ended(client, made.training_id)
    assert (found.state, found.ranks) == (tp.TRAINING_STATE_SUCCEEDED, 1), found.error
    assert found.attempts == 2
    assert await curve(client, made.training_id) == wanted


async def test_what_cannot_be_measured_evicts_nobody_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where those that help cannot be measured, they are taken to need what the leader does, and leave others be."""
    measure = Inspections.inspect

    async def inspect(self: Inspections, spec: ModelSpec, *given: Any, **how: Any) -> MemoryNeed:
        if spec.name.startswith("training@") and "." in spec.name:
            raise ModelLoadError("its files are not there")
        return await measure(self, spec, *given, **how)

    monkeypatch.setattr(Inspections, "inspect", inspect)
    train = {**QUICK, "idle_s": 300.0}
    async with (
        kernel_here(tmp_path / "kernel", train=train, devices=SMALL) as kernel,
        AsyncClient(kernel.addresses[0]) as client,
    ):
        for name, size_bytes in (("rests", 24 << 20), ("trained", 20 << 20)):
            source = write_fake_model(tmp_path, name, weights_bytes=size_bytes)
            await client.create_model(name, str(source))
        await client.load_model("rests")
        made = await client.train("alone", ROWS, recipe={**FULL, "ranks": 2}, model="trained")
        found = await ended(client, made.training_id)
        assert (found.state, found.ranks) == (tp.TRAINING_STATE_SUCCEEDED, 1), found.error
        (rests,) = (await client.get_model("rests")).instances
        assert rests.state == INSTANCE_STATE_READY


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ranks": 65}, "from 1 to 64"),
        ({"ranks": 5}, "each needs a row"),
        ({"least_ranks": 2}, "at most that"),
        ({"method": "classify", "ranks": 2}, "no backend trains 'classify' by several"),
    ],
)
async def test_what_cannot_be_is_refused(client: AsyncClient, changes: dict[str, Any], words: str) -> None:
    """A number of ranks that cannot be is refused with its name and what it may be."""
    with pytest.raises(InvalidFieldError, match=words):
        await client.train("wrong", ROWS, recipe={**FULL, **changes}, model="quick")
