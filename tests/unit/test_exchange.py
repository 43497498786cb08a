"""Frames between a kernel and an agent: in order and each once, over one stream after the other."""

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from time_limits import LONG_S

from inferd.host_settings import Hosts
from inferd.runtime.far.exchange import Exchange
from inferd.runtime.far.hosts import link_bounds
from inferd.runtime.far.parcels import Assembly, BrokenExchangeError
from inferd.shared import Memory
from inferd_api.agent.v1 import agent_pb2 as wire
from inferd_api.worker.v1.sandbox_pb2 import SandboxLimits

BOUNDS = wire.LinkBounds(
    parcel_bytes=1000, window_bytes=4000, held_bytes=100_000, frame_bytes=20_000, memory_bytes=50_000
)
DEADLINE_S = LONG_S
Frame = tuple[bytes, tuple[bytes, ...]]


class End:
    """One end of an exchange, and what it was told."""

    def __init__(self, bounds: wire.LinkBounds | None = None, **more: Any) -> None:
        self.frames: list[Frame] = []
        self.why = ""
        self.changed = asyncio.Event()
        self.room: Callable[[], None] = lambda: None
        self.exchange = Exchange(
            bounds or BOUNDS, on_frames=self._take, on_closed=self._close, on_room=self._room, **more
        )

    def _take(self, frames: Sequence[tuple[bytes, tuple[Memory, ...]]]) -> None:
        self.frames += [(data, tuple(memory.read(0, memory.size_bytes) for memory in given)) for data, given in frames]
        self.changed.set()

    def _room(self) -> None:
        self.room()

    def _close(self, why: str) -> None:
        self.why = why
        self.changed.set()


class Stream:
    """A stream between two ends that breaks after some messages, whichever way they go; what is under way is lost."""

    def __init__(self, messages: int) -> None:
        self._left = messages
        self._ways: dict[str, asyncio.Queue[wire.Parcels | None]] = {way: asyncio.Queue() for way in ("there", "back")}

    def read(self, way: str) -> Any:
        async def read() -> wire.Parcels | None:
            return await self._ways[way].get()

        return read

    def write(self, way: str) -> Any:
        async def write(parcels: wire.Parcels) -> None:
            await asyncio.sleep(0)
            if self._left <= 0:
                self.end()
                return
            self._left -= 1
            self._ways[way].put_nowait(wire.Parcels.FromString(parcels.SerializeToString()))

        return write

    def end(self) -> None:
        """It breaks."""
        for each in self._ways.values():
            each.put_nowait(None)


async def carry(one: End, other: End, messages: int) -> None:
    """Have both go on over a stream, until it breaks, or each has all of the other's."""
    stream = Stream(messages)

    def look() -> None:
        if not one.exchange.queued_bytes and not other.exchange.queued_bytes:
            stream.end()

    for end in (one, other):
        end.room = look
    look()
    heard = one.exchange.received, other.exchange.received
    async with asyncio.timeout(DEADLINE_S):
        await asyncio.gather(
            one.exchange.run(heard[1], stream.read("back"), stream.write("there")),
            other.exchange.run(heard[0], stream.read("there"), stream.write("back")),
        )


@pytest.mark.parametrize("seed", range(8))
async def test_nothing_is_lost_and_nothing_comes_twice(seed: int) -> None:
    """Frames of any size, with memories, come in order and once, however often streams break in the middle of them."""
    drawn = random.Random(seed)
    ends = End(ack_s=0.001), End(ack_s=0.001)
    sent: tuple[list[Frame], list[Frame]] = ([], [])
    for end, frames in zip(ends, sent, strict=True):
        for _ in range(40):
            sizes = [drawn.choice((1, 999, 1000, 1001, 9000)) for _ in range(drawn.choice((0, 0, 0, 1, 3)))]
            frame = drawn.randbytes(drawn.choice((1, 10, 999, 1000, 1001, 5000)))
            parts = tuple(drawn.randbytes(size) for size in sizes)
            end.exchange.send(frame, [Memory.of(part) for part in parts])
            frames.append((frame, tuple(part + bytes(-len(part) % 64) for part in parts)))  # as they are aligned
    for _ in range(2000):
        if (ends[1].frames, ends[0].frames) == sent:
            break
        await carry(*ends, messages=drawn.randrange(1, 30))
    assert (ends[1].frames, ends[0].frames) == sent
    assert ends[0].why == ends[1].why == ""


async def test_what_is_acknowledged_is_forgotten() -> None:
    """Nothing is held of what the other end has, and no more is under way than the window."""
    one, other = End(), End()
    for _ in range(20):
        one.exchange.send(bytes(900))
    assert (one.exchange.queued_bytes, one.exchange.held_bytes) == (18_000, 18_000)
    stream, empty = Stream(1 << 20), asyncio.Event()
    one.room = lambda: None if one.exchange.queued_bytes else empty.set()
    seen: list[int] = []

    async def write(parcels: wire.Parcels) -> None:
        seen.append(one.exchange._flying_bytes)
        await stream.write("there")(parcels)

    running = [
        asyncio.create_task(one.exchange.run(0, stream.read("back"), write)),
        asyncio.create_task(other.exchange.run(0, stream.read("there"), stream.write("back"))),
    ]
    async with asyncio.timeout(DEADLINE_S):
        await empty.wait()
    assert len(other.frames) == 20
    assert max(seen) <= BOUNDS.window_bytes
    one.exchange.finish("that is all")
    async with asyncio.timeout(DEADLINE_S):
        await running[1]
        stream.end()
        await running[0]
    assert other.why == "that is all"


@pytest.mark.parametrize("parcel_bytes", [1000, 3001, 4000])
async def test_no_parcel_waits_for_time_to_pass(parcel_bytes: int) -> None:
    """Whoever acknowledges late does so before a parcel finds no room in the window, be it as large as that."""
    bounds = wire.LinkBounds()
    bounds.CopyFrom(BOUNDS)
    bounds.parcel_bytes = parcel_bytes
    ends = End(bounds, ack_s=1e6), End(bounds, ack_s=1e6)
    ends[0].exchange.send(b"frame", [Memory.of(bytes(12_800))])
    stream = Stream(1 << 20)
    runs = [
        asyncio.create_task(ends[0].exchange.run(0, stream.read("back"), stream.write("there"))),
        asyncio.create_task(ends[1].exchange.run(0, stream.read("there"), stream.write("back"))),
    ]
    async with asyncio.timeout(DEADLINE_S):
        await ends[1].changed.wait()
        stream.end()
        await asyncio.gather(*runs)
    assert ends[1].frames == [(b"frame", (bytes(12_800),))]


async def test_small_frames_are_acknowledged_by_what_goes_anyway() -> None:
    """With the bounds of a link a small frame has no message of its own go back before its time."""
    bounds = link_bounds(Hosts(), message_bytes=4 << 20, frame_bytes=16 << 20, sandbox=SandboxLimits())
    end = End(bounds, ack_s=1e6)
    start = wire.FrameStart(frame_bytes=900)
    end.exchange.take(wire.Parcels(first=1, parcels=[wire.Parcel(start=start, data=bytes(900))]))
    assert end.exchange._next() is None
    assert 2 * bounds.parcel_bytes <= bounds.window_bytes


async def test_a_stream_takes_the_place_of_the_one_before() -> None:
    """Whoever attaches anew ends the stream that was there, also one that is dead and says nothing."""
    end = End()

    async def never() -> None:
        await asyncio.Event().wait()

    async def nowhere(_: wire.Parcels) -> None:
        await asyncio.Event().wait()

    dead = asyncio.create_task(end.exchange.run(0, never, nowhere))
    end.exchange.send(b"1")
    await asyncio.sleep(0)
    other = End()
    stream = Stream(100)
    alive = asyncio.create_task(end.exchange.run(0, stream.read("back"), stream.write("there")))
    reading = asyncio.create_task(other.exchange.run(0, stream.read("there"), stream.write("back")))
    async with asyncio.timeout(DEADLINE_S):
        await dead
        await other.changed.wait()
    assert other.frames == [(b"1", ())]
    end.exchange.close("enough")
    reading.cancel()
    await alive


async def test_more_than_may_wait_ends_it() -> None:
    """An end that may hold so much for a broken connection is closed by more, and says how much and which setting."""
    end = End(most_held_bytes=5000)
    for _ in range(6):
        end.exchange.send(bytes(900))
    await asyncio.sleep(0)
    assert "hosts.held_bytes" in end.why
    assert "5400" in end.why
    assert "5000" in end.why
    end.exchange.send(b"lost")
    assert end.exchange.queued_bytes == 5400


@pytest.mark.parametrize(
    ("parcels", "why"),
    [
        (wire.Parcels(first=2, parcels=[wire.Parcel(start=wire.FrameStart(frame_bytes=1), data=b"1")]), "parcel 2"),
        (wire.Parcels(received=1), "acknowledges what was not sent"),
        (wire.Parcels(first=1, parcels=[wire.Parcel(data=b"1")]), "has not begun"),
        (wire.Parcels(first=1, parcels=[wire.Parcel(start=wire.FrameStart(frame_bytes=20_001))]), "limits.frame_bytes"),
        (
            wire.Parcels(first=1, parcels=[wire.Parcel(start=wire.FrameStart(frame_bytes=1, memory_bytes=[50_001]))]),
            "hosts.memory_bytes",
        ),
        (
            wire.Parcels(first=1, parcels=[wire.Parcel(start=wire.FrameStart(frame_bytes=1, memory_bytes=[0]))]),
            "none of them empty",
        ),
        (
            wire.Parcels(first=1, parcels=[wire.Parcel(start=wire.FrameStart(frame_bytes=1), data=b"12")]),
            "more than its frame",
        ),
        (wire.Parcels(first=1, parcels=[wire.Parcel(start=wire.FrameStart())] * 1025), "1025 parcels came in one"),
        (
            wire.Parcels(first=1, parcels=[wire.Parcel(start=wire.FrameStart(frame_bytes=1001), data=bytes(1001))]),
            "a parcel of 1001 bytes came; the most is 1000",
        ),
        (
            wire.Parcels(first=1, parcels=[wire.Parcel(start=wire.FrameStart(frame_bytes=9)), wire.Parcel()]),
            "begins nothing",
        ),
    ],
)
async def test_what_may_not_come_ends_it(parcels: wire.Parcels, why: str) -> None:
    """A gap, an acknowledgement of nothing, and what is beyond its bounds, or empty, are no defect, but an end."""
    end = End()
    messages = [parcels]

    async def read() -> wire.Parcels | None:
        return messages.pop() if messages else None

    async def write(_: wire.Parcels) -> None:
        return

    await end.exchange.run(0, read, write)
    await asyncio.sleep(0)
    assert why in end.why


async def test_parts_of_frames_tell_that_it_moves() -> None:
    """Each part of a frame, and each acknowledgement of one, tells that the link gets on; a beat alone does not."""
    moved: list[bool] = []
    end = End(on_moved=moved.append)
    start = wire.FrameStart(frame_bytes=3)
    end.exchange.take(wire.Parcels(first=1, parcels=[wire.Parcel(start=start, data=b"1")]))
    end.exchange.take(wire.Parcels())
    assert (moved, end.frames) == ([True], [])
    end.exchange.send(b"1")
    assert end.exchange._next() is not None
    end.exchange.take(wire.Parcels(received=1))
    end.exchange.take(wire.Parcels(received=1))
    assert moved == [True, False]


def test_nothing_comes_behind_the_last_frame() -> None:
    """A frame behind the one that says that no frame follows is refused."""
    assembly = Assembly(frame_limit_bytes=10, memory_limit_bytes=10)
    assert assembly.take(wire.Parcel(start=wire.FrameStart(closed="so"))) is None
    with pytest.raises(BrokenExchangeError):
        assembly.take(wire.Parcel(start=wire.FrameStart(frame_bytes=1), data=b"1"))
