"""The process that stems are forked from: a worker makes it while it may still make processes, and has one thread.

It is a fork of the worker from before anything foreign was imported, in the same sandbox; it runs nothing for a task.
"""

from __future__ import annotations

import os
import signal
import socket
from contextlib import suppress
from typing import ClassVar, Final

from inferd.engine.cells.stem import Stem, die_with
from inferd.plugin.channel import Channel
from inferd.sandbox import nested

_FORK, _REAP = b"f", b"r"
_FIRST: Final = 3  # descriptor behind those of the terminal
_ANSWER_S: Final = 60.0


class Starter:
    """The worker's end of it. One user: the thread that starts stems.

    Attributes:
        made: The one of this process; None for none.
    """

    made: ClassVar[Starter | None] = None

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    @classmethod
    def make(cls, *, keep_out: int, network: bool = False, reads: tuple[str, ...] = ()) -> None:
        """Fork it.

        Args:
            keep_out: A descriptor of this process that it must not have, as all that are not the terminal's.
            network: Whether what is forked from it may use the network, if this process may.
            reads: Files and folders that it may read besides libraries, if this process may.
        """
        worker = os.getpid()
        ours, theirs = socket.socketpair()
        if os.fork() == 0:
            try:
                die_with(worker)
                os.close(keep_out)
                ours.close()
                nested.networked, nested.readable = network, reads
                _serve(theirs)
            finally:
                os._exit(0)
        theirs.close()
        ours.settimeout(_ANSWER_S)
        Starter.made = cls(ours)

    @classmethod
    def drop(cls) -> None:
        """Have no part in it, in a process that was forked from its worker."""
        if cls.made is not None:
            cls.made.close()
            cls.made = None

    def close(self) -> None:
        """Let go of this end."""
        self._sock.close()

    def start(self, descriptor: int) -> Started:
        """Fork a stem that serves the other end of a channel; one at a time: the one before has been waited for.

        Raises:
            OSError: It could not be, or the starter is gone.
        """
        socket.send_fds(self._sock, [_FORK], [descriptor])
        answer, processes, _, _ = socket.recv_fds(self._sock, 1, 1)
        if answer != _FORK or not processes:
            for process in processes:
                os.close(process)
            raise OSError("no process can be forked")
        return Started(self._sock, processes[0])


class Started:
    """A stem that was started."""

    def __init__(self, sock: socket.socket, process: int) -> None:
        self._sock = sock
        self._process = process

    def kill(self) -> None:
        """End it; what was forked from it ends with it."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._process, signal.SIGKILL)

    def wait(self) -> None:
        """Leave nothing of it. Once."""
        os.close(self._process)
        with suppress(OSError):
            self._sock.sendall(_REAP)
            self._sock.recv(1)


def _serve(sock: socket.socket) -> None:
    """Fork a stem for each descriptor that comes, until the worker is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is for the kernel
    child = 0
    while True:
        order, descriptors, _, _ = socket.recv_fds(sock, 1, 1)
        if not order:
            return
        if child:  # there is one at a time, whatever the worker says
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            child = 0
        if order == _REAP:
            sock.sendall(_REAP)
        elif descriptors:
            child = _fork(sock, descriptors[0])


def _fork(sock: socket.socket, descriptor: int) -> int:
    """Its process id; 0 for none."""
    starter = os.getpid()
    try:
        child = os.fork()
    except OSError:
        os.close(descriptor)
        sock.sendall(_REAP)
        return 0
    if child == 0:
        try:
            sock.close()
            os.environ["TOKENIZERS_PARALLELISM"] = "false"  # no threads: they would not survive the forks
            die_with(starter)
            nested.narrow()
            Stem(Channel(socket.socket(fileno=descriptor))).serve()
        finally:
            os._exit(0)
    os.close(descriptor)
    process = os.pidfd_open(child)
    socket.send_fds(sock, [_FORK], [process])
    os.close(process)
    return child
