"""Kernels, agents and workers of minor versions that follow each other; the versions are pretended."""

import asyncio
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from connection import Connection, read_all, read_failing, read_until, text_of
from far_host import DEADLINE_S, Heard, far_host, made_agent, place, until_state
from test_adopted_workers import begun, kernel, pid_of, started
from test_far_hosts import QUICK

from inferd import skew
from inferd.core.host import HostState
from inferd.runtime import local_launcher
from inferd.services import agents
from inferd.testing.kernel import kernel_here
from inferd_api.v1 import task_service_pb2 as ts
from inferd_api.v1.host_service_pb2 import DrainHostRequest

OWN = skew.OWN
MAJOR, MINOR = (int(part) for part in OWN.split(".")[:2])
BEFORE, AFTER, TOO_OLD, TOO_NEW = (f"{MAJOR}.{MINOR + step}.7" for step in (-1, 1, -2, 2))


@pytest.mark.parametrize(
    ("other", "works"),
    [
        (OWN, True), (BEFORE, True), (AFTER, True), (f"{MAJOR}.{MINOR}.99", True), (f"{AFTER}rc1", True),
        (TOO_OLD, False), (TOO_NEW, False), (f"{MAJOR + 1}.{MINOR}.0", False), ("", False), ("new", False),
        (f"{MAJOR}.{MINOR}", True), ("9" * 400, False), (f"{MAJOR}.{MINOR}.0" + "x" * 400, False),
    ],
)  # fmt: skip
def test_which_versions_work_together(other: str, works: bool) -> None:  # noqa: FBT001 - a case
    """Those of the same minor version and of the ones before and behind it; nothing that is no version."""
    assert skew.works_with(other) is works


async def attached(folder: Path, address: str, version: str, ends_s: float = DEADLINE_S) -> tuple[Heard, str]:
    """An agent of a version, until it is attached or refused; why it was."""
    agent, heard = await made_agent(folder, address, "b")
    agent._facts.version = version
    ends = asyncio.Event()
    running = asyncio.create_task(agent.run(ends))
    told = asyncio.create_task(heard.until("anew"))
    async with asyncio.timeout(ends_s):
        await asyncio.wait([running, told], return_when=asyncio.FIRST_COMPLETED)
    told.cancel()
    ends.set()
    (error,) = await asyncio.gather(running, return_exceptions=True)
    return heard, str(error or "")


@pytest.mark.parametrize("version", [BEFORE, AFTER, TOO_OLD, TOO_NEW])
async def test_agents_of_the_minor_versions_around_are_taken_and_others_told_why(tmp_path: Path, version: str) -> None:
    """One minor apart an agent is attached; two apart it ends, with both versions and what helps."""
    async with kernel_here(tmp_path / "k", hosts=QUICK) as made:
        heard, why = await attached(tmp_path, made.addresses[0], version)
        if version in {BEFORE, AFTER}:
            assert (heard.told[:1], why) == (["anew 1"], "")
        else:
            assert f"the agent is of version '{version}', the kernel of {OWN}" in why
            assert "install the kernel's version there" in why
            assert not heard.told


@pytest.mark.usefixtures("_started_workers")
async def test_a_worker_of_the_installation_before_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent's installation may be a minor behind: its workers are, too, and run tasks; one further back ends."""
    for version, text in ((BEFORE, "la" * 5), (TOO_OLD, "")):
        installed(tmp_path, version, monkeypatch)
        async with (
            kernel_here(tmp_path / version, hosts=QUICK) as made,
            far_host(tmp_path / version, made.addresses[0]),
        ):
            await until_state(made, "b", HostState.READY)
            connection = Connection(made, tmp_path)
            call = connection.endless(model=await place(connection, "far", "b"), tokens=10)
            if text:
                assert text_of(await read_all(call)) == text
            else:
                _, error = await read_failing(call)
                assert f"it is of version '{version}', the kernel of {OWN}" in str(error.details())
            await connection.channel.close()


def installed(folder: Path, version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers are started from now on as an installation of this version would."""
    script = folder / f"python-{version}"
    script.write_text(
        f"#!{sys.executable} -P\nimport runpy, sys, inferd\ninferd.__version__ = {version!r}\n"
        "assert sys.argv.pop(1) == '-P' and sys.argv.pop(1) == '-m'\n"
        "runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)\n"
    )
    script.chmod(0o755)
    monkeypatch.setattr(local_launcher, "sys", SimpleNamespace(executable=str(script)))


async def test_a_rolling_upgrade_fails_no_task(
    tmp_path: Path,
    address: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The kernel first, whose next minor version goes on with the workers; then the agent, emptied before it ends."""
    async with far_host(tmp_path, address) as host:
        async with kernel(tmp_path, address) as first:
            await until_state(first.kernel, "b", HostState.READY)
            await place(first, "far", "b", step_s=0.002)
            task_id = await begun(first, 600)
            pid = pid_of(first)
        monkeypatch.setattr(skew, "OWN", AFTER)
        async with kernel(tmp_path, address) as second:
            await host.heard.until("anew", 2)
            watch = second.tasks.WatchTask(ts.WatchTaskRequest(task_id=task_id))
            events = await read_until(watch, "resumed")
            assert (pid_of(second), started(second)) == (pid, 0)
            draining = second.hosts.DrainHost(DrainHostRequest(host_id="b"))
            events += await read_all(watch)
            assert [told async for told in draining]
            assert text_of(events) == "la" * 300
            host.ends.set()
            await host.running
            host.agent._facts.version = AFTER
            async with far_host(tmp_path / "upgraded", address, "c"):
                await until_state(second.kernel, "c", HostState.READY)


async def test_a_kernel_that_knows_nothing_of_kept_workers_finds_none(
    tmp_path: Path,
    address: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where the kernel that follows is of the version before, its agents end what they have, and it loads anew."""
    async with far_host(tmp_path, address) as host:
        async with kernel(tmp_path, address) as first:
            await until_state(first.kernel, "b", HostState.READY)
            await place(first, "far", "b", step_s=0.002)
            task_id = await begun(first, 300)
            pid = pid_of(first)
        monkeypatch.setattr(agents, "ADOPT", "")
        async with kernel(tmp_path, address) as second:
            await host.heard.until("anew", 2)
            assert not host.agent._kept
            watch = second.tasks.WatchTask(ts.WatchTaskRequest(task_id=task_id))
            assert text_of(await read_all(watch)) == "la" * 150
            assert pid_of(second) != pid
            assert started(second) == 1
