"""What becomes of a worker that hangs, and of who waits for it: in every place, in every manner."""

import asyncio
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import structlog
from connection import Connection, read_all, read_failing, read_until, reason_of, refusal, text_of

from inferd.plugin.registry import BackendState, discover
from inferd.testing.hangs import MANNERS
from inferd.testing.kernel import kernel_here
from inferd_api.v1.model_pb2 import ModelState
from inferd_api.v1.model_service_pb2 import GetModelRequest, LoadModelRequest, PlanLoadRequest, UnloadModelRequest
from inferd_api.v1.sampling_pb2 import SamplingParams
from inferd_api.v1.task_pb2 import TaskSpec
from inferd_api.v1.task_service_pb2 import RunTaskRequest

DEADLINE_S = 100.0
SILENT = {"deadlock_with_gil", "stop"}  # they do not answer
STRICT = {
    "heartbeat_s": 0.05,
    "heartbeat_timeout_s": 3.0,
    "load_silence_s": 3.0,
    "step_floor_s": 0.5,
    "step_ceiling_s": 1.0,
    "stop_timeout_s": 0.5,
    "restart_backoff_s": 0.01,
}
WHY = {
    "measure": "Backend.measure has run for ",
    "load": "Backend.load has told no progress for ",
    "step": "step 1 has run for ",
    "copy": "copy_blocks before step 2 has run for ",  # an attempt that goes on has nothing to copy
}
PLUGIN = """
from inferd.plugin import BackendSpec, hookimpl
from inferd.testing.hangs import hang

class Backend:
    def probe(self):
        hang({manner!r})
    def measure(self, request): ...
    def load(self, request, progress): ...

@hookimpl
def inferd_backends():
    return [BackendSpec(name={name!r}, loader=__name__ + ":Backend", formats=("x",), description="hangs")]
"""


async def make_hang(connection: Connection, place: str, manner: str) -> str:
    """Have a worker hang; the reason that its client is told, which has the cause and the log, "" for none."""
    name = await connection.create(f"{place}-{manner}", hang_at=place, hang_by=manner)
    if place in ("measure", "load"):
        reason, metadata = await refusal(connection.models.LoadModel(LoadModelRequest(name=name)))
        assert metadata.keys() >= {"cause", "log"}
        return reason
    # Two samples of a prompt that ends within a block: the second one gets a copy of it.
    spec = TaskSpec(model=name, prompt="la", sampling=SamplingParams(max_tokens=8, n=2))
    call = connection.tasks.RunTask(RunTaskRequest(spec=spec))
    if place == "copy":
        texts = [(event.output.sample, event.output.text) for event in await read_all(call) if event.HasField("output")]
        assert ["".join(text for sample, text in texts if sample == number) for number in (0, 1)] == ["la" * 4] * 2
        return ""
    reason, metadata = reason_of((await read_failing(call))[1])
    assert metadata.keys() >= {"cause", "log"}
    return reason


@pytest.mark.parametrize("place", WHY)
async def test_a_worker_that_hangs_is_ended(tmp_path: Path, place: str) -> None:
    """In every manner it is told what hangs, for how long, the limit, and where it was.

    The client is told WORKER_DIED of a worker that never took its task, and POISON of a task with which one after the
    other hung; where the task can go on, the kernel's log says why its worker ended.
    """
    with structlog.testing.capture_logs() as logged:
        async with (
            asyncio.timeout(DEADLINE_S),
            kernel_here(tmp_path, workers=STRICT, scheduler={"suspect_deaths": 1}) as kernel,
        ):
            connection = Connection(kernel, tmp_path)
            told = await asyncio.gather(*(make_hang(connection, place, manner) for manner in MANNERS))
            assert {*told} == {("WORKER_DIED" if place in ("measure", "load") else "POISON" if place == "step" else "")}
            await connection.channel.close()
    for manner in MANNERS:
        ends = [
            each for each in logged if each["event"] == "worker exited" and each["instance_id"] == f"{place}-{manner}-1"
        ]
        (why,) = (each["why"] for each in ends)
        assert why.startswith("it was silent for " if manner in SILENT else WHY[place]), (manner, why)
        if manner != "stop":
            assert "hangs.py" in why.partition("; it was at ")[2]
            assert "in hang" in next((tmp_path / "state" / "workers").glob(f"*-{place}-{manner}-1.log")).read_text()


async def test_a_session_that_hangs_when_it_is_closed(tmp_path: Path) -> None:
    """In every manner unloading ends after the time that stopping may take, and the memory is given back."""
    async with asyncio.timeout(DEADLINE_S), kernel_here(tmp_path, workers=STRICT) as kernel:
        connection = Connection(kernel, tmp_path)

        async def unload(manner: str) -> Any:
            name = await connection.create(manner, hang_at="close", hang_by=manner)
            await connection.models.LoadModel(LoadModelRequest(name=name))
            return (await connection.models.UnloadModel(UnloadModelRequest(name=name))).model.state

        states = await asyncio.gather(*map(unload, MANNERS))
        assert {*states} == {ModelState.MODEL_STATE_UNLOADED}
        assert kernel.driver.machine.broker.devices["fake:0"].instance_bytes == 0
        await connection.channel.close()


async def test_a_plan_of_a_model_whose_measuring_hangs(tmp_path: Path) -> None:
    """`PlanLoad` ends with what hangs, too, and nothing of its worker is left."""
    async with asyncio.timeout(DEADLINE_S), kernel_here(tmp_path, workers=STRICT) as kernel:
        connection = Connection(kernel, tmp_path)
        name = await connection.create(hang_at="measure", hang_by="sleep")
        reason, metadata = await refusal(connection.models.PlanLoad(PlanLoadRequest(name=name)))
        assert (reason, metadata["cause"].startswith(WHY["measure"])) == ("WORKER_DIED", True)
        assert not kernel.driver.supervisor.measuring
        await connection.channel.close()


async def test_a_probe_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In every manner a plugin whose probe hangs is FAILED after its time with where it was; its process is gone."""
    for manner in MANNERS:
        (tmp_path / f"probe_{manner}.py").write_text(PLUGIN.format(manner=manner, name=manner))
    before = set(psutil.Process().children())  # grammars of other tests are followed by processes that live on
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = await discover(allow=(), modules=tuple(f"probe_{manner}" for manner in MANNERS), timeout_s=4.0)
    whys = {report.module: report.why for report in found if report.state is not BackendState.SKIPPED}
    assert len(whys) == len(MANNERS)
    for module, why in whys.items():
        assert why.startswith("took longer than 4 s and was killed")
        assert module == "probe_stop" or "hangs.py" in why
    assert set(psutil.Process().children()) <= before


async def test_the_others_go_on(tmp_path: Path) -> None:
    """While one model hangs and is ended, another answers; the one that hung is loaded again for its next task."""
    # A machine that is busy may stop the one that works for a second.
    patient = {**STRICT, "heartbeat_timeout_s": 10.0, "step_floor_s": 2.0, "step_ceiling_s": 4.0}
    async with (
        asyncio.timeout(DEADLINE_S),
        kernel_here(tmp_path, workers=patient, scheduler={"suspect_deaths": 1}) as kernel,
    ):
        connection = Connection(kernel, tmp_path)
        await connection.create("hangs", hang_on_token=ord("#"), hang_by="sleep")
        await connection.create("works", step_s=0.05)
        first = (await connection.models.LoadModel(LoadModelRequest(name="hangs"))).model.instances[0].pid
        beside = connection.endless(model="works", tokens=900)
        await read_until(beside, "output")
        _, error = await read_failing(connection.chat("#", model="hangs"))
        assert reason_of(error)[0] == "POISON"
        await read_until(beside, "output")
        assert text_of([event.event async for event in connection.chat("again", model="hangs")]) == "again"
        model = (await connection.models.GetModel(GetModelRequest(name="hangs"))).model
        assert model.instances[0].pid != first
        beside.cancel()
        await connection.channel.close()


async def test_steps_that_are_slow_are_no_hang(tmp_path: Path) -> None:
    """A backend whose every step takes a good part of the limit runs its tasks to the end."""
    async with asyncio.timeout(DEADLINE_S), kernel_here(tmp_path, workers={**STRICT, "step_ceiling_s": 60.0}) as kernel:
        connection = Connection(kernel, tmp_path)
        name = await connection.create(step_s=0.3)
        began = time.monotonic()
        assert text_of([event.event async for event in connection.chat("slowly", model=name)]) == "slowly"
        assert time.monotonic() - began > STRICT["step_floor_s"]
        await connection.channel.close()
