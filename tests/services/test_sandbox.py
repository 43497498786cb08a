"""Workers in their sandbox, in real processes, as clients see it."""

import asyncio
import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
from connection import Connection, read_all, refusal, text_of

from inferd.runtime import local_launcher
from inferd.runtime.memory_group import MemoryGroup, TaskGroup
from inferd.sandbox import landlock
from inferd.testing.kernel import FAKE_PLUGIN, kernel_here, write_fake_model
from inferd_api.v1.model_pb2 import Model
from inferd_api.v1.model_service_pb2 import CreateModelRequest, LoadModelRequest
from inferd_api.v1.sandbox_pb2 import SandboxLevel

DEADLINE_S = 60.0
PLUGINS = (FAKE_PLUGIN, "inferd.testing.hostile")
HIGH = 64  # a bound of threads that a test reaches soon

WRAPPER = """#!{python}
import os, sys
from inferd.sandbox import landlock, seccomp
from inferd.sandbox.system import column
number = column()
seccomp.install(seccomp.without(number, (landlock.CREATE_RULESET,)), number)
os.execv({python!r}, [{python!r}, *sys.argv[1:]])
"""


@pytest.fixture
def _whole() -> None:
    """This system allows all of a sandbox: else what it lacks is the reason to skip."""
    if landlock.version() < landlock.SIGNALS:
        pytest.skip(f"Landlock has version {landlock.version()} here, 0 for none; {landlock.SIGNALS} is needed")
    for kind in (MemoryGroup, TaskGroup):
        group = kind.make(f"{os.getpid()}-whole", **({"most_bytes": 1 << 30} if kind is MemoryGroup else {"most": 100}))
        if group is None:
            pytest.skip("the tests may make no control groups here")
        group.remove()


async def load_hostile(connection: Connection, folder: Path, tries: list[list[Any]]) -> Any:
    """The instance of a hostile model, and what became of each try."""
    path = write_fake_model(folder, "own").rename(folder / "own.hostile")
    model = Model(name="hostile", source=str(path), settings={"tries": json.dumps(tries)})
    await connection.models.CreateModel(CreateModelRequest(model=model))
    loaded = (await connection.models.LoadModel(LoadModelRequest(name="hostile"))).model
    (instance,) = loaded.instances
    description = instance.description
    return instance, json.loads(description[: description.index("]") + 1])


@pytest.mark.usefixtures("_started_workers", "_whole")
async def test_a_hostile_backend_reaches_nothing(tmp_path: Path) -> None:
    """Each way out is refused; the kernel lives, and a task of another model that runs meanwhile ends as it should."""
    secret = tmp_path / "secret"
    secret.write_text("s")
    folder = tmp_path / "models"
    folder.mkdir()
    workers = {"sandbox_threads": HIGH, "sandbox_memory_bytes": 256 << 20}
    with socket.create_server(("127.0.0.1", 0)) as server:
        async with (
            asyncio.timeout(DEADLINE_S),
            kernel_here(tmp_path, plugin_modules=PLUGINS, workers=workers) as kernel,
        ):
            connection = Connection(kernel, tmp_path)
            await connection.create()
            other = (await connection.models.LoadModel(LoadModelRequest(name="fake"))).model.instances[0]
            task = asyncio.create_task(read_all(connection.endless(tokens=400)))
            door = kernel.addresses[0].removeprefix("unix:")
            tries: list[tuple[str, Any, str]] = [
                ("network", server.getsockname()[1], "PermissionError"),
                ("socket", door, "PermissionError"),
                ("datagram", door, "PermissionError"),
                *(
                    (what, pid, "PermissionError")
                    for what in ("trace", "environment", "signal")
                    for pid in (os.getpid(), other.pid)
                ),
                ("read", "/etc/shadow", "PermissionError"),
                ("read", str(tmp_path / "fake.fake"), "PermissionError"),
                ("read", str(tmp_path / "state" / "pepper"), "PermissionError"),
                ("list", str(tmp_path), "PermissionError"),
                ("write", str(secret), "PermissionError"),
                ("write", str(tmp_path / "new"), "PermissionError"),
                ("write", str(folder / "own.hostile"), "PermissionError"),
                ("mode", str(secret), "PermissionError"),
                ("remove", str(secret), "PermissionError"),
                ("program", sys.executable, "PermissionError"),
                ("fork", 200, "PermissionError"),
                ("thread", 2 * HIGH, "RuntimeError"),
                ("memory", 512 << 20, "MemoryError"),
                ("memory", 64 << 20, "done"),
                ("read", str(folder / "own.hostile"), "done"),
            ]
            instance, results = await load_hostile(
                connection, folder, [[what, argument] for what, argument, _ in tries]
            )
            assert list(zip(tries, results, strict=True)) == [((w, a, e), e) for w, a, e in tries]
            assert instance.sandbox.level == SandboxLevel.SANDBOX_LEVEL_FULL, list(instance.sandbox.reasons)
            assert text_of(await task) == "la" * 200
            events = await read_all(connection.chat("still here", model="hostile"))
            assert text_of(events) == "still here"
            assert secret.read_text() == "s"
            await connection.channel.close()


@pytest.mark.usefixtures("_started_workers")
async def test_what_a_system_does_not_allow_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no Landlock an instance is `partial` and says so; where all is required nothing is loaded."""
    wrapper = tmp_path / "python"
    wrapper.write_text(WRAPPER.format(python=sys.executable))
    wrapper.chmod(0o755)
    monkeypatch.setattr(local_launcher.sys, "executable", str(wrapper))
    async with asyncio.timeout(DEADLINE_S), kernel_here(tmp_path) as kernel:
        connection = Connection(kernel, tmp_path)
        await connection.create()
        (instance,) = (await connection.models.LoadModel(LoadModelRequest(name="fake"))).model.instances
        assert instance.sandbox.level == SandboxLevel.SANDBOX_LEVEL_PARTIAL
        assert [reason for reason in instance.sandbox.reasons if reason.startswith("no Landlock")]
        await connection.channel.close()
    async with asyncio.timeout(DEADLINE_S), kernel_here(tmp_path, workers={"sandbox": "require"}) as kernel:
        connection = Connection(kernel, tmp_path)
        await connection.create()
        reason, facts = await refusal(connection.models.LoadModel(LoadModelRequest(name="fake")))
        assert (reason, "no Landlock" in facts["cause"]) == ("SANDBOX_INCOMPLETE", True)
        await connection.channel.close()


@pytest.mark.usefixtures("_started_workers")
async def test_a_worker_that_fills_its_scratch_is_ended(tmp_path: Path) -> None:
    """The load fails with both numbers and the setting, and the kernel lives."""
    workers = {"scratch_bytes": 1 << 20, "restart_backoff_s": 0.01}
    async with asyncio.timeout(DEADLINE_S), kernel_here(tmp_path, plugin_modules=PLUGINS, workers=workers) as kernel:
        connection = Connection(kernel, tmp_path)
        path = write_fake_model(tmp_path, "own").rename(tmp_path / "own.hostile")
        model = Model(name="hostile", source=str(path), settings={"tries": json.dumps([["fill", 2 << 20]])})
        await connection.models.CreateModel(CreateModelRequest(model=model))
        reason, facts = await refusal(connection.models.LoadModel(LoadModelRequest(name="hostile")))
        assert reason in ("WORKER_DIED", "MODEL_LOAD_FAILED")
        assert "and may write 1048576 (workers.scratch_bytes)" in facts["cause"]
        await connection.create()
        assert text_of(await read_all(connection.chat("still here"))) == "still here"
        await connection.channel.close()
