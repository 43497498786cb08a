"""The guard of `inferd lease run`: it starts the program, and ends it with all that it started when the lease ends.

A process between the command and the program, started as a script with the standard library only. It sees three things
that neither of them can see for the other: that the command has died, however it did (its socket closes); that the
lease's time is over, though the command was stopped or hangs (the clock is the guard's own); and what the program has
left running (orphans become the guard's children, `PR_SET_CHILD_SUBREAPER`). The program gets SIGKILL should the guard
itself be killed, `PR_SET_PDEATHSIG`; what it had started is then ended by the command.

The command sends lines: `until T` (the lease holds until T on the monotonic clock), `signal N` (to the program), `end`.
The guard sends `started PID`, `failed ERRNO`, `left COUNT` (processes of an ended program that it ends), `overdue`, and
as its last line `exit STATUS`, of `waitpid`, when no process is left.
"""

from __future__ import annotations

import ctypes
import math
import os
import select
import signal
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
NOTICE, MARGIN = 1 / 6, 1 / 30  # of a lease's time: for the program to end in, and between its end and the lease's
SWEEP_S = 0.05  # between two looks for processes while they are being ended
RESTORED = (signal.SIGPIPE, signal.SIGXFSZ)  # Python ignores them, and programs would inherit that


def prctl(option: int, value: int) -> None:
    """Set a property of this process.

    Raises:
        OSError: The system cannot do it.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def descendants(ancestor: int) -> list[int]:
    """The living processes below `ancestor`, parents before children."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        with suppress(OSError, ValueError, IndexError):  # it has ended meanwhile
            state, parent = (entry / "stat").read_bytes().rpartition(b")")[2].split()[:2]
            if state not in b"ZX":
                children.setdefault(int(parent), []).append(int(entry.name))
    found = [ancestor]
    for process in found:  # grows while it is read
        found += children.get(process, ())
    return found[1:]


def send(number: int, processes: list[int]) -> bool:
    """Send a signal to each of them; whether one of them could be sent it."""
    sent = False
    for process in processes:
        with suppress(ProcessLookupError, PermissionError):  # of another user: out of reach
            os.kill(process, number)
            sent = True
    return sent


class Guard:
    """Watches over one program.

    Args:
        command: The socket to it.
        grace_s: Between SIGTERM and SIGKILL, in seconds.
    """

    def __init__(self, command: socket.socket, grace_s: float) -> None:
        self._command = command
        self._grace_s = grace_s
        self._said = b""
        self._until = math.inf  # when all must have ended
        self._notice = math.inf  # when the program is told
        self._kill = math.inf  # when it is killed
        self._program = 0
        self._status: int | None = None

    def run(self, arguments: list[str], group: int) -> None:
        """Start the program in process group `group` and return when no process of it is left."""
        waking, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        self._program = os.fork()
        if self._program == 0:
            self._become(arguments, group)
        self._tell(f"started {self._program}")
        listening = True
        while True:
            self._reap()
            if self._status is not None and self._ended():
                break
            pause_s = self._pause_s()
            heard = self._command.fileno()
            ready, _, _ = select.select([waking, heard] if listening else [waking], [], [], pause_s)
            if waking in ready:
                os.read(waking, 1 << 12)
            if heard in ready:
                listening = self._hear()
            self._mind_the_time()
        self._tell(f"exit {self._status}")

    def _become(self, arguments: list[str], group: int) -> None:
        """Become the program; never returns."""
        guard = os.getppid()
        try:
            with suppress(PermissionError, ProcessLookupError):  # the command's group, for Ctrl-C and for reading
                os.setpgid(0, group)
            for number in RESTORED:
                signal.signal(number, signal.SIG_DFL)
            prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() == guard:
                os.execv(arguments[0], arguments)  # noqa: S606 - the program that was asked for
        except OSError as error:
            self._tell(f"failed {error.errno}")
        os._exit(127)

    def _tell(self, line: str) -> None:
        with suppress(OSError):  # the command has died
            self._command.sendall(f"{line}\n".encode())

    def _hear(self) -> bool:
        """Do what the command says; False when it is gone, which ends the program."""
        try:
            chunk = self._command.recv(1 << 12)
        except OSError:
            chunk = b""
        *lines, self._said = (self._said + chunk).split(b"\n")
        for line in lines:
            match line.decode().split():
                case ["until", text]:
                    left_s = float(text) - time.monotonic()
                    self._until = float(text) - MARGIN * left_s
                    self._notice = self._until - min(self._grace_s, NOTICE * left_s)
                case ["signal", text]:
                    if self._status is None:
                        send(int(text), [self._program])
                case _:
                    self._end()
        if not chunk:
            self._end()
        return bool(chunk)

    def _end(self) -> None:
        """Tell all processes to end; those that do not are killed after the grace, and not after the lease."""
        if self._kill == math.inf:
            self._kill = min(time.monotonic() + self._grace_s, max(self._until, time.monotonic()))
            processes = descendants(os.getpid())
            send(signal.SIGTERM, processes)
            send(signal.SIGCONT, processes)  # a stopped one cannot end

    def _mind_the_time(self) -> None:
        now = time.monotonic()
        if now >= self._notice and self._kill == math.inf:
            self._tell("overdue")
            self._end()
        if now >= self._kill:
            send(signal.SIGKILL, descendants(os.getpid()))

    def _pause_s(self) -> float | None:
        """How long until something is to be done."""
        if self._status is not None or time.monotonic() >= self._kill:
            return SWEEP_S
        next_step = min(self._notice if self._kill == math.inf else math.inf, self._kill)
        return None if next_step == math.inf else max(0.0, next_step - time.monotonic())

    def _reap(self) -> None:
        with suppress(ChildProcessError):
            while True:
                process, status = os.waitpid(-1, os.WNOHANG)
                if process == 0:
                    return
                if process == self._program:
                    self._status = status

    def _ended(self) -> bool:
        """Whether nothing of an ended program is left within reach; else it is told to end."""
        left = descendants(os.getpid())
        if left and self._kill == math.inf:
            self._tell(f"left {len(left)}")
            self._end()
        return not left or not send(0, left)


def main(arguments: list[str]) -> None:
    """Read `SOCKET PARENT GRACE_S PROGRAM ARGUMENT…` and guard the program."""
    descriptor, parent, grace_s, *program = arguments
    os.set_inheritable(int(descriptor), False)
    command = socket.socket(fileno=int(descriptor))
    group = os.getpgid(0)
    with suppress(PermissionError):  # Ctrl-Z and Ctrl-C on the terminal are for the program and the command
        os.setpgid(0, 0)
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    if os.getppid() == int(parent):
        Guard(command, float(grace_s)).run(program, group)


if __name__ == "__main__":
    main(sys.argv[1:])
