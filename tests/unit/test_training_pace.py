"""A training on the processor leaves time to tasks there."""

import asyncio
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from inferd.core.priority import Priority
from inferd.runtime.front import training_pace
from inferd.runtime.front.training_pace import pace
from inferd.runtime.front.training_run import TrainingRoom

DEADLINE_S = 60.0


def is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] == "T"


async def until(pid: int, *, stopped: bool) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while is_stopped(pid) is not stopped:  # noqa: ASYNC110 - nobody is told
            await asyncio.sleep(0)


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    """A process that waits, and leads its group."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, start_new_session=True) as made:
        yield made
        made.kill()


async def test_a_process_is_stopped_in_turns_while_others_compute(child: subprocess.Popen[bytes]) -> None:
    """It goes on after each, and is not left stopped by what ends that."""
    pacing = asyncio.create_task(pace(lambda: child.pid, lambda: True, 0.5))
    for stopped in (True, False, True):
        await until(child.pid, stopped=stopped)
    pacing.cancel()
    await asyncio.wait({pacing})
    await until(child.pid, stopped=False)


@pytest.mark.parametrize(
    ("share", "device_id", "model", "wanted"),
    [
        (0.5, "cpu:0", "chat", [signal.SIGSTOP, signal.SIGCONT]),
        (1.0, "cpu:0", "chat", []),
        (0.5, "cuda:0", "chat", []),
        (0.5, "cpu:0", "training@2", []),
    ],
)
async def test_it_leaves_time_to_tasks_of_models_on_its_processor(
    monkeypatch: pytest.MonkeyPatch, share: float, device_id: str, model: str, wanted: list[int]
) -> None:
    """Where `train.share` is 1, it computes elsewhere, or trainings alone compute there, it is not stopped."""
    sent: list[int] = []
    looks: list[None] = []

    async def sleep(_: float) -> None:
        looks.append(None)
        if len(looks) == 4:
            running.clear()
            worker.pid = 0

    running = {"task": None}
    worker = SimpleNamespace(pid=7)
    own = SimpleNamespace(instance_id="training@1-1", model="training@1", device_id=device_id, living=True)
    other = SimpleNamespace(running=running, device_ids=(device_id,), model=model)
    driver: Any = SimpleNamespace(
        supervisor=SimpleNamespace(workers={"training@1-1": worker}),
        machine=SimpleNamespace(fleet=SimpleNamespace(instances={"other": other})),
    )
    training: Any = SimpleNamespace(spec=SimpleNamespace(priority=Priority.LOW))
    settings: Any = SimpleNamespace(idle_s=0.0, share=share)
    monkeypatch.setattr(training_pace, "_send", lambda _, number: sent.append(number))
    monkeypatch.setattr(training_pace.asyncio, "sleep", sleep)
    mine: Any = own
    await TrainingRoom(driver, training, settings=settings, lease_id=None)._pace(mine)  # type: ignore[arg-type]
    assert sent[:2] == wanted
