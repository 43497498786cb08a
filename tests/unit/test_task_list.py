"""The list of a tenant's tasks as its watcher follows it."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

import pytest

from inferd import server
from inferd.config import Settings
from inferd.core import events
from inferd.core.ids import DeviceId, ModelName, TaskId, Tenant
from inferd.core.model import ModelSpec
from inferd.core.resources import DeviceCapacity
from inferd.core.task import TaskSpec, TaskState
from inferd.errors import ShuttingDownError
from inferd.runtime.driver import Driver
from inferd.runtime.front.task_list import PART, Part, TaskList
from inferd.runtime.task_lists import MOST_UNTOLD

MODEL, TENANT, OTHER = ModelName("m"), Tenant("a"), Tenant("b")
SPEC = ModelSpec(
    name=MODEL, source="/m", path="/m", format="gguf", size_bytes=1, backend="cpu", backend_reason="", loader="x:Y",
    devices=(DeviceId("cpu:0"),),
)  # fmt: skip


@pytest.fixture
async def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Driver:
    """A driver whose model never gets a worker; of ended tasks it keeps two."""
    limits = {"retained_tasks": 2, "queued_tasks": 5000}
    scheduler = {"tenant_queued": 5000, "model_queued": 5000}
    settings = Settings(state_dir=tmp_path, data_dir=tmp_path, limits=limits, scheduler=scheduler)
    driver = server._driver(settings, None)
    monkeypatch.setattr(driver._orders, "obey", lambda _: None)
    monkeypatch.setattr(driver._alarm, "set", lambda _: None)
    capacity = DeviceCapacity(device_id=DeviceId("cpu:0"), memory_bytes=1000, cores=1)
    driver._apply(events.HostJoined((capacity,)))
    driver._apply(events.CreateModel(SPEC))
    return driver


def submit(driver: Driver, *names: str, tenant: Tenant = TENANT) -> None:
    for name in names:
        driver.submit(TaskSpec(task_id=TaskId(name), tenant=tenant, model=MODEL))


def told(part: Part) -> dict[str, str]:
    return {task.spec.task_id: task.state.name for task in part.tasks}


async def next_of(parts: AsyncGenerator[Part, None]) -> Part:
    async with asyncio.timeout(60):
        return await anext(parts)


async def test_a_list_begins_with_what_there_is_in_parts(driver: Driver) -> None:
    """All tasks of the tenant and of no other come first, newest first, in parts of which the last says so."""
    submit(driver, *(f"t{n}" for n in range(PART + 1)))
    submit(driver, "theirs", tenant=OTHER)
    async with aclosing(TaskList(driver, TENANT, ()).follow()) as parts:
        first, second = await next_of(parts), await next_of(parts)
    assert [task.spec.task_id for task in (*first.tasks, *second.tasks)] == [f"t{n}" for n in reversed(range(PART + 1))]
    assert [(part.anew, part.more) for part in (first, second)] == [(True, True), (False, False)]


async def test_an_empty_list_is_told_at_once(driver: Driver) -> None:
    """A watcher of no task hears that there is none, and then of the first one."""
    async with aclosing(TaskList(driver, TENANT, ()).follow()) as parts:
        assert await next_of(parts) == Part(anew=True)
        submit(driver, "theirs", tenant=OTHER)
        submit(driver, "t")
        assert told(await next_of(parts)) == {"t": "QUEUED"}


async def test_what_changes_while_nobody_looks_is_told_once(driver: Driver) -> None:
    """A task that has changed often is told as it stands; one that was never told and is forgotten is not told."""
    submit(driver, "t")
    async with aclosing(TaskList(driver, TENANT, ()).follow()) as parts:
        assert told(await next_of(parts)) == {"t": "QUEUED"}
        driver.suspend(TaskId("t"), TENANT)
        driver.resume(TaskId("t"), TENANT)
        driver.suspend(TaskId("t"), TENANT)
        submit(driver, "brief", "u", "v")
        for name in ("brief", "u", "v"):  # of ended ones two are kept
            driver.cancel(TaskId(name), TENANT)
        part = await next_of(parts)
        assert told(part) == {"t": "SUSPENDED", "u": "CANCELLED", "v": "CANCELLED"}
        assert not part.forgotten
        driver.cancel(TaskId("t"), TENANT)
        part = await next_of(parts)
        assert (told(part), part.forgotten) == ({"t": "CANCELLED"}, ["u"])


async def test_a_task_that_is_detached_is_told(driver: Driver) -> None:
    """When a task expires is seen in the list, so that its watcher hears of it."""
    submit(driver, "t")
    async with aclosing(TaskList(driver, TENANT, ()).follow()) as parts:
        assert (await next_of(parts)).tasks[0].expires is None
        driver.detach(TaskId("t"), TENANT)
        assert (await next_of(parts)).tasks[0].expires is not None


async def test_a_task_that_leaves_the_states_is_told_once_more(driver: Driver) -> None:
    """A list of some states tells of a task that comes into them and leaves them, and of no other change."""
    submit(driver, "t", "u")
    async with aclosing(TaskList(driver, TENANT, {TaskState.SUSPENDED}).follow()) as parts:
        assert await next_of(parts) == Part(anew=True)
        driver.suspend(TaskId("t"), TENANT)
        assert told(await next_of(parts)) == {"t": "SUSPENDED"}
        driver.cancel(TaskId("u"), TENANT)
        driver.resume(TaskId("t"), TENANT)
        assert told(await next_of(parts)) == {"t": "QUEUED"}
        driver.cancel(TaskId("t"), TENANT)
        submit(driver, "w", "x")
        driver.suspend(TaskId("x"), TENANT)
        part = await next_of(parts)
        assert (told(part), part.forgotten) == ({"x": "SUSPENDED"}, [])


async def test_a_watcher_that_is_too_far_behind_begins_anew(driver: Driver) -> None:
    """What is noted for a watcher that does not read is bounded: beyond that it is told the whole list again."""
    async with aclosing(TaskList(driver, TENANT, ()).follow()) as parts:
        await next_of(parts)
        submit(driver, *(f"t{n}" for n in range(MOST_UNTOLD)))
        seen = dict[str, str]()
        while len(seen) < MOST_UNTOLD:
            part = await next_of(parts)
            assert not part.anew
            seen |= told(part)
        submit(driver, *(f"u{n}" for n in range(MOST_UNTOLD + 1)))
        first = await next_of(parts)
        assert (first.anew, first.tasks[0].spec.task_id) == (True, f"u{MOST_UNTOLD}")


async def test_nothing_is_kept_of_a_tenant_that_nobody_watches(driver: Driver) -> None:
    """A watcher that has gone leaves nothing behind."""
    lists = driver.watchers.tasks
    async with aclosing(TaskList(driver, TENANT, ()).follow()) as parts:
        await next_of(parts)
        assert lists._watchers
    assert not lists._watchers


async def test_a_list_ends_with_the_kernel(driver: Driver) -> None:
    """Who waits for a change hears that the kernel shuts down."""
    async with aclosing(TaskList(driver, TENANT, ()).follow()) as parts:
        await next_of(parts)
        waiting = asyncio.ensure_future(next_of(parts))
        await asyncio.sleep(0)
        driver.close()
        with pytest.raises(ShuttingDownError):
            await waiting
