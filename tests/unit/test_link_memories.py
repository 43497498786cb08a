"""The kernel's end of the link, with another end that does as it likes."""

import asyncio
import os
import resource
import socket
import struct
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from time_limits import LONG_S

from inferd.runtime.link import LocalLink
from inferd.shared import MOST_AT_ONCE, Memory, MemoryRefusedError, ancillary
from inferd.worker.link import Link
from inferd_api.worker.v1 import step_pb2, task_pb2
from inferd_api.worker.v1 import worker_pb2 as wire

DEADLINE_S = LONG_S
LIMIT_BYTES = 8 << 20


class Ends:
    """A link, what came of it, and the socket of the other end."""

    def __init__(self) -> None:
        self.ours, self.theirs = socket.socketpair()
        self.frames: list[tuple[wire.WorkerFrame, Any]] = []
        self.why = ""
        self._changed = asyncio.Event()

    async def connect(self) -> None:
        """Take over our end."""
        self.link = await LocalLink.connect(
            self.ours, frame_limit_bytes=LIMIT_BYTES, on_frame=self._take, on_closed=self._note_closed
        )

    def _take(self, frame: wire.WorkerFrame, memories: Any = (), /) -> None:
        self.frames.append((frame, memories))
        self._changed.set()

    def _note_closed(self, why: str, /) -> None:
        self.why = why
        self._changed.set()

    def say(self, frame: wire.WorkerFrame, descriptors: list[int] | None = None) -> None:
        data = frame.SerializeToString()
        message = struct.pack("<I", len(data)) + data
        socket.send_fds(self.theirs, [message], descriptors or [])

    async def until(self, frames: int = 0) -> None:
        """Wait for so many frames, or for the end."""
        async with asyncio.timeout(DEADLINE_S):
            while len(self.frames) < frames if frames else not self.why:
                self._changed.clear()
                await self._changed.wait()


@pytest.fixture
async def ends() -> AsyncIterator[Ends]:
    made = Ends()
    await made.connect()
    yield made
    made.theirs.close()
    made.link.close()
    await made.until()


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_memories_come_with_their_frame(ends: Ends) -> None:
    """Each frame has the memories that it speaks of, in order, and those that can be changed are told as such."""
    before = descriptors()
    good, unsealed = Memory.of(b"good"), Memory.make(4)
    ends.say(wire.WorkerFrame(step=step_pb2.StepOutput(), memories=1), [good.fileno()])
    ends.say(wire.WorkerFrame(pong=wire.Pong()))
    ends.say(wire.WorkerFrame(step=step_pb2.StepOutput(), memories=2), [unsealed.fileno(), good.fileno()])
    await ends.until(frames=3)
    (first,), second, (third, fourth) = (memories for _, memories in ends.frames)
    assert (first.read(0, 4), second) == (b"good", ())
    assert "seals 0x0" in str(third)
    assert fourth.read(0, 4) == b"good"
    with pytest.raises(MemoryRefusedError, match="bytes 62 to 66 are said to be in a memory of 64 bytes"):
        first.read(62, 4)
    ends.frames.clear()
    del first, third, fourth, good, unsealed
    assert descriptors() == before


@pytest.mark.parametrize("spoken_of", [1, 0])
async def test_a_descriptor_that_holds_up_who_closes_it(ends: Ends, spoken_of: int) -> None:
    """What is no memory ends the link, and a thread beside closes it: one that lingers does not hold up the loop."""
    read, write = os.pipe()
    closing, begun = threading.Event(), threading.Event()
    on_loop, real = threading.get_ident(), os.close

    def close(fd: int) -> None:
        if threading.current_thread().name == "close":
            begun.set()
            assert closing.wait(DEADLINE_S)  # as a socket that lingers
        real(fd)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "close", close)
        ends.say(wire.WorkerFrame(step=step_pb2.StepOutput(), memories=spoken_of), [read])
        if not spoken_of:
            ends.theirs.shutdown(socket.SHUT_RDWR)
        await ends.until()  # the loop goes on
        why = "the descriptor is of no sealed memory" if spoken_of else "the worker closed its link"
        assert why in ends.why
        assert await asyncio.to_thread(begun.wait, DEADLINE_S)
        (closer,) = [each for each in threading.enumerate() if each.name == "close"]
        assert (closer.daemon, closer.ident != on_loop) == (True, True)
        closing.set()
        await asyncio.to_thread(closer.join, DEADLINE_S)
    real(read)
    with pytest.raises(BrokenPipeError):  # it was closed
        os.write(write, b"1")
    real(write)


@pytest.mark.parametrize("how", ["none came", "too many", "no frame", "too large", "end"])
async def test_a_worker_that_breaks_the_rules(ends: Ends, how: str) -> None:
    """Frames that speak of memories which did not come, or descriptors without end, end the link; all are closed."""
    before = descriptors()
    memory = Memory.of(b"1")
    match how:
        case "none came":
            ends.say(wire.WorkerFrame(step=step_pb2.StepOutput(), memories=1))
            why = "speaks of 1 memories and 0 came"
        case "too many":
            ends.say(wire.WorkerFrame(pong=wire.Pong()), [memory.fileno()] * (MOST_AT_ONCE + 1))
            why = "descriptors were lost"
        case "no frame":
            for _ in range(3):
                ends.say(wire.WorkerFrame(pong=wire.Pong()), [memory.fileno()] * MOST_AT_ONCE)
            why = "descriptors were lost"
        case "too large":
            socket.send_fds(ends.theirs, [struct.pack("<I", LIMIT_BYTES + 1)], [memory.fileno()])
            why = f"a frame of {LIMIT_BYTES + 1} bytes exceeds limits.frame_bytes, which is {LIMIT_BYTES}"
        case _:
            socket.send_fds(ends.theirs, [b"123"], [memory.fileno()])
            ends.theirs.shutdown(socket.SHUT_RDWR)
            why = "the worker closed its link"
    await ends.until()
    assert why in ends.why
    del memory
    assert descriptors() == before - 1  # our end of the link


async def test_a_worker_that_does_not_read(ends: Ends) -> None:
    """Frames and memories that the socket has no room for come later, whole and in order."""
    memory = Memory.of(b"shared")
    for number in range(40):
        work = task_pb2.Work(input=task_pb2.Input(prompt="x" * 100_000))
        submit = task_pb2.Submit(handle=number, work=work)
        ends.link.send(wire.KernelFrame(submit=submit), [memory] * (number % 3))

    def read() -> list[tuple[int, list[bytes]]]:
        link = Link(ends.theirs, frame_limit_bytes=LIMIT_BYTES)
        received = [link.receive() for _ in range(40)]
        return [(frame.submit.handle, [m.read(0, 6) for m in memories]) for frame, memories in filter(None, received)]

    told = await asyncio.wait_for(asyncio.to_thread(read), DEADLINE_S)
    assert told == [(number, [b"shared"] * (number % 3)) for number in range(40)]


def test_what_is_sent_is_sealed() -> None:
    """A memory that was given away can be neither written, shortened nor lengthened, by whoever has it."""
    memory = Memory.of(b"a" * 100, b"b")
    for spoil in (
        lambda fd: os.pwrite(fd, b"x", 0),
        lambda fd: os.ftruncate(fd, 1),
        lambda fd: os.ftruncate(fd, 1 << 20),
    ):
        with pytest.raises(PermissionError):
            spoil(memory.fileno())
    assert memory.read(128, 1) == b"b"  # the second part, at the next place that is aligned
    assert ancillary([]) == []


def test_memories_leave_descriptors_for_others() -> None:
    """Where a process has half of the descriptors that it may have, no memory is made: the error has both numbers."""
    before, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    number = os.dup(0)
    os.close(number)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (2 * number + 1, most))
        with pytest.raises(OSError, match=f"{number} descriptors are open, RLIMIT_NOFILE is {2 * number + 1}"):
            Memory.of(b"1")
        resource.setrlimit(resource.RLIMIT_NOFILE, (2 * number + 2, most))
        assert Memory.of(b"1").fileno() == number
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (before, most))
