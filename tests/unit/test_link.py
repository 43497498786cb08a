"""The kernel's end of the local link: steps that are read together are told as one, and nothing of them is lost."""

import asyncio
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from time_limits import LONG_S

from inferd.runtime import link as links
from inferd.runtime.link import HEADER, LocalLink
from inferd.runtime.step_runs import merged
from inferd.shared import Memory
from inferd.worker.link import Link
from inferd_api.worker.v1 import step_pb2, task_pb2
from inferd_api.worker.v1 import worker_pb2 as wire

LIMIT_BYTES = 1 << 20


def step(*parts: tuple[int, int, str], seconds: float = 0.5, **more: object) -> wire.WorkerFrame:
    """A step that gave one token to each of some tasks: handle, token, text."""
    columns = {
        "handles": [handle for handle, _, _ in parts],
        "counts": [1] * len(parts),
        "token_ids": [token for _, token, _ in parts],
        "texts": [text for _, _, text in parts],
    }
    return wire.WorkerFrame(step=step_pb2.StepOutput(**{**columns, "seconds": seconds, **more}))  # type: ignore[arg-type]


def outputs(frames: list[wire.WorkerFrame]) -> list[tuple[int, list[int], str]]:
    """The parts of steps, one after the other: handle, tokens, text."""
    parts = []
    for frame in frames:
        start = 0
        for handle, count, text in zip(frame.step.handles, frame.step.counts, frame.step.texts, strict=True):
            parts.append((handle, list(frame.step.token_ids[start : start + count]), text))
            start += count
    return parts


def wire_bytes(frame: wire.WorkerFrame) -> bytes:
    data = frame.SerializeToString()
    return HEADER.pack(len(data)) + data


def test_plain_steps_of_the_same_tasks_are_one() -> None:
    """Steps of the same tasks become one, each task with all its tokens and texts in their order, each time counted."""
    frames = [step((7, 1, "a"), (9, 2, "x"), seconds=0.25), step((7, 3, "b"), (9, 4, ""), seconds=0.5)]
    (one,) = merged([*frames, step((7, 5, "c"), (9, 6, "z"), seconds=1.0)])
    assert outputs([one]) == [(7, [1, 3, 5], "abc"), (9, [2, 4, 6], "xz")]
    assert list(one.step.each_seconds) == [0.25, 0.5, 1.0]
    assert one.step.seconds == 0


def test_steps_of_the_same_samples_are_one() -> None:
    """Where tasks have several samples, each sample's tokens stay its own; others than those of before stand alone."""
    frames = [step((7, n, "a"), (7, n + 10, "b"), samples=[0, 2]) for n in range(2)]
    other = step((7, 3, "a"), (7, 13, "b"), samples=[0, 1])
    one, alone = merged([*frames, other])
    assert outputs([one]) == [(7, [0, 1], "aa"), (7, [10, 11], "bb")]
    assert list(one.step.samples) == [0, 2]
    assert alone == other


OTHERS = (
    step((7, 1, "a"), alone=7),
    step((7, 1, "a"), ended=[step_pb2.Ended(handle=7)]),
    step((7, 1, "a"), samples=[1]),
    step((7, 1, "a"), logprobs={0: step_pb2.Logprobs(token_ids=[1])}),
    step((7, 1, "a"), begun_prompts=[step_pb2.BegunPrompt(handle=8)]),
    step((7, 1, "a"), prefills=[step_pb2.PrefillProgress(handle=8, fraction=0.5)]),
    step((7, 1, "a"), counts=[0], token_ids=[]),
    step((7, 1, "a"), counts=[2], token_ids=[1, 2]),
    step((7, 1, "a"), (8, 1, "a"), counts=[2, 0]),
    step((8, 1, "a")),
    step((8, 1, "a"), (7, 2, "b")),
    step(),
    wire.WorkerFrame(pong=wire.Pong(nonce=1)),
)


@pytest.mark.parametrize("other", OTHERS, ids=lambda frame: str(frame).replace("\n", " "))
def test_what_is_no_plain_step_of_the_same_tasks_stands_alone(other: wire.WorkerFrame) -> None:
    """A frame that says anything else, or is of other tasks, comes as it is, between what came before and after."""
    before, after = step((7, 3, "b")), step((7, 4, "c"))
    assert list(merged([before, other, after])) == [before, other, after]
    assert list(merged([other])) == [other]


class Kernel:
    """A link, and what came of it.

    Attributes:
        frames: What it handed on.
        closed: Set at its end.
    """

    def __init__(self) -> None:
        self.frames: list[wire.WorkerFrame] = []
        self.closed = asyncio.Event()
        self.came = asyncio.Event()

    async def connect(self, sock: socket.socket) -> LocalLink:
        """Take over one end."""
        return await LocalLink.connect(
            sock, frame_limit_bytes=LIMIT_BYTES, on_frame=self._take, on_closed=lambda _: self.closed.set()
        )

    def _take(self, frame: wire.WorkerFrame, _: object = (), /) -> None:
        self.frames.append(frame)
        self.came.set()


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of a link."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


MALFORMED = [
    {"handles": [1], "token_ids": [1]},
    {"handles": [1], "token_ids": [1], "texts": ["a"]},
    {"handles": [1, 2], "counts": [1], "token_ids": [5, 6], "texts": ["a", "b"]},
    {"handles": [1, 2], "counts": [1, 1], "token_ids": [5, 6], "texts": ["a"]},
    {"handles": [1, 2], "counts": [0, 1], "token_ids": [5, 6], "texts": ["a", "b"]},
    {"handles": [1, 2], "counts": [1, 1], "token_ids": [5, 6], "texts": ["a", "b"], "samples": [1]},
    {"counts": [1], "token_ids": [5], "texts": ["a"]},
]


@pytest.mark.parametrize("columns", MALFORMED)
def test_malformed_steps_are_told_as_they_are(columns: dict[str, object]) -> None:
    """Steps whose columns do not fit together are told one by one, unchanged, and never made a good one of."""
    frames = [wire.WorkerFrame(step=step_pb2.StepOutput(**columns)) for _ in range(2)]  # type: ignore[arg-type]
    assert [id(frame) for frame in merged(frames)] == [id(frame) for frame in frames]


async def test_steps_that_come_during_a_rest_are_told_together(
    ends: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is sent while the link rests is read behind it, its steps as one, before the end of the worker is told."""
    monkeypatch.setattr(links, "REST", 1e9)
    monkeypatch.setattr(links, "MOST_REST_S", 3600.0)
    kernel = Kernel()
    link = await kernel.connect(ends[0])
    ends[1].sendall(wire_bytes(step((7, 0, "a"))))
    await asyncio.wait_for(kernel.came.wait(), LONG_S)  # from now on it rests
    for number in range(1, 5):
        ends[1].sendall(wire_bytes(step((7, number, "b"))))
        for _ in range(5):
            await asyncio.sleep(0)  # it could be read now
    ends[1].sendall(wire_bytes(step((7, 5, "c"), ended=[step_pb2.Ended(handle=7)])))
    ends[1].close()
    link._go_on()  # the rest is over
    await asyncio.wait_for(kernel.closed.wait(), LONG_S)
    assert outputs(kernel.frames) == [(7, [0], "a"), (7, [1, 2, 3, 4], "bbbb"), (7, [5], "c")]


async def test_a_rest_ends_by_itself(
    ends: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A link that rests reads again without being told."""
    monkeypatch.setattr(links, "LEAST_REST_S", 0.0)
    kernel = Kernel()
    await kernel.connect(ends[0])
    for number in range(3):
        kernel.came.clear()
        ends[1].sendall(wire_bytes(step((7, number, "a"))))
        await asyncio.wait_for(kernel.came.wait(), LONG_S)
    ends[1].close()
    await asyncio.wait_for(kernel.closed.wait(), LONG_S)
    assert outputs(kernel.frames) == [(7, [0], "a"), (7, [1], "a"), (7, [2], "a")]


async def test_frames_in_pieces_lose_nothing(ends: tuple[socket.socket, socket.socket]) -> None:
    """However the bytes of frames are cut on their way, each token is told once and in its order."""
    kernel = Kernel()
    await kernel.connect(ends[0])
    data = b"".join(wire_bytes(step((7, number, str(number)), (8, number, "."))) for number in range(40))
    for start in range(0, len(data), 33):
        ends[1].sendall(data[start : start + 33])
        await asyncio.sleep(0)
    ends[1].close()
    await asyncio.wait_for(kernel.closed.wait(), LONG_S)
    told = [token for handle, tokens, _ in outputs(kernel.frames) for token in tokens if handle == 7]
    assert told == list(range(40))
    assert "".join(text for handle, _, text in outputs(kernel.frames) if handle == 7) == "".join(map(str, range(40)))


class Counted(socket.socket):
    """A socket that counts what is written to it.

    Attributes:
        writes: How often, and how many bytes each time.
    """

    def __init__(self, fd: int) -> None:
        super().__init__(fileno=fd)
        self.writes: list[int] = []

    def sendmsg(self, *args: Any) -> int:
        """As that of any socket."""
        count = super().sendmsg(*args)
        self.writes.append(count)
        return count


def order(handle: int, *, size_bytes: int = 0) -> wire.KernelFrame:
    """A frame for a worker."""
    return wire.KernelFrame(submit=task_pb2.Submit(handle=handle, task_id="x" * size_bytes))


async def test_frames_of_one_turn_go_in_one_write(ends: tuple[socket.socket, socket.socket]) -> None:
    """Frames that are sent together are written at once, in order, those with memories each at the head of a write."""
    ours, worker = Counted(ends[0].detach()), Link(ends[1], frame_limit_bytes=LIMIT_BYTES)
    link = await Kernel().connect(ours)
    memory = Memory.of(b"here")
    for handle in range(8):
        link.send(order(handle), [memory] if handle == 3 else [])
    assert ours.writes == []
    await asyncio.sleep(0)
    came = [worker.receive() for _ in range(8)]
    assert [each[0].submit.handle for each in came if each] == list(range(8))
    assert [[m.read(0, 4) for m in each[1]] for each in came if each and each[1]] == [[b"here"]]
    assert len(ours.writes) == 2
    link.close()


async def test_more_than_there_is_room_for_comes_in_order(ends: tuple[socket.socket, socket.socket]) -> None:
    """Where the worker does not read, frames wait at whatever byte the socket was full; all come, once, in order."""
    ends[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    ours, worker = Counted(ends[0].detach()), Link(ends[1], frame_limit_bytes=LIMIT_BYTES)
    link = await Kernel().connect(ours)
    sizes = [1, 9000, 3, 70_000, 5, 20_000, 2]
    memory = Memory.of(b"here")
    for turn in range(2):
        for number, size_bytes in enumerate(sizes):
            link.send(order(number, size_bytes=size_bytes), [memory] if number % 2 else [])
        await asyncio.sleep(0)
        came = [await asyncio.to_thread(worker.receive) for _ in sizes]
        assert [(each[0].submit.handle, len(each[0].submit.task_id), len(each[1])) for each in came if each] == [
            (number, size_bytes, number % 2) for number, size_bytes in enumerate(sizes)
        ], turn
    assert len(ours.writes) > len(sizes)
    link.close()
