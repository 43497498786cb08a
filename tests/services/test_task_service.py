import asyncio
import os
import signal
from typing import Any

import grpc
import pytest
from connection import Connection, info_of, kinds_of, read_all, read_failing, read_until, reason_of, text_of
from google.protobuf.duration_pb2 import Duration
from time_limits import LONG_S

from inferd.core.ids import ModelName
from inferd_api.v1 import model_service_pb2 as ms
from inferd_api.v1 import priority_pb2 as pp
from inferd_api.v1 import sampling_pb2 as sp
from inferd_api.v1 import task_pb2 as tp
from inferd_api.v1 import task_service_pb2 as ts
from inferd_api.worker.v1 import step_pb2, worker_pb2


async def test_a_chat_is_answered_event_by_event(connection: Connection) -> None:
    """A task tells that it waits, loads, started, reads and writes, and ends with its usage and its receipt."""
    await connection.create()
    events = await read_all(connection.chat("hello wörld 🙂"))
    assert text_of(events) == "hello wörld 🙂"
    assert kinds_of(events) == ["queued", "progress", "started", "output", "finished"]
    assert [e.sequence for e in events] == sorted({e.sequence for e in events})
    done = events[-1].finished
    assert (done.state, done.reason) == (tp.TASK_STATE_SUCCEEDED, tp.FINISH_REASON_END_OF_TEXT)
    assert done.usage.output_tokens == sum(len(e.output.token_ids) for e in events) > 0
    assert done.usage.prompt_tokens == len("hello wörld 🙂".encode()) + 2
    assert (done.receipt.backend, done.receipt.device) == ("fake", "fake:0")
    assert done.receipt.worker_memory_bytes > 1 << 20
    assert done.receipt.first_token_duration.ToNanoseconds() > 0


async def test_many_clients_stream_at_once(connection: Connection) -> None:
    """Sixteen clients on connections of their own stream side by side, each its own answer."""
    await connection.create()
    clients = [connection.another() for _ in range(16)]
    async with asyncio.TaskGroup() as group:
        runs = [group.create_task(read_all(c.chat(f"client {n} " * 5))) for n, c in enumerate(clients)]
    assert [text_of(run.result()) for run in runs] == [f"client {n} " * 5 for n in range(16)]


async def test_a_stream_resumes_behind_any_event(connection: Connection) -> None:
    """`WatchTask(after_sequence)` gives exactly what came after it, while the task runs and after its end."""
    await connection.create(step_s=0.002)
    call = connection.endless(tokens=100)
    events = await read_until(call, "output")
    task_id = events[0].task_id
    watched = connection.another().tasks.WatchTask(
        ts.WatchTaskRequest(task_id=task_id, after_sequence=events[-1].sequence)
    )
    rest = [r.event async for r in watched]
    told = len(text_of(events))
    events += [r.event async for r in call]
    whole = text_of(events)
    assert len(whole) == 100
    assert text_of(rest) == whole[told:]
    for event in events[:: len(events) // 7 or 1]:  # few, where the machine is busy
        replay = connection.tasks.WatchTask(ts.WatchTaskRequest(task_id=task_id, after_sequence=event.sequence))
        replayed = await read_all(replay)
        assert text_of(replayed) == text_of([e for e in events if e.sequence > event.sequence])


async def test_an_interval_makes_few_events_of_many_tokens(connection: Connection) -> None:
    """With `output_interval` a task of a hundred steps gives two events with output: the first, and all the rest."""
    await connection.create(step_s=0.01)
    interval = Duration(seconds=10)
    call = connection.endless(tokens=100, output_interval=interval)
    events = await read_all(call)
    first, rest = (len(e.output.token_ids) for e in events if e.HasField("output"))  # one first, unless it is slow
    assert first + rest == 100
    assert events[-1].finished.usage.output_tokens == 100
    watch = ts.WatchTaskRequest(task_id=events[0].task_id, output_interval=interval)
    assert text_of(await read_all(connection.tasks.WatchTask(watch))) == text_of(events)


@pytest.mark.parametrize("interval", [Duration(seconds=-1), Duration(seconds=10, nanos=1)])
async def test_an_interval_has_bounds(connection: Connection, interval: Duration) -> None:
    """An interval below 0 or above 10 s is refused, with both numbers, by both calls."""
    await connection.create()
    for call in (
        connection.endless(tokens=1, output_interval=interval),
        connection.tasks.WatchTask(ts.WatchTaskRequest(task_id="x", output_interval=interval)),
    ):
        events, error = await read_failing(call)
        assert events == []
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "it must be from 0 to 10 s" in str(error.details())


async def test_closing_a_stream_frees_its_place_within_a_step(connection: Connection) -> None:
    """On an instance with one place, the next task starts as soon as the one before it is dropped by its client."""
    await connection.create(max_sequences=1, step_s=0.1)
    first = connection.endless()
    task_id = (await read_until(first, "output"))[0].task_id
    second = connection.another().chat("next")
    await read_until(second, "queued")
    first.cancel()
    async with asyncio.timeout(LONG_S):  # by itself the first would go on for 90 s
        await read_until(second, "output")
    task = (await connection.tasks.GetTask(ts.GetTaskRequest(task_id=task_id))).task
    assert task.state == tp.TASK_STATE_CANCELLED


async def test_a_task_is_cancelled_from_another_connection(connection: Connection) -> None:
    """`CancelTask` ends the stream of whoever watches with `Finished` CANCELLED and the status CANCELLED."""
    await connection.create(step_s=0.02)
    call = connection.endless()
    task_id = (await read_until(call, "output"))[0].task_id
    answer = await connection.another().tasks.CancelTask(ts.CancelTaskRequest(task_id=task_id))
    assert answer.task.state == tp.TASK_STATE_CANCELLED
    events, error = await read_failing(call)
    assert events[-1].finished.state == tp.TASK_STATE_CANCELLED
    assert events[-1].finished.usage.output_tokens > 0
    assert error.code() is grpc.StatusCode.CANCELLED
    assert reason_of(error)[0] == info_of(events[-1].finished.error)[0] == "TASK_CANCELLED"


async def test_the_deadline_of_the_call_is_that_of_the_task(connection: Connection) -> None:
    """A task whose call runs out of time ends EXPIRED, with what it had written."""
    await connection.create(step_s=0.005)
    await read_all(connection.chat("load"))
    events, error = await read_failing(connection.endless(timeout=2))
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    task = (await connection.tasks.GetTask(ts.GetTaskRequest(task_id=events[0].task_id))).task
    assert task.state == tp.TASK_STATE_EXPIRED
    assert text_of(events)


async def test_a_detached_task_survives_its_stream(connection: Connection) -> None:
    """With `detach_on_disconnect` the task goes on when its stream closes, and can be watched to its end."""
    await connection.create(step_s=0.002)
    call = connection.endless(tokens=200, detach_on_disconnect=True)
    task_id = (await read_until(call, "output"))[0].task_id
    call.cancel()
    events = await read_all(connection.another().tasks.WatchTask(ts.WatchTaskRequest(task_id=task_id)))
    assert events[-1].finished.state == tp.TASK_STATE_SUCCEEDED
    assert len(text_of(events)) == 200


async def test_a_detached_task_expires(connection: Connection) -> None:
    """Its expiry is told: by default, also where a second call detaches it, or its deadline; of others only that."""
    await connection.create(step_s=0.01)
    plain = connection.endless(request_id="one")
    task_id = (await read_until(plain, "started"))[0].task_id
    assert not (await connection.tasks.GetTask(ts.GetTaskRequest(task_id=task_id))).task.HasField("expire_time")
    again = connection.endless(request_id="one", detach_on_disconnect=True)
    await read_until(again, "started")
    timed = connection.endless(detach_on_disconnect=True, timeout=600)
    timed_id = (await read_until(timed, "started"))[0].task_id
    for each, expected_s in ((task_id, 86_400), (timed_id, 600)):
        task = (await connection.tasks.GetTask(ts.GetTaskRequest(task_id=each))).task
        lasts_s = task.expire_time.ToSeconds() - task.create_time.ToSeconds()
        assert expected_s - 30 < lasts_s < expected_s + 30
    for call in (plain, again, timed):
        call.cancel()
    for each in (task_id, timed_id):
        assert (
            await connection.tasks.CancelTask(ts.CancelTaskRequest(task_id=each))
        ).task.state == tp.TASK_STATE_CANCELLED


async def test_an_unknown_model_is_not_found_with_a_suggestion(connection: Connection) -> None:
    """A misspelt model is NOT_FOUND before any event, and the error names the nearest one."""
    await connection.create()
    events, error = await read_failing(connection.chat("x", model="fak"))
    assert events == []
    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert reason_of(error) == ("MODEL_NOT_FOUND", {"suggestion": "fake", "model": "fak"})


async def test_an_error_about_something_huge_arrives_whole(connection: Connection) -> None:
    """However long what is wrong is, its error fits into the metadata that clients accept, and is marked as cut."""
    _, error = await read_failing(connection.chat("x", model="ж" * 1_000))
    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert reason_of(error)[0] == "MODEL_NOT_FOUND"
    assert str(error.details()).endswith("…")


async def test_a_prompt_that_is_too_long_is_invalid_with_both_numbers(connection: Connection) -> None:
    """An over-long prompt is never cut: the task fails with INVALID_ARGUMENT, its length and the limit."""
    await connection.create(context_tokens=64)
    events, error = await read_failing(connection.chat("x" * 100))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    reason, facts = reason_of(error)
    assert reason == "PROMPT_TOO_LONG"
    assert (facts["prompt_tokens"], facts["limit_tokens"]) == ("102", "64")
    assert events[-1].finished.error.code == 3


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        (tp.TaskSpec(prompt="x"), "spec.model"),
        (tp.TaskSpec(model="fake"), "spec.input"),
        (tp.TaskSpec(model="fake", chat=tp.ChatPrompt()), "spec.chat.messages"),
        (tp.TaskSpec(model="fake", chat=tp.ChatPrompt(messages=[tp.ChatMessage()])), "spec.chat.messages[0].role"),
        (tp.TaskSpec(model="fake", tokens=tp.TokenPrompt()), "spec.tokens"),
        (tp.TaskSpec(model="fake", prompt="x", sampling={"temperature": -1}), "spec.sampling.temperature"),
        (tp.TaskSpec(model="fake", prompt="x", sampling={"temperature": float("nan")}), "spec.sampling.temperature"),
        (tp.TaskSpec(model="fake", prompt="x", sampling={"top_p": 0}), "spec.sampling.top_p"),
        (tp.TaskSpec(model="fake", prompt="x", sampling={"stop": [""]}), "spec.sampling.stop[0]"),
        (tp.TaskSpec(model="fake", prompt="x", sampling={"stop": ["a"] * 17}), "spec.sampling.stop"),
        (tp.TaskSpec(model="fake", prompt="x", labels={"k" * 64: "v"}), "spec.labels"),
    ],
)
@pytest.mark.asyncio(loop_scope="module")
async def test_a_wrong_field_is_named(shared: Connection, spec: tp.TaskSpec, field: str) -> None:
    """Each field that is out of bounds is INVALID_ARGUMENT with BadRequest naming it, before any event."""
    await shared.create()
    events, error = await read_failing(shared.tasks.RunTask(ts.RunTaskRequest(spec=spec)))
    assert events == []
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert reason_of(error)[0] == "INVALID_FIELD"
    assert field.encode() in dict(error.trailing_metadata() or ())["grpc-status-details-bin"]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
async def test_tasks_of_a_worker_that_is_lost_go_on(connection: Connection, how: signal.Signals) -> None:
    """A worker that is killed or stopped in mid-stream costs its tasks time alone: nothing is lost or told twice."""
    await connection.create(step_s=0.02)
    calls = [connection.another().endless(tokens=100) for _ in range(4)]
    begun = [await read_until(call, "output") for call in calls]
    worker = next(iter(connection.kernel.driver.supervisor.workers.values()))
    worker._allow_silence(0.5)  # a stopped one is noticed by that
    os.kill(worker.pid, how)
    for first, call in zip(begun, calls, strict=True):
        events = first + await read_all(call)
        assert text_of(events) == "la" * 50
        (stopped,) = (e.suspended for e in events if e.HasField("suspended"))
        assert (stopped.reason, stopped.by_client) == (tp.SUSPEND_REASON_WORKER_DIED, False)
        (resumed,) = (e.resumed for e in events if e.HasField("resumed"))
        assert (resumed.instance_id, resumed.attempt) == ("fake-2", 2)
        assert events[-1].finished.state == tp.TASK_STATE_SUCCEEDED
        assert events[-1].finished.usage.output_tokens == 100
    assert text_of(await read_all(connection.chat("again"))) == "again"


async def test_a_prompt_that_kills_its_workers_is_found_out(connection: Connection) -> None:
    """It ends with POISON at the third death, all others go on to their end, and another one like it is refused."""
    await connection.create(step_s=0.002, die_on_token=ord("#"), max_sequences=8)
    others = [connection.another().endless(tokens=200) for _ in range(5)]
    begun = [await read_until(call, "output") for call in others]
    events, error = await read_failing(connection.chat("a # b"))
    reason, facts = reason_of(error)
    assert (reason, facts["deaths"]) == ("POISON", "3")
    assert events[-1].finished.state == tp.TASK_STATE_FAILED
    for first, call in zip(begun, others, strict=True):
        assert text_of(first + await read_all(call)) == ("la" * 200)[:200]
    _, refused = await read_failing(connection.chat("a # b"))
    assert reason_of(refused)[0] == "POISON"


async def test_poison_is_known_by_what_kills(connection: Connection) -> None:
    """With other labels, class, seed or length it is refused at once, and no worker dies; another prompt runs."""
    await connection.create(step_s=0.002, die_on_token=ord("#"))
    spec = tp.TaskSpec(model="fake", prompt="a # b", sampling=sp.SamplingParams(max_tokens=20, temperature=1, seed=3))
    await read_failing(connection.tasks.RunTask(ts.RunTaskRequest(spec=spec)))
    model = connection.kernel.driver.machine.views.model(ModelName("fake"))
    workers = model.instance_count
    for other in (
        tp.TaskSpec(labels={"a": "b"}),
        tp.TaskSpec(priority=pp.PRIORITY_HIGH),
        tp.TaskSpec(prefix_cache=False),
        tp.TaskSpec(sampling=sp.SamplingParams(seed=4)),
        tp.TaskSpec(sampling=sp.SamplingParams(max_tokens=21, n=2)),
    ):
        again = tp.TaskSpec()
        again.CopyFrom(spec)
        again.MergeFrom(other)
        events, error = await read_failing(connection.tasks.RunTask(ts.RunTaskRequest(spec=again)))
        assert (events, reason_of(error)[0]) == ([], "POISON"), other
    assert model.instance_count == workers
    spec.prompt = "a b"
    assert (await read_all(connection.tasks.RunTask(ts.RunTaskRequest(spec=spec))))[
        -1
    ].finished.usage.output_tokens == 20


async def test_an_error_inside_a_step_fails_its_tasks_and_nothing_else(connection: Connection) -> None:
    """A backend that raises ends the tasks of that step with BACKEND_FAILED and its last line; the worker goes on."""
    await connection.create(fail_on_token=ord("#"))
    _, error = await read_failing(connection.chat("a # b"))
    assert error.code() is grpc.StatusCode.INTERNAL
    assert reason_of(error)[0] == "BACKEND_FAILED"
    assert text_of(await read_all(connection.chat("fine"))) == "fine"
    assert len(connection.kernel.driver.supervisor.workers) == 1


async def test_a_request_id_makes_one_task(connection: Connection) -> None:
    """The same call with the same request_id watches the first task; with other contents it is refused."""
    await connection.create()
    first = await read_all(connection.chat("once", request_id="r1"))
    second = await read_all(connection.chat("once", request_id="r1"))
    assert {e.task_id for e in first} == {e.task_id for e in second}
    assert text_of(second) == "once"
    _, error = await read_failing(connection.chat("twice", request_id="r1"))
    assert reason_of(error)[0] == "REQUEST_CONFLICT"


async def test_a_retry_outlives_the_call_that_it_repeats(connection: Connection) -> None:
    """When the first call with a request_id breaks off, the one that repeats it goes on to the end of the task."""
    await connection.create(step_s=0.002)
    first = connection.endless(tokens=200, request_id="r")
    await read_until(first, "output")
    second = connection.another().endless(tokens=200, request_id="r")
    events = await read_until(second, "output")
    first.cancel()
    events += [response.event async for response in second]
    assert events[-1].finished.state == tp.TASK_STATE_SUCCEEDED
    assert len(text_of(events)) == 200


async def test_an_end_at_the_deadline_takes_nothing_along(connection: Connection, monkeypatch: Any) -> None:
    """A last frame that is read when the deadline has passed, and a worker that exits then, disturb no one else."""
    await connection.create(step_s=0.02)
    driver = connection.kernel.driver
    ahead_s, real = [0.0], driver.clock.now
    monkeypatch.setattr(driver.clock, "now", lambda: real() + ahead_s[0])
    for kill in (False, True):
        call = connection.endless(timeout=60)
        await read_until(call, "output")
        (instance_id,) = driver.supervisor.workers
        (task_id,) = driver.machine.fleet.instances[instance_id].running
        handle = driver._relay._links[instance_id].handles[task_id]
        ahead_s[0] += 100.0
        if kill:
            os.kill(driver.supervisor.workers[instance_id].pid, signal.SIGKILL)
        else:
            ended = step_pb2.Ended(handle=handle, finish_reason=3)
            driver.worker_frame(instance_id, worker_pb2.WorkerFrame(step=step_pb2.StepOutput(ended=[ended])))
        events, _ = await read_failing(call)
        assert events[-1].finished.state == tp.TASK_STATE_EXPIRED
    await connection.models.LoadModel(ms.LoadModelRequest(name="fake"))  # at once: the backoff's clock is far ahead
    assert text_of(await read_all(connection.chat("again"))) == "again"


async def test_tenants_see_only_their_own_tasks(connection: Connection) -> None:
    """Another tenant can neither read, list, watch nor cancel a task; a tenant that is no name is refused."""
    await connection.create()
    mine = (("inferd-tenant", "mine"),)
    events = await read_all(connection.chat("secret", metadata=mine))
    task_id = events[0].task_id
    for ask in (
        connection.tasks.GetTask(ts.GetTaskRequest(task_id=task_id)),
        connection.tasks.CancelTask(ts.CancelTaskRequest(task_id=task_id)),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ask
        assert reason_of(caught.value)[0] == "TASK_NOT_FOUND"
    _, error = await read_failing(connection.tasks.WatchTask(ts.WatchTaskRequest(task_id=task_id)))
    assert reason_of(error)[0] == "TASK_NOT_FOUND"
    assert not (await connection.tasks.ListTasks(ts.ListTasksRequest())).tasks
    assert len((await connection.tasks.ListTasks(ts.ListTasksRequest(), metadata=mine)).tasks) == 1
    _, error = await read_failing(connection.chat("x", metadata=(("inferd-tenant", "no name"),)))
    assert reason_of(error)[0] == "INVALID_FIELD"


async def test_tasks_are_listed_in_pages_newest_first(connection: Connection) -> None:
    """Pages follow each other without gap or repeat, filtered by state; a wrong token is refused."""
    await connection.create()
    ids = [(await read_all(connection.chat(f"n{n}")))[0].task_id for n in range(7)]
    seen: list[str] = []
    token = ""
    for _ in range(3):
        page = await connection.tasks.ListTasks(ts.ListTasksRequest(page_size=3, page_token=token))
        seen += [task.task_id for task in page.tasks]
        token = page.next_page_token
    assert token == ""
    assert seen == ids[::-1]
    running = ts.ListTasksRequest(states=[tp.TASK_STATE_RUNNING])
    assert not (await connection.tasks.ListTasks(running)).tasks
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await connection.tasks.ListTasks(ts.ListTasksRequest(page_token="?"))  # noqa: S106 - no password
    assert reason_of(caught.value)[0] == "INVALID_FIELD"


async def test_sampling_stops_where_it_is_told(connection: Connection) -> None:
    """Stop strings and the most tokens end the text, each with its reason."""
    await connection.create()

    def run(**sampling: Any) -> Any:
        spec = tp.TaskSpec(model="fake", prompt="abc", sampling=sp.SamplingParams(temperature=0, **sampling))
        return read_all(connection.tasks.RunTask(ts.RunTaskRequest(spec=spec)))

    stopped = await run(stop=["ca"], max_tokens=50)
    assert text_of(stopped) == "ab"
    assert stopped[-1].finished.reason == tp.FINISH_REASON_STOP_STRING
    counted = await run(max_tokens=7)
    assert text_of(counted) == "abcabca"
    assert counted[-1].finished.reason == tp.FINISH_REASON_MAX_TOKENS


async def test_a_reader_that_does_not_read_costs_a_bounded_amount_and_slows_nobody(connection: Connection) -> None:
    """While one client leaves its stream unread, another's runs at full speed and the first still gets it all."""
    await connection.create()
    stuck = connection.endless(tokens=900)
    quick = await read_all(connection.another().endless(tokens=900))
    assert len(text_of(quick)) == 900
    assert len(text_of(await read_all(stuck))) == 900
