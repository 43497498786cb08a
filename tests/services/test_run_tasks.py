import asyncio
import uuid
from pathlib import Path
from typing import Any

import grpc
import pytest
from connection import Connection, info_of, reason_of, refusal, text_of
from google.protobuf.duration_pb2 import Duration

from inferd.testing.kernel import kernel_here
from inferd_api.v1 import sampling_pb2 as sp
from inferd_api.v1 import task_pb2 as tp
from inferd_api.v1 import task_service_pb2 as ts
from inferd_client import AsyncClient
from inferd_client.errors import LimitExceededError


class Call:
    """A call of `RunTasks`, and all that it told so far."""

    def __init__(self, connection: Connection) -> None:
        self.call = connection.tasks.RunTasks()
        self.updates: dict[int, list[ts.TaskUpdate]] = {}
        self.messages = 0

    async def order(self, *orders: ts.TaskOrder) -> None:
        await self.call.write(ts.RunTasksRequest(orders=orders))

    async def read(self) -> bool:
        """Take one message; False when there is none any more."""
        response = await self.call.read()
        if response is grpc.aio.EOF:
            return False
        self.messages += 1
        for update in response.updates:
            self.updates.setdefault(update.tag, []).append(update)
        return True

    async def until(self, tag: int, kind: str) -> Any:
        """Read until a tag told an event of a kind; the event."""
        while True:
            for update in self.updates.get(tag, []):
                if update.event.WhichOneof("kind") == kind:
                    return update.event
            assert await self.read(), f"no {kind} of {tag}"

    async def drain(self) -> None:
        await self.call.done_writing()
        while await self.read():
            pass

    def text(self, tag: int) -> str:
        return "".join(update.event.output.text for update in self.updates[tag])

    def end(self, tag: int) -> tp.Finished:
        return self.updates[tag][-1].event.finished


def run(tag: int, text: str = "la", *, tokens: int = 50, spec: Any = None, **more: Any) -> ts.TaskOrder:
    """Run a text, which the FakeBackend goes on repeating."""
    names = {name: more.pop(name) for name in ("timeout", "lease_id", "linger") if name in more}
    sampling = sp.SamplingParams(max_tokens=tokens, temperature=0)
    spec = spec or tp.TaskSpec(model="fake", prompt=text, sampling=sampling)
    return ts.TaskOrder(tag=tag, run=ts.RunOrder(request=ts.RunTaskRequest(spec=spec, **more), **names))


def watch(tag: int, task_id: str, after: int = 0, **more: Any) -> ts.TaskOrder:
    request = ts.WatchTaskRequest(task_id=task_id, after_sequence=after)
    return ts.TaskOrder(tag=tag, watch=ts.WatchOrder(request=request, **more))


async def ended(connection: Connection, task_id: str) -> int:
    """The state that a task ends in."""
    events = [r.event async for r in connection.tasks.WatchTask(ts.WatchTaskRequest(task_id=task_id))]
    return events[-1].finished.state


async def test_many_tasks_share_a_call(connection: Connection) -> None:
    """Each of many tasks on one call gives the events that it would give on its own, and the call ends with OK."""
    await connection.create(step_s=0.001)
    alone = [response.event async for response in connection.endless(tokens=50)]
    call = Call(connection)
    await call.order(*(run(tag) for tag in range(32)))
    await call.drain()
    whole = "".join(event.output.text for event in alone)
    for tag in range(32):
        events = [update.event for update in call.updates[tag]]
        assert call.text(tag) == whole
        assert call.end(tag).state == tp.TASK_STATE_SUCCEEDED
        assert [e.sequence for e in events] == sorted({e.sequence for e in events})
        assert events[0].task_id
        assert not any(e.task_id for e in events[1:])
    assert await call.call.code() is grpc.StatusCode.OK


async def test_a_step_is_one_message(connection: Connection) -> None:
    """What a step gives to many tasks of a call comes as one message: far fewer messages than tokens."""
    await connection.create(step_s=0.005)
    await connection.models.LoadModel(_load())
    call = Call(connection)
    await call.order(*(run(tag, tokens=100) for tag in range(32)))
    await call.drain()
    outputs = sum(u.event.HasField("output") for updates in call.updates.values() for u in updates)
    assert outputs > 5 * call.messages


async def test_a_refused_order_ends_its_tag_alone(connection: Connection) -> None:
    """An order that cannot be taken is answered under its tag with the typed error; the other tasks go on."""
    await connection.create(step_s=0.001)
    call = Call(connection)
    unknown = tp.TaskSpec(model="nothing", prompt="x")
    await call.order(
        run(1),
        run(2, spec=unknown),
        watch(3, "0" * 32),
        run(4, linger=Duration(seconds=61)),
        run(5, timeout=Duration(seconds=-1)),
        run(6, lease_id="no lease!"),
        run(7, lease_id="abc"),
    )
    await call.drain()
    assert call.end(1).state == tp.TASK_STATE_SUCCEEDED
    reasons = [info_of(call.updates[tag][-1].error)[0] for tag in range(2, 8)]
    wrong = "INVALID_FIELD"
    assert reasons == ["MODEL_NOT_FOUND", "TASK_NOT_FOUND", wrong, wrong, wrong, "LEASE_NOT_FOUND"]
    assert all(len(call.updates[tag]) == 1 for tag in range(2, 8))


@pytest.mark.parametrize("orders", [[run(1, tokens=900), run(1)], [run(1, tokens=900), ts.TaskOrder(tag=2)]])
async def test_a_call_that_makes_no_sense_ends(connection: Connection, orders: list[ts.TaskOrder]) -> None:
    """A tag that is open, or an order of no kind, ends the call with the field's name, and its tasks with it."""
    await connection.create(step_s=0.05)
    call = Call(connection)
    await call.order(orders[0])
    task_id = (await call.until(1, "started")).task_id or call.updates[1][0].event.task_id
    await call.order(*orders[1:])
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.drain()
    assert reason_of(caught.value)[0] == "INVALID_FIELD"
    assert await ended(connection, task_id) == tp.TASK_STATE_CANCELLED


async def test_cancel_and_leave(connection: Connection) -> None:
    """`cancel` ends a task, which says so; `leave` ends it without another word, unless it is detached."""
    await connection.create(step_s=0.005)
    call = Call(connection)
    await call.order(run(1, tokens=900), run(2, tokens=900), run(3, tokens=100, detach_on_disconnect=True))
    for tag in (1, 2, 3):
        await call.until(tag, "output")
    ids = [call.updates[tag][0].event.task_id for tag in (1, 2, 3)]
    await call.order(*(ts.TaskOrder(tag=tag, leave=ts.LeaveOrder()) for tag in (2, 3)))
    await call.order(ts.TaskOrder(tag=1, cancel=ts.CancelOrder()), ts.TaskOrder(tag=9, cancel=ts.CancelOrder()))
    await call.drain()
    assert call.end(1).state == tp.TASK_STATE_CANCELLED
    assert not call.updates[2][-1].event.HasField("finished")
    assert not call.updates[3][-1].event.HasField("finished")
    assert await ended(connection, ids[1]) == tp.TASK_STATE_CANCELLED
    assert await ended(connection, ids[2]) == tp.TASK_STATE_SUCCEEDED


async def test_a_tag_that_is_left_within_its_interval_ends_no_other(connection: Connection) -> None:
    """`leave` of a tag whose output waits for its interval is the end of it; its next task gives its own."""
    await connection.create(step_s=0.005)
    call = Call(connection)
    interval = Duration(nanos=300_000_000)
    await call.order(run(1, tokens=900, output_interval=interval), run(2, "xyz", tokens=150))
    await call.until(1, "output")
    others = len(call.updates[2])
    while len(call.updates[2]) < others + 5:  # steps, in which tag 1 has got output, too
        await call.read()
    del call.updates[1]
    await call.order(ts.TaskOrder(tag=1, leave=ts.LeaveOrder()), run(1, "abc", tokens=150))
    await call.drain()
    assert await call.call.code() is grpc.StatusCode.OK
    ended = {tag: call.end(tag).state for tag in (1, 2)}
    assert ended == dict.fromkeys((1, 2), tp.TASK_STATE_SUCCEEDED)
    own = next(
        n for n, update in enumerate(call.updates[1]) if update.event.task_id
    )  # what came before is the old one's
    assert "".join(update.event.output.text for update in call.updates[1][own:]) == "abc" * 50


async def test_a_refused_tag_that_is_left_says_nothing(connection: Connection) -> None:
    """`leave` in the message in which its order was refused is the last word of a tag, which is free with that."""
    await connection.create(step_s=0.001)
    call = Call(connection)
    leave = ts.TaskOrder(tag=5, leave=ts.LeaveOrder())
    await call.order(watch(5, "0" * 32), leave, run(6, tokens=20), watch(5, "1" * 32), leave, run(5, "abc", tokens=20))
    await call.drain()
    assert {call.end(tag).state for tag in (5, 6)} == {tp.TASK_STATE_SUCCEEDED}
    assert not any(update.HasField("error") for update in call.updates[5])


async def test_a_broken_call_is_taken_up_again(connection: Connection) -> None:
    """A client whose call broke comes back to its tasks on another one and gets all events, none twice."""
    await connection.create(step_s=0.005)
    first = Call(connection)
    linger = Duration(seconds=60)
    await first.order(*(run(tag, tokens=200, linger=linger) for tag in range(8)))
    for tag in range(8):
        await first.until(tag, "output")
    first.call.cancel()
    second = Call(connection.another())
    for tag, updates in first.updates.items():
        await second.order(watch(tag, updates[0].event.task_id, updates[-1].event.sequence, adopt=True, linger=linger))
    await second.drain()
    for tag in range(8):
        text = first.text(tag) + second.text(tag)
        assert text == ("la" * 200)[:200]
        assert second.end(tag).state == tp.TASK_STATE_SUCCEEDED


async def test_what_lingers_ends(connection: Connection) -> None:
    """A task whose call broke is cancelled when its `linger` is over and nobody has come back; at once without one."""
    await connection.create(step_s=0.05)
    call = Call(connection)
    await call.order(run(1, tokens=900), run(2, tokens=900, linger=Duration(nanos=200_000_000)))
    ids = []
    for tag in (1, 2):
        await call.until(tag, "output")
        ids.append(call.updates[tag][0].event.task_id)
    call.call.cancel()
    assert [await ended(connection, task_id) for task_id in ids] == [tp.TASK_STATE_CANCELLED] * 2


async def test_an_adopted_task_hangs_on_its_call(connection: Connection) -> None:
    """A task that was adopted from a broken call ends with the call that adopted it; a watched one goes on."""
    await connection.create(step_s=0.02)
    first, second = Call(connection), Call(connection.another())
    await first.order(run(1, tokens=900, linger=Duration(seconds=60)), run(2, tokens=50, detach_on_disconnect=True))
    ids = []
    for tag in (1, 2):
        await first.until(tag, "output")
        ids.append(first.updates[tag][0].event.task_id)
    await second.order(watch(1, ids[0], adopt=True), watch(2, ids[1]))
    for tag in (1, 2):
        await second.until(tag, "output")
    first.call.cancel()
    second.call.cancel()
    assert await ended(connection, ids[0]) == tp.TASK_STATE_CANCELLED
    assert await ended(connection, ids[1]) == tp.TASK_STATE_SUCCEEDED


async def test_the_same_request_is_the_same_task(connection: Connection) -> None:
    """`run` with the `request_id` of a task follows that task from its first event, on the same call or another one."""
    await connection.create(step_s=0.002)
    call, other = Call(connection), Call(connection.another())
    request_id = uuid.uuid4().hex
    await call.order(run(1, request_id=request_id), run(2, request_id=request_id))
    await other.order(run(1, request_id=request_id))
    await asyncio.gather(call.drain(), other.drain())
    ids = {call.updates[tag][0].event.task_id for tag in (1, 2)} | {other.updates[1][0].event.task_id}
    assert len(ids) == 1
    assert call.text(1) == call.text(2) == other.text(1)


async def test_deadline_and_interval_of_an_order(connection: Connection) -> None:
    """Each order has a deadline and an interval of its own."""
    await connection.create(step_s=0.005)
    call = Call(connection)
    await call.order(
        run(1, tokens=900, timeout=Duration(nanos=100_000_000)),
        run(2, tokens=100, output_interval=Duration(seconds=10)),
    )
    await call.drain()
    assert call.end(1).state == tp.TASK_STATE_EXPIRED
    counts = [len(u.event.output.token_ids) for u in call.updates[2] if u.event.HasField("output")]
    assert len(counts) == 2
    assert sum(counts) == 100


async def test_a_call_that_is_not_read_delays_no_other(connection: Connection) -> None:
    """Tasks on a call whose client does not read run to their end, and other calls stream as ever."""
    await connection.create(step_s=0.001)
    deaf, call = Call(connection), Call(connection.another())
    await deaf.order(*(run(tag, tokens=900, detach_on_disconnect=True) for tag in range(8)))
    await call.order(run(1, tokens=200))
    await call.drain()
    assert call.end(1).state == tp.TASK_STATE_SUCCEEDED
    await deaf.drain()
    assert {deaf.end(tag).state for tag in range(8)} == {tp.TASK_STATE_SUCCEEDED}


async def test_a_kernel_that_stops_tells_each_end(connection: Connection) -> None:
    """A kernel that closes ends each task of a call with its last event, then the call with SHUTTING_DOWN."""
    await connection.create(step_s=0.05)
    call = Call(connection)
    await call.order(run(1, tokens=900), run(2, tokens=900))
    for tag in (1, 2):
        await call.until(tag, "output")
    connection.kernel.driver.close()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.drain()
    assert reason_of(caught.value)[0] == "SHUTTING_DOWN"
    assert [call.end(tag).state for tag in (1, 2)] == [tp.TASK_STATE_CANCELLED] * 2


async def test_the_streams_of_a_call_are_bounded(connection: Connection) -> None:
    """Each open tag takes a place of `scheduler.tenant_streams`, one too many is refused, ended ones are free again."""
    await connection.create(step_s=0.02)
    service_bound = 1000
    call = Call(connection)
    await call.order(run(0, tokens=150, detach_on_disconnect=True))
    task_id = (await call.until(0, "queued")).task_id
    await call.order(*(watch(tag, task_id) for tag in range(1, service_bound + 1)))
    await call.until(0, "finished")
    while service_bound not in call.updates:
        await call.read()
    reason, facts = info_of(call.updates[service_bound][0].error)
    assert (reason, facts["bound"]) == ("LIMIT_EXCEEDED", "scheduler.tenant_streams")
    await call.order(watch(5000, task_id))
    await call.drain()
    assert call.end(5000).state == tp.TASK_STATE_SUCCEEDED


async def test_a_watch_of_what_is_to_come_is_refused(connection: Connection) -> None:
    """Both `WatchTask` and an order to watch from behind an event that is yet to come are refused with both numbers."""
    await connection.create()
    events = [response.event async for response in connection.endless(tokens=3)]
    call = Call(connection)
    await call.order(watch(1, events[0].task_id, 10_000))
    await call.drain()
    assert info_of(call.updates[1][0].error)[0] == "INVALID_FIELD"
    late = ts.WatchTaskRequest(task_id=events[0].task_id, after_sequence=10_000)
    assert (await refusal(connection.tasks.WatchTask(late).read()))[0] == "INVALID_FIELD"


def _load() -> Any:
    from inferd_api.v1.model_service_pb2 import LoadModelRequest  # noqa: PLC0415 - used once

    return LoadModelRequest(name="fake")


async def test_a_request_that_is_too_large_ends_alone(tmp_path: Path) -> None:
    """A prompt beyond what a message may hold is refused, and the other tasks of its client go on undisturbed."""
    async with kernel_here(tmp_path) as kernel:
        connection = Connection(kernel, tmp_path)
        await connection.create(step_s=0.005)
        async with AsyncClient(kernel.addresses[0]) as client:
            beside = aiter(client.run("fake", "la", max_tokens=300))
            first = [await anext(beside) for _ in range(3)]
            with pytest.raises(LimitExceededError, match=r"limits\.message_bytes"):
                await client.generate("fake", "x" * (6 << 20), max_tokens=1)
            events = [*first, *[event async for event in beside]]
            assert text_of(events) == "la" * 150
            assert not any(event.HasField("suspended") for event in events)
        await connection.channel.close()
