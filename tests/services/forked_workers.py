"""Workers that are forked from one process, which has imported once what each of them would take half a second for.

What they run is the entry of `inferd.worker`, in a session of its own, with the variables, the log and the socket that
the launcher would give it. That the launcher's own `exec` does so is proven by the tests of worker processes and by
all that start whole kernels.
"""

import asyncio
import contextlib
import gc
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from inferd.engine.cells.stem import die_with
from inferd.plugin.channel import Channel, ClosedError
from inferd.plugin.child import environment
from inferd.runtime.local_launcher import LocalLauncher
from inferd.runtime.scratch import VARIABLE
from inferd.runtime.worker_log import new_log
from inferd.worker.__main__ import THREAD_VARIABLES
from inferd.worker.__main__ import main as run_worker

EXEC = LocalLauncher._exec
PATH = os.environ.get("PYTHONPATH")


class Forked:
    """A worker, as `asyncio.subprocess.Process` would tell of it."""

    def __init__(self, pid: int, descriptor: int, stem: "Stem") -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._descriptor = descriptor
        self._stem = stem
        self._ended = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(descriptor, self._end)

    async def wait(self) -> int | None:
        await self._ended.wait()
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)

    def _end(self) -> None:
        self._loop.remove_reader(self._descriptor)
        os.close(self._descriptor)
        self.returncode = self._stem.reap(self.pid)
        self._ended.set()


class Stem:
    """The process that they are forked from. It has imported all when this is made: loops wait for forks alone."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", __file__, str(theirs.fileno()), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                env=environment(),
            )
        self._channel = Channel(ours)
        self._channel.receive()

    def fork(self, link: socket.socket, log: int, scratch: Path, *, frame_bytes: int) -> Forked:
        variables = environment() | {VARIABLE: str(scratch)}
        self._channel.send({"environment": variables, "folder": str(Path.cwd()), "frame_bytes": frame_bytes})
        socket.send_fds(self._channel.sock, [b"d"], [link.fileno(), log])
        pid = self._channel.receive()[0]["pid"]
        _, descriptors, _, _ = socket.recv_fds(self._channel.sock, 1, 1)
        return Forked(pid, descriptors[0], self)

    def reap(self, pid: int) -> int:
        """How one has ended."""
        self._channel.send({"reap": pid})
        status: int = self._channel.receive()[0]["status"]
        return status

    def close(self) -> None:
        self._channel.sock.close()
        self._process.wait()


async def fork(launcher: LocalLauncher, stem: Stem, log_path: Path, scratch: Path) -> tuple[Any, socket.socket]:
    """What the launcher's `_exec` does, with a fork; itself where workers find other modules than the stem does."""
    if os.environ.get("PYTHONPATH") != PATH:
        return await EXEC(launcher, log_path, scratch)
    ours, theirs = socket.socketpair()
    with theirs, await new_log(log_path) as log:
        return stem.fork(theirs, log.fileno(), scratch, frame_bytes=launcher._frame_limit_bytes), ours


def serve(channel: Channel) -> None:
    """Fork one for each message. Returns in each of them, to run it; ends with the one who asks."""
    with contextlib.suppress(ClosedError):
        channel.send({"ready": True})
        while True:
            message, _ = channel.receive()
            if "reap" in message:
                _, status = os.waitpid(message["reap"], 0)
                channel.send({"status": os.waitstatus_to_exitcode(status)})
                continue
            _, (link, log), _, _ = socket.recv_fds(channel.sock, 1, 2)
            stem = os.getpid()
            gc.freeze()  # a collection in a worker would copy the pages of all that it looks at
            pid = os.fork()
            if pid == 0:
                channel.sock.close()
                _become(message, link, log, stem=stem)
                return
            os.close(link)
            os.close(log)
            process = os.pidfd_open(pid)
            channel.send({"pid": pid})
            socket.send_fds(channel.sock, [b"p"], [process])
            os.close(process)
    os._exit(0)


def _become(message: Any, link: int, log: int, *, stem: int) -> None:
    """Have all that a worker is started with."""
    os.setsid()
    os.chdir(message["folder"])
    os.environ.clear()
    os.environ.update(message["environment"])
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    sys.argv = ["inferd.worker", "--fd", str(link), "--parent", str(stem), "--frame-bytes", str(message["frame_bytes"])]


if __name__ == "__main__":
    die_with(int(sys.argv[2]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is for the tests
    for name in THREAD_VARIABLES:  # as a worker does before it imports numpy
        os.environ.setdefault(name, str(len(os.sched_getaffinity(0))))
    from inferd.engine.cells import render  # noqa: F401 - what the process beside it loads
    from inferd.testing import fake, fake_session, fake_tensor  # noqa: F401 - what a worker of the FakeBackend loads
    from inferd.worker import process  # noqa: F401 - what each worker loads

    serve(Channel(socket.socket(fileno=int(sys.argv[1]))))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    gc.unfreeze()
    run_worker()
