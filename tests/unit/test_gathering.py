"""Steps of a far worker that go to the kernel together, and when the kernel asks for that."""

import asyncio
from types import SimpleNamespace
from typing import Any

from inferd.agent.gathering import MOST_STEPS, Gathering
from inferd.agent.hosted import HostedWorker
from inferd.core.ids import InstanceId
from inferd.runtime.far.exchange import Exchange
from inferd.runtime.far.pace import LEAST_S, LOOK_S, Pace
from inferd.runtime.far.worker import FarWorker
from inferd_api.agent.v1 import agent_pb2 as wire
from inferd_api.worker.v1 import step_pb2
from inferd_api.worker.v1 import worker_pb2 as frames_pb

DEADLINE_S = 60.0
LONG_US = 3_600_000_000  # until something else takes them along
BOUNDS = wire.LinkBounds(parcel_bytes=1 << 20, window_bytes=4 << 20, frame_bytes=1 << 20, memory_bytes=1 << 20)


def plain(token: int, handles: tuple[int, ...] = (1, 2)) -> frames_pb.WorkerFrame:
    step = step_pb2.StepOutput(handles=handles, seconds=0.1, sequences=len(handles))
    for handle in handles:
        step.counts.append(1)
        step.token_ids.append(10 * handle + token)
        step.texts.append(f"{handle}{token}")
    return frames_pb.WorkerFrame(step=step)


def ending() -> frames_pb.WorkerFrame:
    frame = plain(9)
    frame.step.ended.add(handle=1)
    return frame


def hosted(bounds: wire.LinkBounds) -> HostedWorker:
    """A worker of an agent whose kernel asks to gather."""
    ignored: Any = lambda *_: None  # noqa: E731 - several callbacks
    control: Any = SimpleNamespace(gather_us=LONG_US)
    return HostedWorker(
        1,
        InstanceId("i"),
        host="h",
        bounds=bounds,
        control=control,
        own=(),
        fetch=ignored,
        leave=ignored,
        see=ignored,
    )


def test_plain_steps_wait_and_go_as_one_before_whatever_comes_next() -> None:
    """Three steps that wait are one frame with three tokens of each task, sent before what took them along."""

    async def run() -> None:
        sent: list[frames_pb.WorkerFrame] = []
        gathering = Gathering(sent.append)
        assert all(gathering.take(plain(token), LONG_US) for token in (1, 2, 3))
        assert not sent
        assert not gathering.take(ending(), LONG_US)
        (step,) = (frame.step for frame in sent)
        assert list(step.counts) == [3, 3]
        assert list(step.token_ids) == [11, 12, 13, 21, 22, 23]
        assert list(step.texts) == ["111213", "212223"]

    asyncio.run(run())


def test_steps_of_other_tasks_stay_apart_and_in_order() -> None:
    """Where another task is in a step, it is another frame, behind the one before."""

    async def run() -> None:
        sent: list[frames_pb.WorkerFrame] = []
        gathering = Gathering(sent.append)
        for frame in (plain(1), plain(2), plain(3, (2, 3))):
            gathering.take(frame, LONG_US)
        gathering.flush()
        assert [list(frame.step.handles) for frame in sent] == [[1, 2], [2, 3]]
        assert [list(frame.step.counts) for frame in sent] == [[2, 2], [1, 1]]

    asyncio.run(run())


def test_steps_go_after_the_time_and_no_more_wait_than_may() -> None:
    """What waits goes by itself, at its time or when there are as many as may be; none waits unasked."""

    async def run() -> None:
        sent: list[frames_pb.WorkerFrame] = []
        gone = asyncio.Event()

        def send(frame: frames_pb.WorkerFrame) -> None:
            sent.append(frame)
            gone.set()

        gathering = Gathering(send)
        assert not gathering.take(plain(1), 0)
        gathering.take(plain(1), 1000)
        async with asyncio.timeout(DEADLINE_S):
            await gone.wait()
        for token in range(MOST_STEPS):
            gathering.take(plain(token), LONG_US)
        assert [frame.step.counts[0] for frame in sent] == [1, MOST_STEPS]
        gathering.take(plain(1), LONG_US)
        assert len(gathering.drop()) == 1
        gathering.flush()
        assert len(sent) == 2

    asyncio.run(run())


def test_gathered_steps_are_no_larger_frame_than_the_kernel_takes() -> None:
    """Steps of many tasks go in several frames, in order, each within the bound; a large one goes at once."""

    async def run() -> None:
        sent: list[frames_pb.WorkerFrame] = []
        gathering, handles = Gathering(sent.append), tuple(range(1, 201))
        size_bytes = plain(1, handles).ByteSize()
        frame_bytes = 10 * size_bytes
        for token in range(MOST_STEPS - 1):
            assert gathering.take(plain(token, handles), LONG_US, frame_bytes=frame_bytes)
        assert not gathering.take(plain(0, handles), LONG_US, frame_bytes=size_bytes)
        assert max(frame.ByteSize() for frame in sent) <= frame_bytes
        firsts = [token for frame in sent for token in frame.step.token_ids[: frame.step.counts[0]]]
        assert firsts == [10 + token for token in range(MOST_STEPS - 1)]
        narrow = wire.LinkBounds()
        narrow.CopyFrom(BOUNDS)
        narrow.frame_bytes = frame_bytes
        worker = hosted(narrow)
        for token in range(6):
            worker._tell(plain(token, handles))
        assert worker.exchange.queued_bytes

    asyncio.run(run())


def test_a_kernel_that_spends_too_much_on_far_workers_asks_for_more_gathering_up_to_its_bound() -> None:
    """The time doubles with each look while the share is too large, up to the setting, and falls to none later."""
    pace, now = Pace(0.05), 0.0
    asked = []
    for share in (0.1, 0.5, 0.5, 0.5, 0.5, 0.5, 0.1, 0.0, 0.0, 0.0, 0.0, 0.0):
        now += LOOK_S
        pace.note(share * LOOK_S, now)
        asked.append(pace.gather_us)
    least = round(LEAST_S * 1e6)
    assert asked[:7] == [0, least, 2 * least, 4 * least, 8 * least, 50_000, 50_000]
    assert asked[7:] == [25_000, 12_500, 6250, 3125, 0]
    for _ in range(5):
        now += LOOK_S
        pace.note(LOOK_S, now)
    assert pace.gather_us == 50_000
    now += 3600.0  # in which nothing came
    pace.note(0.001, now)
    assert pace.gather_us == 0
    never = Pace(0.0)
    never.note(10.0, 1.0)
    assert not never.gather_us


def test_an_agent_hears_it_with_the_next_beat() -> None:
    """What the kernel asks goes with each message of the stream of the host, and the other end has the last one."""

    async def run() -> None:
        pace = Pace(0.05)
        ignored: Any = lambda _: None  # noqa: E731 - two callbacks
        kernel, agent = (Exchange(BOUNDS, on_frames=ignored, on_closed=ignored, pace=each) for each in (pace, None))
        pace.note(1.0, 1.0)
        heard = asyncio.Event()
        never: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        async def write(parcels: wire.Parcels) -> None:
            agent.take(parcels)
            heard.set()

        running = asyncio.create_task(kernel.run(0, lambda: never, write, beat_s=0.01))
        async with asyncio.timeout(DEADLINE_S):
            await heard.wait()
        assert agent.gather_us == pace.gather_us > 0
        running.cancel()

    asyncio.run(run())


def test_a_worker_of_an_agent_gathers_as_its_kernel_asks_and_the_kernel_counts_what_that_takes_it() -> None:
    """Two steps and an end leave the agent as two frames, are told so to who has the worker, and that is timed."""

    async def run() -> None:
        noted: list[float] = []
        told: list[frames_pb.WorkerFrame] = []
        ignored: Any = lambda *_: None  # noqa: E731 - a callback
        worker = hosted(BOUNDS)
        host: Any = SimpleNamespace(
            name="h", bounds=BOUNDS, pace=SimpleNamespace(note=lambda spent_s, _: noted.append(spent_s))
        )
        far = FarWorker(host, 1, InstanceId("i"), on_frame=lambda frame, _=(): told.append(frame), on_closed=ignored)
        come = asyncio.Event()

        async def write(parcels: wire.Parcels) -> None:
            far.exchange.take(parcels)
            come.set()

        never: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        for frame in (plain(1), plain(2)):
            worker._tell(frame)
        assert not worker.exchange.queued_bytes
        worker._tell(ending())
        assert worker.exchange.sent == 2
        running = asyncio.create_task(worker.exchange.run(0, lambda: never, write))
        async with asyncio.timeout(DEADLINE_S):
            await come.wait()
        assert [list(frame.step.counts) for frame in told] == [[2, 2], [1, 1]]
        assert len(noted) == 1
        running.cancel()

    asyncio.run(run())
