"""Frames and their memories cut into parcels, and put together again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from inferd.errors import present, words_of
from inferd.shared import MOST_AT_ONCE, Memory
from inferd_api.agent.v1 import agent_pb2 as wire

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    Given = tuple[bytes, tuple[Memory, ...]]
    """A frame, and the memories that go with it."""


MOST_WORDS = 1000  # characters of what the other end says for people


def plain_words(said: str) -> str:
    """What the other end says for people, as it may stand in errors and logs: cut, and only what can be shown."""
    return "".join(each if each.isprintable() else " " for each in said[:MOST_WORDS])


class BrokenExchangeError(Exception):
    """What came is nothing that the other end may send, or more than there may be."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A parcel before it goes: of memory only where it is.

    Attributes:
        size_bytes: How many bytes it carries.
        start: As of the parcel.
        data: What it carries; b"" where that is in a memory.
        memory: That, None for none.
        place: Where in it.
    """

    size_bytes: int
    start: wire.FrameStart | None = None
    data: bytes = b""
    memory: Memory | None = None
    place: int = 0

    def write(self) -> wire.Parcel:
        """It, as it goes."""
        data = self.data if self.memory is None else self.memory.read(self.place, self.size_bytes)
        return wire.Parcel(start=self.start, data=data)


def cut(frame: bytes, memories: Sequence[Memory], most_bytes: int) -> Iterator[Piece]:
    """The pieces of a frame and its memories, none larger than `most_bytes`."""
    start = wire.FrameStart(frame_bytes=len(frame), memory_bytes=[memory.size_bytes for memory in memories])
    if len(frame) <= most_bytes:
        yield Piece(len(frame), start, frame)
    else:
        for place in range(0, len(frame), most_bytes):
            data = frame[place : place + most_bytes]
            yield Piece(len(data), None if place else start, data)
    for memory in memories:
        for place in range(0, memory.size_bytes, most_bytes):
            yield Piece(min(most_bytes, memory.size_bytes - place), memory=memory, place=place)


def closing(why: str) -> Piece:
    """The piece that says that no frame follows."""
    return Piece(0, wire.FrameStart(closed=why))


class Assembly:
    """Puts together what comes in parcels. One writer: its exchange.

    Args:
        frame_limit_bytes: Of the largest frame.
        memory_limit_bytes: Most memory of one frame.

    Attributes:
        closed: Why no frame follows; "" while some may.
    """

    def __init__(self, *, frame_limit_bytes: int, memory_limit_bytes: int) -> None:
        self._frame_limit_bytes = frame_limit_bytes
        self._memory_limit_bytes = memory_limit_bytes
        self.closed = ""
        self._frame: bytearray | None = None  # None between two frames
        self._frame_left = 0
        self._memories: list[Memory] = []
        self._sizes: list[int] = []
        self._written = 0  # of the memory that is being filled

    def take(self, parcel: wire.Parcel) -> Given | None:
        """The next parcel has come; the frame that is whole with it.

        Raises:
            BrokenExchangeError: It is none that may come here.
        """
        if self.closed:
            raise BrokenExchangeError("a frame came behind the last one")
        if parcel.HasField("start"):
            if self._frame is not None:
                raise BrokenExchangeError("a frame begins before the one before it has ended")
            if parcel.start.closed:
                self.closed = plain_words(parcel.start.closed)
                return None
            if parcel.start.frame_bytes == len(parcel.data) and not parcel.start.memory_bytes:
                self._check(parcel.start)
                return parcel.data, ()
            self._begin(parcel.start)
        elif self._frame is None:
            raise BrokenExchangeError("a part of a frame came that has not begun")
        elif not parcel.data:
            raise BrokenExchangeError("a parcel came that begins nothing and has 0 bytes; 1 is the least")
        self._add(parcel.data)
        return self._whole()

    def _check(self, start: wire.FrameStart) -> None:
        sizes = start.memory_bytes
        if start.frame_bytes > self._frame_limit_bytes:
            raise BrokenExchangeError(
                f"a frame of {start.frame_bytes} bytes exceeds limits.frame_bytes, which is {self._frame_limit_bytes}"
            )
        if len(sizes) > MOST_AT_ONCE or (sizes and min(sizes) == 0) or sum(sizes) > self._memory_limit_bytes:
            raise BrokenExchangeError(
                f"{len(sizes)} memories of {sum(sizes)} bytes go with a frame; to another host at most {MOST_AT_ONCE} "
                f"and {self._memory_limit_bytes} bytes do (hosts.memory_bytes), none of them empty"
            )

    def _begin(self, start: wire.FrameStart) -> None:
        self._check(start)
        self._frame, self._frame_left = bytearray(), start.frame_bytes
        self._sizes = list(start.memory_bytes)

    def _add(self, data: bytes) -> None:
        part, rest = data[: self._frame_left], data[self._frame_left :]
        present(self._frame).extend(part)
        self._frame_left -= len(part)
        if self._frame_left or not rest:
            return
        if not self._written:
            if len(self._memories) == len(self._sizes):
                raise BrokenExchangeError("a parcel has more than its frame")
            try:
                self._memories.append(Memory.make(self._sizes[len(self._memories)]))
            except OSError as error:
                raise BrokenExchangeError(f"there is no memory for what goes with a frame: {words_of(error)}") from None
        memory = self._memories[-1]
        if self._written + len(rest) > memory.size_bytes:
            raise BrokenExchangeError("a parcel has more than its memory")
        memory.write(self._written, rest)
        self._written += len(rest)
        if self._written == memory.size_bytes:
            memory.seal()
            self._written = 0

    def _whole(self) -> Given | None:
        if self._frame is None or self._frame_left or self._written or len(self._memories) < len(self._sizes):
            return None
        given = bytes(self._frame), tuple(self._memories)
        self._frame, self._memories, self._sizes = None, [], []
        return given
