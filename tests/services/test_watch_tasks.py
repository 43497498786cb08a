"""`WatchTasks`: the list of a tenant's tasks, followed over the wire."""

import asyncio
from contextlib import aclosing
from pathlib import Path
from typing import Any

import grpc
from connection import Connection, read_all, read_failing, read_until, reason_of

from inferd.testing.kernel import kernel_here, write_fake_model
from inferd_api.v1 import lease_pb2 as lp
from inferd_api.v1 import task_pb2 as tp
from inferd_api.v1 import task_service_pb2 as ts
from inferd_client import AsyncClient, Client
from inferd_client.claims import cores


async def test_a_tenant_follows_its_tasks_and_no_others(connection: Connection) -> None:
    """What there is comes first, then each state of each task to its end; other tenants' tasks never come."""
    await connection.create(step_s=0.02)
    done = (await read_all(connection.chat("before")))[0].task_id
    await read_all(connection.chat("secret", metadata=(("inferd-tenant", "other"),)))
    client = AsyncClient(connection.kernel.addresses[0])
    async with asyncio.timeout(60), client, aclosing(client.watch_tasks()) as parts:
        first = await anext(parts)
        assert (first.anew, [task.task_id for task in first.tasks]) == (True, [done])
        assert first.tasks[0].state == tp.TASK_STATE_SUCCEEDED
        states, ids = list[int](), set[str]()

        async def follow(state: tp.TaskState) -> None:
            while state not in states:
                for task in (await anext(parts)).tasks:
                    ids.add(task.task_id)
                    states.append(task.state)

        call = connection.endless()
        await read_until(call, "output")
        await follow(tp.TASK_STATE_RUNNING)  # before it is over: who is behind is told where a task stands now
        await read_all(connection.chat("secret", metadata=(("inferd-tenant", "other"),)))
        call.cancel()
        await follow(tp.TASK_STATE_CANCELLED)
    assert len(ids) == 1
    assert states == sorted(set(states), key=states.index)  # none is told twice


async def test_only_tasks_in_some_states_are_followed(connection: Connection) -> None:
    """A watcher of running tasks hears when one begins to run and once more when it does not any longer."""
    await connection.create(step_s=0.02)
    await read_all(connection.chat("before"))
    watch = connection.tasks.WatchTasks(ts.WatchTasksRequest(states=[tp.TASK_STATE_RUNNING]))
    async with asyncio.timeout(60):
        assert await watch.read() == ts.WatchTasksResponse(anew=True)
        call = connection.endless()
        await read_until(call, "output")
        assert [task.state for task in (await watch.read()).tasks] == [tp.TASK_STATE_RUNNING]
        call.cancel()
        assert [task.state for task in (await watch.read()).tasks] == [tp.TASK_STATE_CANCELLED]
    watch.cancel()


async def test_a_watch_of_tasks_is_bounded_and_checked(tmp_path: Path) -> None:
    """It takes a place among the streams of its tenant; a state that does not exist is refused by name."""
    async with asyncio.timeout(60), kernel_here(tmp_path, scheduler={"tenant_streams": 1}) as kernel:
        connection = Connection(kernel, tmp_path)
        _, error = await read_failing(connection.tasks.WatchTasks(ts.WatchTasksRequest(states=[99])))
        assert reason_of(error)[0] == "INVALID_FIELD"
        assert "99" in str(error.details())
        open_one = connection.tasks.WatchTasks(ts.WatchTasksRequest())
        await open_one.read()
        _, error = await read_failing(connection.tasks.WatchTasks(ts.WatchTasksRequest()))
        assert reason_of(error)[0] == "LIMIT_EXCEEDED"
        assert "scheduler.tenant_streams" in str(error.details())
        open_one.cancel()
        other = connection.tasks.WatchTasks(ts.WatchTasksRequest(), metadata=(("inferd-tenant", "other"),))
        assert (await other.read()) is not grpc.aio.EOF
        other.cancel()
        await connection.channel.close()


async def test_a_watch_goes_on_with_the_next_kernel(tmp_path: Path) -> None:
    """`watch_tasks` and `watch_host` of both clients begin anew where the kernel is started again."""
    listen = (f"unix:{tmp_path}/kernel.sock",)
    async with asyncio.timeout(60), AsyncClient(listen[0]) as client:
        with Client(listen[0]) as sync:
            parts, hosts, others = client.watch_tasks(), client.watch_host(interval_s=60), sync.watch_tasks()
            async with kernel_here(tmp_path, listen=listen) as kernel:
                assert (await anext(parts)).anew
                assert (await asyncio.to_thread(next, others)).anew
                assert (await anext(hosts)).host.name
                waiting = [asyncio.ensure_future(each) for each in (anext(parts), asyncio.to_thread(next, others))]
                kernel.driver.close()
            async with kernel_here(tmp_path, listen=listen):
                assert [(await each).anew for each in waiting] == [True, True]
                assert (await anext(hosts)).host.name
            others.close()
            await parts.aclose()
            await hosts.aclose()


async def test_models_and_leases_are_watched_on_with_the_next_kernel(tmp_path: Path) -> None:
    """`watch_model` and `watch_lease` of both clients tell anew how a thing stands, then its changes, to its end."""
    address = f"unix:{tmp_path}/kernel.sock"
    settings: dict[str, Any] = {"listen": (address,), "store": {"url": f"sqlite:{tmp_path}/kept/store"}}
    async with asyncio.timeout(60), AsyncClient(address) as client:
        with Client(address) as sync:
            async with kernel_here(tmp_path, **settings) as kernel:
                await client.create_model("fake", source=str(write_fake_model(tmp_path)))
                lease_id = (await client.create_lease(cores(1), ttl_s=1000)).lease_id
                watches = [client.watch_model("fake"), client.watch_lease(lease_id)]
                others = [sync.watch_model("fake"), sync.watch_lease(lease_id)]
                for watch in watches:
                    await anext(watch)
                for other in others:
                    await asyncio.to_thread(next, other)
                waiting = [asyncio.ensure_future(anext(watch)) for watch in watches]
                waiting += [asyncio.ensure_future(asyncio.to_thread(next, other)) for other in others]
                kernel.driver.close()
            async with kernel_here(tmp_path, **settings):
                models, leases = [[await each for each in some] for some in (waiting[::2], waiting[1::2])]
                assert [each.name for each in models] == ["fake", "fake"]
                assert [each.lease_id for each in leases] == [lease_id, lease_id]
                await client.release_lease(lease_id)
                assert [each.state async for each in watches[1]] == [lp.LEASE_STATE_RELEASED]
            for other in others:
                other.close()
            await watches[0].aclose()
