import asyncio
from array import array

import pytest

from inferd.core.ids import InstanceId, TaskId
from inferd.core.task import FinishReason, Outcome, SuspendReason, TaskState
from inferd.core.task_events import (
    Finished,
    Logprobs,
    Output,
    PromptOutput,
    Queued,
    Receipt,
    Started,
    Suspended,
    TaskEvent,
    TensorOutput,
)
from inferd.errors import EventsDroppedError, TaskNotFoundError
from inferd.runtime import stream as module
from inferd.runtime.event_budget import EventBudget
from inferd.runtime.stream import TaskStream
from inferd.runtime.streams import Streams

TASK = TaskId("t1")
DONE = Finished(
    Outcome(state=TaskState.SUCCEEDED),
    Receipt(queue_s=0, first_token_s=None, run_s=0, backend="", device="", worker_memory_bytes=0),
)


def told(*events: TaskEvent, limit_bytes: int = 1 << 20) -> TaskStream:
    stream = TaskStream(TASK, limit_bytes, EventBudget(1 << 30))
    for event in events:
        stream.tell(event)
    return stream


def outputs(count: int) -> list[TaskEvent]:
    return [Output(chr(97 + n % 26), (n,)) for n in range(count)]


def test_missed_outputs_are_merged_under_the_last_number() -> None:
    """A watcher that comes late gets adjacent outputs as one, numbered like the last, and other events as they were."""
    batch = told(Queued(0), *outputs(3), DONE).read(0)
    assert [n.sequence for n in batch] == [1, 4, 5]
    assert batch[1].event == Output("abc", (0, 1, 2))


def test_outputs_of_a_sample_are_merged_with_all_that_is_told_of_them() -> None:
    """Adjacent outputs of one sample become one, with their probabilities and how it ended; those of others do not."""
    one, other = Logprobs((1,), (-1.0,), (2,), (-2.0,)), Logprobs((3,), (-3.0,), (4,), (-4.0,))
    stream = told(
        PromptOutput("p", (9,), one),
        Output("a", (1,), logprobs=one),
        Output("b", (3,), logprobs=other, reason=FinishReason.MAX_TOKENS),
        Output("c", (5,), sample=1),
        Output("d", (6,)),
    )
    joined = Logprobs(array("I", [1, 3]), array("f", [-1, -3]), array("I", [2, 4]), array("f", [-2, -4]))
    assert stream.output_tokens == 4  # the prompt is not output
    assert [n.event for n in stream.read(0)] == [
        PromptOutput("p", (9,), one),
        Output("ab", (1, 3), 0, joined, FinishReason.MAX_TOKENS),
        Output("c", (5,), sample=1),
        Output("d", (6,)),
    ]
    assert (
        stream.size_bytes > told(Output("a", (1,)), Output("b", (3,)), Output("c", (5,)), Output("d", (6,))).size_bytes
    )


def test_a_watcher_resumes_behind_any_number() -> None:
    """Text read before a break and text read after it, from any event, make the whole."""
    stream = told(Queued(0), *outputs(20), DONE)
    for after in range(stream.last_sequence):
        texts = [n.event.text for n in stream.read(after) if isinstance(n.event, Output)]
        assert "".join(texts) == "abcdefghijklmnopqrst"[max(0, after - 1) :]


async def test_every_watcher_sees_every_event_at_its_own_pace() -> None:
    """Watchers that join before, during and after the task all get the same text and the one end."""
    stream = told()

    async def watch() -> tuple[str, int]:
        seen = [n async for batch in stream.follow(0) for n in batch]
        text = "".join(n.event.text for n in seen if isinstance(n.event, Output))
        return text, sum(isinstance(n.event, Finished) for n in seen)

    async with asyncio.TaskGroup() as group:
        early = group.create_task(watch())
        for event in outputs(5):
            stream.tell(event)
            await asyncio.sleep(0)  # a turn of the loop for the watchers
        middle = group.create_task(watch())
        stream.tell(DONE)
        late = group.create_task(watch())
    assert early.result() == middle.result() == late.result() == ("abcde", 1)


async def test_a_watcher_with_an_interval_gets_what_came_meanwhile_as_one() -> None:
    """The first output comes at once, what is told within the interval after it not before the end, and then as one."""
    stream = told(Queued(0))
    watcher = stream.follow(0, 3600)
    assert [n.event for n in await anext(watcher)] == [Queued(0)]  # no output: the next batch does not wait
    for event in outputs(1):
        stream.tell(event)
    assert [n.event for n in await anext(watcher)] == [Output("a", (0,))]
    following = asyncio.ensure_future(anext(watcher))
    for event in outputs(3):
        stream.tell(event)
        await asyncio.sleep(0)  # a turn of the loop for the watcher
    assert not following.done()
    stream.tell(DONE)
    async with asyncio.timeout(60):
        assert [n.event for n in await following] == [Output("abc", (0, 1, 2)), DONE]
    await watcher.aclose()


async def test_sets_of_tensors_wait_for_an_interval() -> None:
    """Sets of tensors that come within the interval behind another come together, each as it was told."""
    stream = told(TensorOutput(b"a"))
    watcher = stream.follow(0, 3600)
    assert [n.event for n in await anext(watcher)] == [TensorOutput(b"a")]
    following = asyncio.ensure_future(anext(watcher))
    for written in (b"b", b"c"):
        stream.tell(TensorOutput(written))
        for _ in range(9):
            await asyncio.sleep(0)  # a turn of the loop for the watcher
    assert not following.done()
    stream.tell(DONE)
    async with asyncio.timeout(60):
        assert [n.event for n in await following] == [TensorOutput(b"b"), TensorOutput(b"c"), DONE]
    await watcher.aclose()


async def test_an_interval_ends_by_itself() -> None:
    """Without an end of the task the next batch comes after the interval, and not before."""
    stream = told(*outputs(1))
    watcher = stream.follow(0, 0.02)
    await anext(watcher)
    stream.tell(Output("b", (1,)))
    begun = asyncio.get_running_loop().time()
    async with asyncio.timeout(60):
        assert [n.event for n in await anext(watcher)] == [Output("b", (1,))]
    assert asyncio.get_running_loop().time() - begun > 0.01
    await watcher.aclose()


async def test_other_events_end_an_interval() -> None:
    """That a task was suspended is told at once, with what it had put out by then."""
    stream = told(*outputs(1))
    watcher = stream.follow(0, 3600)
    await anext(watcher)
    stream.tell(Output("b", (1,)))
    stream.tell(Suspended(SuspendReason.CLIENT))
    async with asyncio.timeout(60):
        assert [n.event for n in await anext(watcher)] == [Output("b", (1,)), Suspended(SuspendReason.CLIENT)]
    await watcher.aclose()


async def test_no_event_is_dropped_for_an_interval() -> None:
    """A watcher with an interval reads before the stream drops what it has not read, however much is told."""
    stream = told(*outputs(1), limit_bytes=4096)
    texts: list[str] = []

    async def watch() -> None:
        async for batch in stream.follow(0, 3600):
            texts.extend(n.event.text for n in batch if isinstance(n.event, Output))

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        group.create_task(watch())
        for event in outputs(200):
            stream.tell(event)
            await asyncio.sleep(0)  # a turn of the loop for the watcher
        stream.tell(DONE)
    assert len("".join(texts)) == 201
    assert len(texts) < 100  # and still in few batches


async def test_a_watcher_that_does_not_read_costs_nothing_and_slows_nobody() -> None:
    """Events told while a watcher is stuck leave no trace of it: it holds a number, not a queue."""
    stream = told(*outputs(1))
    stuck = stream.follow(0)
    await anext(stuck)
    before = stream.size_bytes
    for event in outputs(100):
        stream.tell(event)
    assert stream.size_bytes == before + sum(204 + 36 for _ in range(100))
    assert [n.sequence for n in await anext(stuck)] == [101]
    await stuck.aclose()


def test_a_stream_is_bounded_and_says_what_it_dropped() -> None:
    """Beyond its bound a stream drops its oldest events; asking for them is an error that names the first one held."""
    stream = told(*outputs(1000), limit_bytes=10_000)
    assert stream.size_bytes <= 10_000
    with pytest.raises(EventsDroppedError) as caught:
        stream.read(0)
    first = int(caught.value.metadata["first_sequence"])
    assert 1 < first <= 1000
    assert stream.read(first - 1)[-1].sequence == 1000


def test_ended_tasks_share_a_bound() -> None:
    """When ended streams cost more than their bound, the one that ended first loses its events but not its end."""
    streams = Streams(stream_bytes=1 << 20, retained_bytes=10_000, events_bytes=1 << 20)
    first = streams.open(TaskId("first"))
    for event in outputs(30):
        first.tell(event)
    streams.finish(TaskId("first"), DONE)
    second = streams.open(TaskId("second"))
    for event in outputs(30):
        second.tell(event)
    streams.finish(TaskId("second"), DONE)
    assert first.read(30)[0].event is DONE
    with pytest.raises(EventsDroppedError):
        first.read(0)
    assert second.read(0)[-1].event is DONE


def test_tasks_that_have_not_ended_share_a_bound() -> None:
    """When they hold too much together, those that hold the most lose their oldest events, and small ones lose nothing.

    The newest event of each stays, and what ended tasks hold counts apart.
    """
    streams = Streams(stream_bytes=1 << 20, retained_bytes=1 << 20, events_bytes=20_000)
    small, *large = (streams.open(TaskId(f"t{number}")) for number in range(5))
    small.tell(Queued(0))
    for event in outputs(3):
        small.tell(event)
    for event in outputs(100):
        for stream in large:
            stream.tell(event)
            assert sum(one.size_bytes for one in (small, *large)) <= 20_000
            assert stream.read(stream.last_sequence - 1)[0].event is event
    assert small.read(0)[-1].sequence == 4
    for stream in large:
        assert 2_000 < stream.size_bytes < 10_000
        with pytest.raises(EventsDroppedError):
            stream.read(0)
    streams.finish(large[0].task_id, DONE)
    streams.forget(large[1].task_id)
    for event in outputs(30):  # there is room for them now
        large[2].tell(event)
    assert large[2].read(100)[0].sequence == 130


@pytest.mark.parametrize("more", [1, 3])
def test_what_cannot_be_given_up_is_kept(more: int) -> None:
    """An event that is larger than all may hold together stays, and others that come lose what is older than theirs."""
    streams = Streams(stream_bytes=1 << 20, retained_bytes=1 << 20, events_bytes=5_000)
    huge, other = streams.open(TaskId("huge")), streams.open(TaskId("other"))
    huge.tell(Output("x" * 5_000, ()))
    for event in outputs(more):
        other.tell(event)
    assert huge.read(0)[0].sequence == 1
    assert other.read(more - 1)[0].sequence == more
    assert other.size_bytes == told(*outputs(1)).size_bytes


def test_a_forgotten_task_is_not_found() -> None:
    """After its retention a task's stream is gone, with a typed error."""
    streams = Streams(stream_bytes=1 << 20, retained_bytes=1 << 20, events_bytes=1 << 20)
    streams.open(TASK)
    streams.finish(TASK, DONE)
    streams.forget(TASK)
    with pytest.raises(TaskNotFoundError):
        streams.get(TASK)


def test_what_is_read_after_its_task_was_forgotten_is_bounded() -> None:
    """Events of forgotten tasks count for as long as somebody holds them: beyond the bound the oldest are dropped."""
    each = told(*outputs(10), DONE).size_bytes
    streams = Streams(stream_bytes=1 << 20, retained_bytes=3 * each, events_bytes=1 << 20)

    def end(name: str) -> TaskStream:
        stream = streams.open(TaskId(name))
        for event in outputs(10):
            stream.tell(event)
        streams.finish(stream.task_id, DONE)
        return stream

    held = [end(f"t{n}") for n in range(3)]
    for stream in held:
        streams.forget(stream.task_id)
        assert stream.read(0)  # it is within the bound
    held.append(end("t3"))
    assert held[0].read(10)[-1].event == DONE
    with pytest.raises(EventsDroppedError):
        held[0].read(0)
    assert sum(stream.size_bytes for stream in held[1:]) == 3 * each
    del stream, held[1:3]  # nobody reads these any more
    held += [end("t4"), end("t5")]
    assert all(stream.read(0) for stream in held[1:])
    streams.forget(TaskId("t3"))
    end("t6")
    with pytest.raises(EventsDroppedError):
        held[1].read(0)


@pytest.mark.parametrize("leaves", [False, True])
async def test_who_follows_a_task_has_all_of_it(leaves: bool) -> None:  # noqa: FBT001 - a parameter
    """What an ended task has told is held until those who follow it have it, or leave; then it is one of the ended."""
    streams = Streams(stream_bytes=1 << 20, retained_bytes=1000, events_bytes=1 << 20)
    stream = streams.open(TASK)
    stream.tell(Queued(0))
    following = stream.follow(0)
    assert len(await anext(following)) == 1
    stream.tell(TensorOutput(b"x" * 2000))
    streams.finish(TASK, DONE)
    if not leaves:
        assert [n.event for n in await anext(following)] == [TensorOutput(b"x" * 2000), DONE]
    await following.aclose()
    with pytest.raises(EventsDroppedError):
        stream.read(0)


def test_the_last_set_of_tensors_is_held_with_the_end() -> None:
    """However large a set of tensors is beside what is held of a task, the end behind it does not drop it."""
    stream = told(Queued(0), TensorOutput(b"x" * 5000), TensorOutput(b"y" * 5000), DONE, limit_bytes=1000)
    assert [n.event for n in stream.read(2)] == [TensorOutput(b"y" * 5000), DONE]


BEGUN = Started(InstanceId("i"), 1)


async def test_who_gathers_is_given_a_beginning_with_what_comes_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of a task that ends at once is one batch, however often its follower could have been woken before the end."""
    monkeypatch.setattr(module, "MOMENT_S", 3600.0)
    stream = told(Queued(0))
    batches = stream.follow(0, gathers=True)
    first = asyncio.ensure_future(anext(batches))
    for event in (None, BEGUN, None):
        if event is not None:
            stream.tell(event)
        for _ in range(3):
            await asyncio.sleep(0)
        assert not first.done()
    for event in (TensorOutput(b"", ()), DONE):
        stream.tell(event)
    assert [n.sequence for n in await asyncio.wait_for(first, 60)] == [1, 2, 3, 4]
    assert [batch async for batch in batches] == []


@pytest.mark.parametrize("gathers", [False, True])
async def test_a_beginning_is_given_though_nothing_comes_behind_it(
    monkeypatch: pytest.MonkeyPatch, *, gathers: bool
) -> None:
    """Who gathers is given it after a moment, all others at once."""
    monkeypatch.setattr(module, "MOMENT_S", 0.01 if gathers else 3600.0)
    batches = told(Queued(0), BEGUN).follow(0, gathers=gathers)
    assert [n.sequence for n in await asyncio.wait_for(anext(batches), 60)] == [1, 2]
    await batches.aclose()
