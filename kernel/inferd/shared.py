"""Memory that one process fills and gives to another: anonymous files (memfd_create(2)), sealed before they are given.

A seal is what makes them safe to take: nobody can change or shorten what another one reads, which would end its process
with SIGBUS where it is mapped. Who receives one checks that. Linux only; elsewhere `can_share` is false.
"""

from __future__ import annotations

import array
import errno
import fcntl
import mmap
import os
import resource
import socket
import threading
from collections import deque
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Self

Buffer: TypeAlias = "bytes | bytearray | memoryview"

LEAST_BYTES: Final = 512 << 10
"""Elements of fewer bytes go as parts of their frame: a memory costs as much as copying so many a few times."""
ALIGNMENT: Final = 64  # of elements in a memory, in bytes
DESCRIPTORS_PART: Final = 2  # of those that a process may have: beyond it no memory is made
BLOCK_BYTES: Final = 512  # of `st_blocks`
MARGIN_BYTES: Final = 2 << 20  # that a memory may take beyond its size: the system may give one of its large pages
MOST_AT_ONCE: Final = 128  # memories that go with one frame; the system's own bound is 253

SEALS: Final = 0x1 | 0x2 | 0x4 | 0x8
"""F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_GROW and F_SEAL_WRITE of linux/fcntl.h."""
F_ADD_SEALS: Final = 1033
F_GET_SEALS: Final = 1034


class MemoryRefusedError(ValueError):
    """A memory that was received is not what it has to be."""


class NoMemoryRefusedError(MemoryRefusedError):
    """It is something else: no worker of ours sends such."""


@cache
def can_share() -> bool:
    """Whether this system has such memory."""
    try:
        Memory.of(b"1")
    except (AttributeError, OSError):
        return False
    return True


def aligned(size_bytes: int) -> int:
    """The next place in a memory where elements may begin."""
    return -(-size_bytes // ALIGNMENT) * ALIGNMENT


class Memory:
    """Owns a descriptor, which is closed with the last reference to this. Made by `make`, `of` or `received`.

    Attributes:
        size_bytes: How large it is.
    """

    __slots__ = ("__weakref__", "_fd", "size_bytes")

    def __init__(self, fd: int, size_bytes: int) -> None:
        self._fd = fd
        self.size_bytes = size_bytes

    def __del__(self) -> None:
        os.close(self._fd)

    @classmethod
    def make(cls, size_bytes: int) -> Self:
        """One of zeros, to be written and sealed.

        Raises:
            OSError: The system gives none, or this process has many descriptors: connections need them too.
        """
        made = cls(os.memfd_create("inferd", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING), size_bytes)
        most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if most != resource.RLIM_INFINITY and made.fileno() >= most // DESCRIPTORS_PART:  # the lowest that was free
            raise OSError(
                errno.EMFILE,
                f"{made.fileno()} descriptors are open, RLIMIT_NOFILE is {most}, and a 1/{DESCRIPTORS_PART} of it is "
                "for connections and workers; raise that",
            )
        os.ftruncate(made.fileno(), size_bytes)
        return made

    @classmethod
    def of(cls, *parts: Buffer) -> Self:
        """One that holds these, each at the next place that is aligned; sealed.

        Raises:
            OSError: The system gives none.
        """
        places, size_bytes = [], 0
        for part in parts:
            places.append(size_bytes)
            size_bytes = aligned(size_bytes + memoryview(part).nbytes)
        made = cls.make(size_bytes)
        for place, part in zip(places, parts, strict=True):
            made.write(place, part)
        made.seal()
        return made

    @classmethod
    def received(cls, fd: int) -> Self:
        """Take over a descriptor that another process has sent; it is closed if this fails.

        Raises:
            NoMemoryRefusedError: It is no memory.
            MemoryRefusedError: It can still be changed, or that takes much beyond its end.
        """
        try:
            seals = fcntl.fcntl(fd, F_GET_SEALS)
        except OSError as error:
            _close_beside([fd])
            raise NoMemoryRefusedError(f"the descriptor is of no sealed memory: {error.strerror}") from None
        made = cls(fd, 0)
        if seals & SEALS != SEALS:
            raise MemoryRefusedError(f"the memory has seals {seals:#x}; it must have {SEALS:#x}, against every change")
        told = os.fstat(fd)  # which nobody can change any more
        made.size_bytes = told.st_size
        if (taken := told.st_blocks * BLOCK_BYTES) > made.size_bytes + MARGIN_BYTES:
            raise MemoryRefusedError(f"the memory takes {taken} bytes of the system and has {made.size_bytes}")
        return made

    def fileno(self) -> int:
        """Its descriptor, which stays this object's."""
        return self._fd

    @property
    def held_bytes(self) -> int:
        """What it takes of the system, which gives whole pages."""
        return -(-self.size_bytes // mmap.PAGESIZE) * mmap.PAGESIZE

    def write(self, start: int, data: Buffer) -> None:
        """Write there.

        Raises:
            OSError: There is no memory left.
        """
        view = memoryview(data)
        view = view.cast("B") if view.nbytes else view[:0]
        while view.nbytes:
            count = os.pwrite(self._fd, view, start)
            view, start = view[count:], start + count

    def shorten(self, size_bytes: int) -> None:
        """Give back what is behind so many bytes. Must not be sealed yet."""
        os.ftruncate(self._fd, size_bytes)
        self.size_bytes = size_bytes

    def seal(self) -> None:
        """Let nobody change it from now on, in whatever process."""
        fcntl.fcntl(self._fd, F_ADD_SEALS, SEALS)

    def read(self, start: int, size_bytes: int) -> bytes:
        """So many bytes from there on.

        Raises:
            MemoryRefusedError: It ends before.
        """
        self.check(start, size_bytes)
        data = os.pread(self._fd, size_bytes, start)
        if len(data) == size_bytes:
            return data
        parts = [data]  # one call reads 2 GiB at most
        while (missing := size_bytes - sum(map(len, parts))) > 0:
            parts.append(os.pread(self._fd, missing, start + size_bytes - missing))
        return b"".join(parts)

    def map(self) -> mmap.mmap:
        """All of it, to be read; it lives as long as what is made of it. Must be sealed.

        Raises:
            OSError: The system has no room for it.
        """
        return mmap.mmap(self._fd, self.size_bytes, prot=mmap.PROT_READ)

    def check(self, start: int, size_bytes: int) -> None:
        """Refuse a part that is not inside.

        Raises:
            MemoryRefusedError: It is not.
        """
        if start + size_bytes > self.size_bytes:
            raise MemoryRefusedError(
                f"bytes {start} to {start + size_bytes} are said to be in a memory of {self.size_bytes} bytes"
            )


@dataclass(frozen=True, slots=True)
class Part:
    """Bytes of a memory.

    Attributes:
        memory: Where they are.
        start: Of the first one.
        size_bytes: How many.
    """

    memory: Memory
    start: int
    size_bytes: int

    def read(self, start: int = 0, size_bytes: int | None = None) -> bytes:
        """Some of them, by default all."""
        most = self.size_bytes - start
        return self.memory.read(self.start + start, most if size_bytes is None else min(most, size_bytes))


ANCILLARY_BYTES: Final = socket.CMSG_SPACE(MOST_AT_ONCE * array.array("i").itemsize)
"""Room for the descriptors of one frame, beside the bytes that are received."""


def ancillary(memories: Sequence[Memory]) -> list[tuple[int, int, array.array[int]]]:
    """What goes with the first byte of a frame, see `socket.sendmsg`."""
    if not memories:
        return []
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [memory.fileno() for memory in memories]))]


class Arrivals:
    """Descriptors that have come on a socket, until the frames that speak of them are read. One writer: its reader."""

    def __init__(self) -> None:
        self._descriptors: deque[int] = deque()

    def __len__(self) -> int:
        return len(self._descriptors)

    def add(self, messages: Iterable[tuple[int, int, bytes]], flags: int) -> None:
        """Note what came with some bytes.

        Raises:
            MemoryRefusedError: More came than go with a frame, or than this process may have.
        """
        for level, kind, data in messages:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                whole = len(data) - len(data) % array.array("i").itemsize
                self._descriptors.extend(array.array("i", data[:whole]))
        if flags & socket.MSG_CTRUNC or len(self._descriptors) > 2 * MOST_AT_ONCE:
            raise MemoryRefusedError(
                f"descriptors were lost: more than {MOST_AT_ONCE} came at once, or this process has as many as it may"
            )

    def take(self, count: int) -> tuple[Memory | MemoryRefusedError, ...]:
        """The next of them, each as the memory that it must be, or as why it is none.

        Raises:
            MemoryRefusedError: There are not so many, or one is no memory at all.
        """
        if count > len(self._descriptors):
            raise MemoryRefusedError(f"a frame speaks of {count} memories and {len(self._descriptors)} came")
        return tuple(_received(self._descriptors.popleft()) for _ in range(count))

    def close(self) -> None:
        """Nobody reads any more."""
        others = []
        while self._descriptors:
            fd = self._descriptors.popleft()
            try:
                fcntl.fcntl(fd, F_GET_SEALS)
            except OSError:
                others.append(fd)
            else:
                os.close(fd)
        if others:
            _close_beside(others)


def _close_beside(descriptors: Sequence[int]) -> None:
    """Close what is no memory and may hold up who closes it: a socket that lingers does, as long as its sender says."""
    threading.Thread(target=_close_all, args=(descriptors,), name="close", daemon=True).start()


def _close_all(descriptors: Iterable[int]) -> None:
    for fd in descriptors:
        os.close(fd)


def _received(fd: int) -> Memory | MemoryRefusedError:
    try:
        return Memory.received(fd)
    except NoMemoryRefusedError:
        raise
    except MemoryRefusedError as error:
        return error.with_traceback(None)
