"""An instance that spans devices: its ranks. Rank 0 is the worker; each other one is a process beside it.

A backend that spans asks for them with `open_ranks`. In a worker they were forked before it had a second thread, so
that they are in its sandbox; elsewhere, as in tests, they are programs of their own. What goes over the channels is the
backend's; that none of them is missed when it ends or hangs is seen to here.
"""

from __future__ import annotations

import mmap
import os
import select
import signal
import socket
import struct
import sys
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final, NoReturn, Protocol

from inferd.plugin.channel import Channel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

MOST_RANKS: Final = 64
"""Most processes of one instance."""

LOOK_S: Final = 0.25  # between two looks at whether a rank takes part
DRAIN_S: Final = 1.0  # for what a rank that has ended wrote last
END_S: Final = 5.0  # for a rank to end by itself once it was told to
LINE_BYTES: Final = 8192  # most of a line of a rank's log
_COUNT: Final = struct.Struct("<Q")


class RankLostError(RuntimeError):
    """A rank has ended or takes no part any more: the instance is of no use. Names the rank, and why."""


class Beats:
    """How often each rank has taken part in something that all do: in memory that they share.

    One writer for each number: the rank that has it.
    """

    def __init__(self, descriptor: int | None = None) -> None:
        self.descriptor = os.memfd_create("ranks") if descriptor is None else descriptor
        if descriptor is None:
            os.ftruncate(self.descriptor, mmap.PAGESIZE)
        self._memory = mmap.mmap(self.descriptor, mmap.PAGESIZE)

    def beat(self, number: int) -> None:
        """A rank takes part once more."""
        (count,) = _COUNT.unpack_from(self._memory, number * _COUNT.size)
        _COUNT.pack_into(self._memory, number * _COUNT.size, count + 1)

    def read(self, size: int) -> tuple[int, ...]:
        """The counts of so many ranks."""
        return tuple(_COUNT.unpack_from(self._memory, number * _COUNT.size)[0] for number in range(size))


class Seat:
    """What the process of a rank has of the others. One user: that process.

    Attributes:
        number: Of the rank, from 1.
        channel: To rank 0; its end is the end of the instance.
    """

    def __init__(self, number: int, channel: Channel, beats: Beats) -> None:
        self.number = number
        self.channel = channel
        self._beats = beats

    def beat(self) -> None:
        """Say, before anything that waits for other ranks, that this one takes part."""
        self._beats.beat(self.number)


class SpanningBackend(Protocol):
    """A backend whose instances may span devices: `BackendSpec.spans` says so."""

    def join(self, seat: Seat) -> None:
        """Be one of the other ranks, until the channel ends; what it raises is how it ended."""
        ...


@dataclass(slots=True)
class Rank:
    """One of the other ranks, from rank 0's side.

    Attributes:
        number: From 1.
        pid: Its process id.
        channel: To it.
        process: A descriptor of it, see pidfd_open(2).
        log: What it writes to its standard output and error comes out here.
    """

    number: int
    pid: int
    channel: Channel
    process: int
    log: int
    last_line: str = ""
    how: str = ""  # it ended, once it has
    _rest: bytes = field(default=b"", repr=False)

    def kill(self) -> None:
        """End it now."""
        with suppress(OSError):
            signal.pidfd_send_signal(self.process, signal.SIGKILL)

    def is_stopped(self) -> bool:
        """Whether a signal has stopped it; see proc(5)."""
        with suppress(OSError, IndexError):
            return Path(f"/proc/{self.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] in "Tt"
        return False

    def pass_on(self) -> bool:
        """Write what it wrote to this process' standard error, its number before each line; False at the end."""
        try:
            data = os.read(self.log, 1 << 16)
        except OSError:
            data = b""
        *lines, rest = (self._rest + data).split(b"\n")
        if not data or len(rest) > LINE_BYTES:
            lines, rest = [*lines, rest], b""
        self._rest = rest
        for line in lines:
            text = line[:LINE_BYTES].decode(errors="replace").rstrip()
            if text:
                self.last_line = text
                os.write(2, f"rank {self.number}: {text}\n".encode())
        return bool(data)

    def reap(self) -> str:
        """How it ended; it has."""
        if not self.how:
            status = 0
            with suppress(ChildProcessError):
                found = os.waitid(os.P_PIDFD, self.process, os.WEXITED)
                if found is not None:
                    status = found.si_status if found.si_code == os.CLD_EXITED else -found.si_status
            self.how = (
                f"was ended by signal {-status} ({signal.Signals(-status).name})"
                if status < 0
                else f"ended with status {status}"
            )
        return self.how


class Ranks:
    """All of them, from rank 0's side. `lost` is written by one thread, which watches.

    Args:
        others: The ranks from 1 on.
        beats: Of all.
        on_lost: Is told which rank is lost and why, once `arm` was called; default: the next call here raises.

    Attributes:
        prepared: Those that were started with this process, for the first who asks; None for none.
        taken: Somebody has asked for these.
        others: As given.
        size: How many there are, this process among them.
        lost: Which is lost and why; "" while none is.
    """

    prepared: ClassVar[Ranks | None] = None

    def __init__(self, others: Sequence[Rank], beats: Beats, *, on_lost: Callable[[str], None] | None = None) -> None:
        self.others = tuple(others)
        self.size = len(self.others) + 1
        self.lost = ""
        self.taken = False
        self._beats = beats
        self._on_lost = on_lost
        self._armed = False
        self._closing = False
        self._silence_s: float | None = None  # that no rank may exceed now
        self._seen: tuple[tuple[int, ...], float] = ((), 0.0)  # beats, and since when they are these
        self._lock = threading.Lock()
        self._told = threading.Event()  # one is lost
        self._thread = threading.Thread(target=self._watch, name="ranks", daemon=True)

    @classmethod
    def beside(cls) -> tuple[int, ...]:
        """The process ids of those that were started with this process."""
        return () if cls.prepared is None else tuple(rank.pid for rank in cls.prepared.others)

    def begin(self) -> None:
        """Watch them from now on. Once, when this process may have threads."""
        self._thread.start()

    def beat(self) -> None:
        """As `Seat.beat`, of rank 0."""
        self._beats.beat(0)

    def arm(self) -> None:
        """What they hold is of use from now on: the end of one is the end of all.

        Raises:
            RankLostError: One is lost already.
        """
        with self._lock:
            self._armed = not self.lost
        self.check()

    def check(self) -> None:
        """See that none is lost.

        Raises:
            RankLostError: One is.
        """
        if self.lost:
            raise RankLostError(self.lost)

    @contextmanager
    def taking_part(self, silence_s: float) -> Iterator[None]:
        """In this, a rank is lost with which nothing goes on for so long: while all wait, none takes part once more."""
        self.check()
        self._seen = ((), time.monotonic())
        self._silence_s = silence_s
        try:
            yield
        finally:
            self._silence_s = None

    def give_up(self, error: BaseException) -> NoReturn:
        """What all compute together has failed here: whoever is to blame, they do not go on together.

        Raises:
            RankLostError: Always, where `on_lost` does not end the process before.
        """
        self._told.wait(DRAIN_S)  # one that has ended is to be named, and not who found that out first
        self._lose(f"{self._name(0)} failed: {type(error).__name__}")
        raise RankLostError(self.lost) from error

    def close(self) -> None:
        """Have all end, and leave nothing of them. Once."""
        self._closing = True
        for rank in self.others:
            with suppress(OSError):
                rank.channel.sock.shutdown(socket.SHUT_RDWR)
        until = time.monotonic() + END_S
        for rank in self.others:
            if not select.select([rank.process], [], [], max(0.0, until - time.monotonic()))[0]:
                rank.kill()
        self._thread.join()
        for rank in self.others:
            rank.reap()
            rank.channel.sock.close()
            os.close(rank.process)
            os.close(rank.log)

    def _watch(self) -> None:
        """Pass on what they write, and see which ends or hangs; until all have ended."""
        poll = select.poll()
        logs, processes = ({getattr(rank, name): rank for rank in self.others} for name in ("log", "process"))
        for descriptor in (*logs, *processes):
            poll.register(descriptor, select.POLLIN)
        while processes:
            for descriptor, _ in poll.poll(int(LOOK_S * 1000)):
                if (rank := logs.get(descriptor)) is not None and not rank.pass_on():
                    poll.unregister(descriptor)
                    del logs[descriptor]
                elif (ended := processes.get(descriptor)) is not None:
                    poll.unregister(descriptor)
                    del processes[descriptor]
                    self._note_end(ended)
            self._look()

    def _note_end(self, rank: Rank) -> None:
        how = rank.reap()
        until = time.monotonic() + DRAIN_S  # what it started may have the other end, too
        while select.select([rank.log], [], [], max(0.0, until - time.monotonic()))[0] and rank.pass_on():
            pass
        self._lose(f"{self._name(rank.number)} {how}{_said(rank)}")

    def _look(self) -> None:
        """See whether all that is to go on does."""
        if (silence_s := self._silence_s) is None or self.lost:
            return
        counts, now = self._beats.read(self.size), time.monotonic()
        if counts != self._seen[0]:
            self._seen = (counts, now)
            return
        if now - self._seen[1] < silence_s:
            return
        behind = counts.index(min(counts))
        stopped = next((rank for rank in self.others if rank.is_stopped()), None)
        behind = behind if stopped is None else stopped.number
        what = "was stopped by a signal" if stopped is not None else "did not take part"
        said = _said(self.others[behind - 1]) if behind else ""
        self._lose(f"{self._name(behind)} {what}: nothing went on for {silence_s:g} s{said}")

    def _name(self, number: int) -> str:
        pid = os.getpid() if number == 0 else self.others[number - 1].pid
        return f"rank {number} of {self.size} (process {pid})"

    def _lose(self, why: str) -> None:
        with self._lock:
            if self.lost or self._closing:
                return
            self.lost = why
            self._told.set()
            armed = self._armed
        if armed and self._on_lost is not None:
            self._on_lost(why)
        for rank in self.others:  # who waits for one of them here is told
            rank.kill()
            with suppress(OSError):
                rank.channel.sock.shutdown(socket.SHUT_RDWR)


def _said(rank: Rank) -> str:
    return f"; the last line of its log: {rank.last_line}" if rank.last_line else ""


def open_ranks(loader: str, size: int) -> Ranks:
    """The ranks of an instance, of so many processes with this one.

    Args:
        loader: Dotted path of the `SpanningBackend`.
        size: At least 2.

    Raises:
        ValueError: Others were started with this process, or too many are asked for.
        OSError: One cannot be started.
    """
    if not 1 < size <= MOST_RANKS:
        raise ValueError(f"{size} ranks are asked for; there may be from 2 to {MOST_RANKS}")
    ranks = Ranks.prepared
    if ranks is None or ranks.taken:
        ranks = _start(loader, size)
    if ranks.size != size:
        raise ValueError(f"{ranks.size} ranks were started with this worker, and {size} are asked for")
    ranks.taken = True
    ranks.begin()
    return ranks


def _start(loader: str, size: int) -> Ranks:
    """Programs of their own, which end with this process."""
    import subprocess  # noqa: PLC0415 - a worker has no use for it

    from inferd.plugin.child import worker_environment  # noqa: PLC0415 - likewise

    beats = Beats()
    others = []
    for number in range(1, size):
        ours, theirs = socket.socketpair()
        read_end, write_end = os.pipe()
        with theirs:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-P", "-m", "inferd.plugin.rank_process", "--fd", str(theirs.fileno())),
                    *("--beats", str(beats.descriptor), "--number", str(number), "--parent", str(os.getpid()), loader),
                ],
                env=worker_environment({*os.environ})
                | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
                stdin=subprocess.DEVNULL,
                stdout=write_end,
                stderr=write_end,
                pass_fds=(theirs.fileno(), beats.descriptor),
            )
        os.close(write_end)
        others.append(Rank(number, process.pid, Channel(ours), os.pidfd_open(process.pid), read_end))
        process.returncode = 0  # it is reaped here, and not by the library, too
    return Ranks(others, beats)
