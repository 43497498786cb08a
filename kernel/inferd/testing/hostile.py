"""A backend that tries to reach what is not its model's, and tells what became of it: for tests of sandboxes."""

import ctypes
import json
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from inferd.plugin import BackendSpec, LoadedModel, LoadedTensorModel, LoadRequest, MemoryNeed, Setting, hookimpl
from inferd.plugin.backend import ReportProgress
from inferd.testing.fake import FakeBackend

_ATTACH: Final = 16  # PTRACE_ATTACH, sys/ptrace.h
_MANY: Final = 200  # of threads and processes
_ADDRESS_S: Final = 5.0
_FILLED_S: Final = 30.0


def _connect(port: int) -> None:
    socket.create_connection(("127.0.0.1", port), timeout=_ADDRESS_S).close()


def _connect_file(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)


def _send_to_file(path: str) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, theirs:
        ours.sendto(b"", path)


def _trace(pid: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.ptrace(_ATTACH, pid, None, None) == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _look_into(pid: int) -> None:
    Path(f"/proc/{pid}/environ").read_bytes()


def _fork(count: int) -> None:
    for _ in range(count):
        if os.fork() == 0:
            os._exit(0)


def _thread(count: int) -> None:
    done = threading.Event()
    threads = [threading.Thread(target=done.wait) for _ in range(count)]
    started = []
    try:
        for thread in threads:
            thread.start()
            started.append(thread)
    finally:
        done.set()
        for thread in started:
            thread.join()


def _fill(size_bytes: int) -> None:
    """Write so much where a worker may, and wait for whatever comes of it."""
    Path(os.environ["TMPDIR"], "filled").write_bytes(bytes(size_bytes))
    threading.Event().wait(_FILLED_S)


TRIES: Final[dict[str, Callable[[Any], object]]] = {
    "network": _connect,
    "socket": _connect_file,
    "datagram": _send_to_file,
    "trace": _trace,
    "environment": _look_into,
    "signal": lambda pid: os.kill(pid, signal.SIGCONT),
    "read": lambda path: Path(path).read_bytes(),
    "list": os.listdir,
    "write": lambda path: Path(path).write_bytes(b"x"),
    "mode": lambda path: Path(path).chmod(0o777),
    "remove": lambda path: Path(path).unlink(),
    "program": lambda path: subprocess.run([path], check=True),
    "fork": _fork,
    "thread": _thread,
    "fill": _fill,
    "memory": lambda size: len(bytearray(size)),
}
"""What may be tried, each with one argument."""


class HostileBackend(FakeBackend):
    """Does what its setting `tries` says while it loads; then it is a FakeBackend whose description tells."""

    def measure(self, request: LoadRequest) -> MemoryNeed:
        """As the FakeBackend does."""
        return super().measure(replace(request, settings={}))

    def load(self, request: LoadRequest, progress: ReportProgress) -> LoadedModel | LoadedTensorModel:
        """Load a `.hostile` file, which holds what a `.fake` file may."""
        tries = json.loads(str(request.settings["tries"]))
        results = json.dumps([_attempt(name, argument) for name, argument in tries])
        model = super().load(replace(request, settings={}), progress)
        return replace(model, description=replace(model.description, architecture=results))


def _attempt(name: str, argument: Any) -> str:
    """What became of it: the class of what it raised, or "done"."""
    try:
        TRIES[name](argument)
    except Exception as error:  # noqa: BLE001 - whatever the system makes of it
        return type(error).__name__
    return "done"


@hookimpl
def inferd_backends() -> Iterable[BackendSpec]:
    """The hostile backend."""
    tries = Setting(
        name="tries", kind="str", default="[]", description="what it tries: a JSON list of [name, argument]"
    )
    return (
        BackendSpec(
            name="hostile",
            loader="inferd.testing.hostile:HostileBackend",
            formats=("hostile",),
            description="tries what it may not; for tests",
            settings=(tries,),
        ),
    )
