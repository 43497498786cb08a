"""The worker's side of its cells: started, reached, and given up."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from inferd.engine.cause import last_line
from inferd.engine.cells.parcel import pack_vocabulary
from inferd.engine.cells.starter import Starter
from inferd.errors import words_of
from inferd.plugin.channel import Channel, ClosedError, LateError

if TYPE_CHECKING:
    from concurrent.futures import Future

    from inferd.engine.cells.starter import Started
    from inferd.plugin import Vocabulary

OUT_OF_MEMORY: Final = "(Aborted)"
"""In how a cell ended: so does Rust code that gets no memory."""

START_TIMEOUT_S: Final = 60.0
"""From the start of the stem, or of a cell, until it answers: tokenizers of large vocabularies are slow to build."""


class CellError(Exception):
    """A cell cannot be started, or ended by itself."""


class Cells:
    """Starts the cells of one model; the stem when the first one is wanted. May be called from any thread.

    Args:
        vocabulary: The model's; None where there is none, for cells that work without.
        size: Number of logits in a row.
        memory_bytes: What a cell may take beyond what it is born with.
    """

    def __init__(self, vocabulary: Vocabulary | None, *, size: int, memory_bytes: int) -> None:
        self.memory_bytes = memory_bytes
        self._vocabulary = vocabulary
        self._size = size
        self._stem: _Stem | None = None
        # All that concerns the stem happens in one thread, which lives as long as this: Linux ends a child that asked
        # for it with the thread that started it.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="cells")

    def prepare(self) -> Future[None]:
        """Have the stem started beside what else goes on."""
        return self._thread.submit(self._prepare)

    def spawn(self, role: str, descriptors: tuple[int, ...] = (), *, memory_bytes: int | None = None) -> Cell:
        """A new cell.

        Args:
            role: What it does.
            descriptors: What it is handed beside its channel; the caller closes its own.
            memory_bytes: What it may take beyond what it is born with; default: as all.

        Raises:
            CellError: It did not start.
        """
        try:
            return self._thread.submit(self._spawn, role, descriptors, memory_bytes or self.memory_bytes).result()
        except RuntimeError:
            raise CellError("the worker ends, or has no threads left") from None

    def reap(self, pid: int) -> int | None:
        """The exit status of a cell that has ended or was killed, negative for a signal; None where nobody knows."""
        try:
            return self._thread.submit(self._reap, pid).result()
        except RuntimeError:  # all have ended
            return None

    def close(self) -> None:
        """End the stem, and the cells with it."""
        with suppress(RuntimeError):  # closed before
            self._thread.submit(self._end)
        self._thread.shutdown()

    def _prepare(self) -> None:
        with suppress(CellError):  # who wants a cell is told
            self._started()

    def _spawn(self, role: str, descriptors: tuple[int, ...], memory_bytes: int) -> Cell:
        first = self._stem is None
        try:
            ours, theirs = socket.socketpair()
        except OSError as error:  # the stem is not to blame
            raise CellError(f"there is no channel to it: {words_of(error)}") from error
        try:
            with theirs:
                process, pid = self._started().fork(role, (theirs.fileno(), *descriptors), memory_bytes)
            return Cell(ours, pid, process, reap=partial(self.reap, pid))
        except CellError:
            ours.close()
            raise
        except (LateError, ClosedError, OSError) as error:
            ours.close()
            self._end()
            if not first:  # it was there, and is gone
                return self._spawn(role, descriptors, memory_bytes)
            raise CellError(f"the process beside the worker did not start: {last_line(error)}") from None

    def _started(self) -> _Stem:
        if self._stem is None:
            try:
                self._stem = _Stem(self._vocabulary, self._size)
            except OSError as error:
                raise CellError(f"a process beside the worker cannot be started: {words_of(error)}") from error
        return self._stem

    def _reap(self, pid: int) -> int | None:
        try:
            return None if self._stem is None else self._stem.reap(pid)
        except (LateError, ClosedError):
            self._end()
            return None

    def _end(self) -> None:
        if self._stem is not None:
            self._stem.end()
            self._stem = None


class _Stem:
    """The stem, from the worker's side."""

    def __init__(self, vocabulary: Vocabulary | None, size: int) -> None:
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                process = _start(theirs.fileno())
        except BaseException:
            ours.close()
            raise
        self.end = weakref.finalize(self, _end, process, ours)
        self._channel = Channel(ours)
        if vocabulary is not None:
            message, data = pack_vocabulary(vocabulary)
            self._channel.send(message | {"do": "vocabulary", "size": size}, data, timeout_s=START_TIMEOUT_S)

    def fork(self, role: str, descriptors: tuple[int, ...], memory_bytes: int) -> tuple[int, int]:
        """Start a cell of this role: a descriptor of its process, and its process id.

        Raises:
            CellError: Why there is none.
        """
        message = {"do": "fork", "role": role, "memory_bytes": memory_bytes}
        self._channel.send(message, timeout_s=START_TIMEOUT_S)
        socket.send_fds(self._channel.sock, [b"f"], list(descriptors))
        answer, _ = self._channel.receive(timeout_s=START_TIMEOUT_S)
        if "error" in answer:
            raise CellError(answer["error"])
        _, processes, _, _ = socket.recv_fds(self._channel.sock, 1, 1)
        if not processes:  # a descriptor too many for this process; the cell ends with its channel
            raise CellError("the worker has no descriptors left")
        return processes[0], answer["pid"]

    def reap(self, pid: int) -> int | None:
        """The exit status of a cell that has ended or was killed; None where it was started by another stem."""
        self._channel.send({"do": "reap", "pid": pid}, timeout_s=START_TIMEOUT_S)
        message, _ = self._channel.receive(timeout_s=START_TIMEOUT_S)
        status: int | None = message["status"]
        return status


class Cell:
    """One cell. `kill` may be called from any thread.

    Attributes:
        channel: To it.
        pid: Its process id.
    """

    def __init__(self, sock: socket.socket, pid: int, process: int, *, reap: Any) -> None:
        self.channel = Channel(sock)
        self.pid = pid
        self._process = process
        self._reap = reap
        self._lock = threading.Lock()
        self._release = weakref.finalize(self, _release, sock, process)

    def kill(self) -> None:
        """End it now, whatever it does; what waits for its answer is told that it is gone."""
        with self._lock:
            if self._release.alive:
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(self._process, signal.SIGKILL)

    def end(self) -> str:
        """End it and leave nothing of it; how it ended, for people. It is not used afterwards."""
        self.kill()
        with self._lock:
            if not self._release.alive:
                return "it was ended"
            self._release()
        status = self._reap()
        if status is None:
            return "its parent has ended"
        return f"signal {-status} ({signal.strsignal(-status)})" if status < 0 else f"exit status {status}"


def _start(descriptor: int) -> Started | subprocess.Popen[bytes]:
    """A stem that serves this descriptor: of the starter, which a worker has; else a program."""
    if Starter.made is not None:
        return Starter.made.start(descriptor)
    return subprocess.Popen(
        [
            *(sys.executable, "-P", "-m", "inferd.engine.cells", "--fd", str(descriptor)),
            *("--parent", str(os.getpid())),
        ],
        pass_fds=(descriptor,),
        stdin=subprocess.DEVNULL,
    )


def _end(process: Started | subprocess.Popen[bytes], sock: socket.socket) -> None:
    """End the stem; its cells end with it."""
    sock.close()
    process.kill()
    process.wait()


def _release(sock: socket.socket, process: int) -> None:
    """A cell whose channel is closed ends by itself, unless it hangs."""
    with suppress(OSError):
        signal.pidfd_send_signal(process, signal.SIGKILL)
    os.close(process)
    sock.close()
