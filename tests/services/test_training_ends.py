"""What is left of trainings when they end otherwise than usual: cancelled late, left by their client, of no use."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from inferd.core.ids import NO_LEASE, LeaseId, ModelName, Tenant
from inferd.core.lease import LeaseSpec, LeaseState, ModelClaim
from inferd.core.training import Training, TrainingMethod, TrainingRecipe, TrainingSpec, TrainingState
from inferd.errors import present
from inferd.runtime.front.caller import Caller
from inferd.runtime.front.training_outcome import TrainingOutcome
from inferd.runtime.front.training_run import TrainingRun
from inferd.runtime.front.trainings import Trainings
from inferd.runtime.kept_trainings import HeldTrainings
from inferd.testing.kernel import front_here, kernel_here, write_fake_model
from inferd.training_errors import TrainingNotFoundError
from inferd_api.v1 import training_pb2 as tp
from inferd_api.v1.lease_pb2 import LEASE_STATE_ACTIVE
from inferd_client import AsyncClient, claims

ROWS = [{"text": f"text {number}", "label": ("red", "blue")[number % 3 == 0]} for number in range(40)]
CLASSIFY: dict[str, Any] = {"method": "classify", "batch": 4, "epochs": 3}
QUICK: dict[str, Any] = {"report_s": 0.02, "retry_s": 0.1, "idle_s": 0.3}
DEADLINE_S = 90.0


@asynccontextmanager
async def client_of(folder: Path) -> AsyncIterator[AsyncClient]:
    """A client of a kernel with the backend that trains for tests."""
    async with kernel_here(folder, train=QUICK) as kernel, AsyncClient(kernel.addresses[0]) as made:
        yield made


async def ended(client: AsyncClient, training_id: str) -> tp.Training:
    """How a training ended."""
    async with asyncio.timeout(DEADLINE_S):
        return [each async for each in client.watch_training(training_id)][-1]


async def test_a_kept_lease_of_what_cannot_be_a_model_lets_a_kernel_start(tmp_path: Path) -> None:
    """A lease whose model has a name that none can have ends with the start of the next kernel, which serves."""
    chosen: dict[str, Any] = {"store": {"url": f"sqlite:{tmp_path}/kept/store"}}
    source, inner = str(write_fake_model(tmp_path, "fake")), ModelName("training@0a1b2c3d4e5f60718293")
    lease_id, tenant = LeaseId("held"), Tenant("default")
    async with kernel_here(tmp_path, **chosen) as kernel, AsyncClient(kernel.addresses[0]) as first:
        await first.create_model("fake", source)
        spec = kernel.driver.views.model(ModelName("fake")).spec
        kernel.driver.create_model(replace(spec, name=inner))
        await kernel.driver.loading.load(inner, tenant, NO_LEASE)
        held = (ModelClaim(model=inner, sequences=1),)
        kernel.driver.create_lease(LeaseSpec(lease_id=lease_id, tenant=tenant, claims=held, ttl_s=600.0))
        await present(kernel.driver.keeper).settled_lease(lease_id)
    async with kernel_here(tmp_path, **chosen) as kernel, AsyncClient(kernel.addresses[0]) as second:
        assert kernel.driver.views.lease(lease_id, tenant).state is LeaseState.EXPIRED
        assert (await second.generate("fake", "hello", max_tokens=5)).text == "hello"


async def test_a_kept_lease_on_a_version_by_its_number_holds(tmp_path: Path) -> None:
    """It holds its part in the next kernel, and its version answers; that on one whose files have changed is lost."""
    chosen: dict[str, Any] = {"store": {"url": f"sqlite:{tmp_path}/kept/store"}}
    sources = {name: write_fake_model(tmp_path, name) for name in ("fake", "new", "gone", "next")}
    held = {}
    async with kernel_here(tmp_path, **chosen) as kernel, AsyncClient(kernel.addresses[0]) as client:
        for name, other in (("fake", "new"), ("gone", "next")):
            await client.create_model(name, str(sources[name]))
            await client.update_model(name, source=str(sources[other]), timeout_s=DEADLINE_S)
            await client.load_model(f"{name}@1", timeout_s=DEADLINE_S)
            held[name] = (await client.create_lease(claims.model(f"{name}@1", sequences=1), ttl_s=600)).lease_id
            await present(kernel.driver.keeper).settled_lease(LeaseId(held[name]))
    write_fake_model(tmp_path, "gone", context_tokens=77)
    async with kernel_here(tmp_path, **chosen) as kernel, AsyncClient(kernel.addresses[0]) as client:
        assert (await client.get_lease(held["fake"])).state == LEASE_STATE_ACTIVE
        assert (await client.generate("fake@1", "hello", max_tokens=5, lease=held["fake"])).text == "hello"
        assert "gone@1" in (await client.get_lease(held["gone"])).error.message


async def test_what_is_being_made_known_is_not_cancelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cancelled while its result is made known a training succeeds, and the model has its files."""
    settling, cancelling, settle, cancel = asyncio.Event(), asyncio.Event(), TrainingOutcome.settle, Trainings.cancel

    async def slowly(self: TrainingOutcome, *given: Any) -> Any:
        found = await settle(self, *given)
        settling.set()
        await cancelling.wait()
        return found

    async def told(self: Trainings, *given: Any) -> Any:
        cancelling.set()
        return await cancel(self, *given)

    monkeypatch.setattr(TrainingOutcome, "settle", slowly)
    monkeypatch.setattr(Trainings, "cancel", told)
    async with client_of(tmp_path) as client:
        made = await client.train("late", ROWS, recipe=CLASSIFY)
        async with asyncio.timeout(DEADLINE_S):
            await settling.wait()
        found = await client.cancel_training(made.training_id)
        assert found.state == tp.TRAINING_STATE_SUCCEEDED
        assert (await client.generate("late", "hello", max_tokens=5)).text == "hello"


async def test_one_whose_client_goes_while_it_is_kept_has_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that leaves while its training is kept leaves one behind that can be run."""
    keeping, gone, put, ids = asyncio.Event(), asyncio.Event(), HeldTrainings.put, set[str]()

    async def slowly(self: HeldTrainings, training: Training, *given: Any) -> None:
        ids.add(training.training_id)
        keeping.set()
        await gone.wait()
        await put(self, training, *given)
        kept.set()

    async def lines() -> AsyncIterator[bytes]:
        yield "\n".join(map(json.dumps, ROWS)).encode()

    kept = asyncio.Event()
    monkeypatch.setattr(HeldTrainings, "put", slowly)
    caller = Caller(tenant=Tenant("default"))
    spec = TrainingSpec(name="left", model="", recipe=TrainingRecipe(method=TrainingMethod.CLASSIFY))
    async with front_here(tmp_path, train=QUICK) as front, asyncio.timeout(DEADLINE_S):
        calling = asyncio.create_task(front.trainings.create(spec, lines(), None, caller))
        await keeping.wait()
        calling.cancel()
        await asyncio.wait({calling})
        gone.set()
        await kept.wait()
        await asyncio.sleep(0)
        told = [each async for each in front.trainings.watch(ids.pop(), caller)]
        assert told[-1].state is TrainingState.SUCCEEDED, told[-1].error


async def test_what_is_used_of_a_failed_one_stays(tmp_path: Path) -> None:
    """A result that was made known by hand, as its own name was taken, stays when the training is deleted."""
    async with client_of(tmp_path) as client:
        twins = [await client.train("twin", ROWS, recipe=CLASSIFY) for _ in range(2)]
        ends = [await ended(client, each.training_id) for each in twins]
        (failed,) = [each for each in ends if each.state == tp.TRAINING_STATE_FAILED]
        assert "model 'twin' exists" in failed.error.message
        folder = tmp_path / "state" / "trainings" / failed.training_id / "result"
        (source,) = [each for each in sorted(folder.iterdir()) if each.suffix not in {".json", ".md"}]
        await client.create_model("byhand", str(source))
        await client.delete_training(failed.training_id)
        assert (await client.generate("byhand", "hello", max_tokens=5)).text == "hello"


async def test_a_result_goes_with_the_last_model_that_has_it(tmp_path: Path) -> None:
    """Of a training that was deleted it stays for a model, also over a kernel, and goes when that is deleted."""
    chosen: dict[str, Any] = {"store": {"url": f"sqlite:{tmp_path}/kept/store"}, "train": QUICK}
    async with kernel_here(tmp_path, **chosen) as kernel, AsyncClient(kernel.addresses[0]) as client:
        ends = [
            await ended(client, (await client.train(name, ROWS, recipe=CLASSIFY)).training_id)
            for name in ("first", "second")
        ]
        folders = [Path(each.result.path).parents[1] for each in ends]
        for each in ends:
            await client.delete_training(each.training_id)
        await client.delete_model("first", force=True)
        await until_gone(folders[0])
        assert await asyncio.to_thread(folders[1].exists)
    async with kernel_here(tmp_path, **chosen) as kernel, AsyncClient(kernel.addresses[0]) as client:
        assert (await client.generate("second", "hello", max_tokens=5)).text == "hello"
        assert await asyncio.to_thread(folders[1].exists)
        await client.delete_model("second", force=True)
        await until_gone(folders[1])


async def until_gone(folder: Path) -> None:
    """Wait until a folder is there no more, which nothing tells."""
    async with asyncio.timeout(DEADLINE_S):
        while await asyncio.to_thread(folder.exists):  # noqa: ASYNC110 - nobody is told
            await asyncio.sleep(0)


async def test_one_whose_canceller_goes_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its files go though the client that cancels it has gone before its worker; who watches a shredded one is told."""
    waiting, gone, gone_of = asyncio.Event(), asyncio.Event(), TrainingRun.gone

    async def slowly(self: TrainingRun, training: Training) -> None:
        waiting.set()
        await gone.wait()
        await gone_of(self, training)

    async def lines() -> AsyncIterator[bytes]:
        yield "\n".join(map(json.dumps, ROWS)).encode()

    caller = Caller(tenant=Tenant("default"))
    spec = TrainingSpec(name="left", model="", recipe=TrainingRecipe(method=TrainingMethod.CLASSIFY, epochs=10_000))
    async with front_here(tmp_path, train=QUICK) as front, asyncio.timeout(DEADLINE_S):
        made = await front.trainings.create(spec, lines(), None, caller)
        monkeypatch.setattr(TrainingRun, "gone", slowly)
        calling = asyncio.create_task(front.trainings.cancel(made.training_id, caller))
        await waiting.wait()
        calling.cancel()
        await asyncio.wait({calling})
        gone.set()
        await asyncio.wait(set(front.trainings._beside))
        assert not (tmp_path / "state" / "trainings" / made.training_id).exists()
        other = await front.trainings.create(spec, lines(), None, caller)
        watching = front.trainings.watch(other.training_id, caller)
        assert (await anext(watching)).training_id == other.training_id
        front.trainings._forget(caller.tenant)
        with pytest.raises(TrainingNotFoundError):
            _ = [each async for each in watching]


async def test_one_under_a_lease_goes_while_that_is_held(tmp_path: Path) -> None:
    """Cancelled or done under a lease, a training gives its memory back to that at once, for the next one."""
    slow = write_fake_model(tmp_path, "slow", step_s=0.05)
    async with (
        asyncio.timeout(DEADLINE_S),
        kernel_here(tmp_path / "kernel", train={**QUICK, "at_once": 1}) as kernel,
        AsyncClient(kernel.addresses[0]) as client,
    ):
        await client.create_model("slow", str(slow))
        async with client.lease(claims.memory(64 << 20, device_id="fake:0"), ttl_s=600) as lease:
            full: dict[str, Any] = {"method": "full", "batch": 4, "epochs": 10_000}
            made = await client.train("cut", ROWS, recipe=full, model="slow", lease=lease)
            async for told in client.watch_training(made.training_id):
                if told.step:
                    break
            assert (await client.cancel_training(made.training_id)).state == tp.TRAINING_STATE_CANCELLED
            for name in ("first", "second"):  # the second has the room of the first, of the lease and of `at_once`
                done = await client.train(name, ROWS, recipe=CLASSIFY, lease=lease)
                assert (await ended(client, done.training_id)).state == tp.TRAINING_STATE_SUCCEEDED
