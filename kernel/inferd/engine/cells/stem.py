"""The process that cells are forked from. It has one thread, so that forks are safe, and runs nothing for a task."""

from __future__ import annotations

import ctypes
import gc
import json
import os
import resource
import signal
import socket
import traceback
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from inferd.engine.cells.parcel import unpack_vocabulary
from inferd.errors import words_of
from inferd.plugin.channel import Channel, ClosedError
from inferd.plugin.cores import forbid_cores
from inferd.sandbox import nested
from inferd.shared import MOST_AT_ONCE

if TYPE_CHECKING:
    from collections.abc import Callable

    from llguidance import LLTokenizer

    from inferd.engine.cells.calls import Caller
    from inferd.engine.text.tokenizer import Tokenizer

MOST_CELLS: Final = 1024
"""At once: more than a worker wants, whose grammars and pools have bounds of their own, and less than a system has."""

_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h


class Stem:
    """Serves the worker at the other end of a channel: "vocabulary", then "fork" and "reap", until it is closed."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._vocabulary: tuple[Any, bytes] = ({}, b"")
        self._cells = 0  # that live
        self._ended: dict[int, int] = {}  # how children ended that nobody has asked for
        self._callers: dict[str, Caller] = {}  # by the module that offers functions

    def serve(self) -> None:
        """Obey until the worker is gone."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is for the kernel
        with suppress(ClosedError):
            while True:
                message, data = self._channel.receive()
                self._obey(message, data)

    def _obey(self, message: Any, data: bytes) -> None:
        match message["do"]:
            case "vocabulary":
                self._vocabulary = message, data
            case "fork":
                _, descriptors, _, _ = socket.recv_fds(self._channel.sock, 1, 1 + MOST_AT_ONCE)
                self._try_to_fork(message, descriptors)
                for descriptor in descriptors:
                    os.close(descriptor)
            case "reap":
                self._channel.send({"status": self._reap(message["pid"])})

    def _try_to_fork(self, message: Any, descriptors: list[int]) -> None:
        self._collect()
        if self._cells >= MOST_CELLS:
            self._channel.send({"error": f"there are {self._cells} processes beside the worker, and no more may be"})
            return
        try:
            serve = self._prepare(message["role"])
        except Exception as error:  # noqa: BLE001 - foreign libraries; told to the worker
            traceback.print_exc()
            self._channel.send({"error": f"{type(error).__name__}: {words_of(error)}"})
        except BaseException as error:  # noqa: BLE001 - a panic of Rust code is no Exception
            traceback.print_exc()
            self._channel.send({"error": words_of(error)})
        else:
            self._fork(serve, descriptors, memory_bytes=message["memory_bytes"])

    def _prepare(self, role: str) -> Callable[[Channel, list[int]], None]:
        """What a cell does with its channel and what else it is handed; loaded here, so that all cells share it."""
        if role == "grammar":
            from inferd.engine.cells.follow import Follower  # noqa: PLC0415 - what a model's tasks need, and no more

            return Follower(self._grammar_tokenizer, ends=self._vocabulary[0]["eos_ids"]).serve
        if role in ("render", "render by tokenizer"):
            from inferd.engine.cells.render import Scribe  # noqa: PLC0415 - as above

            return Scribe(None if role == "render" else self._tokenizer).serve
        if role == "encode":
            from inferd.engine.cells.encode import Encoder  # noqa: PLC0415 - as above

            return Encoder(self._tokenizer).serve
        if role.startswith("function "):
            module, *function = role.removeprefix("function ").split(" ", 3)
            caller = self._caller(module)
            if function:  # it is to be called, and not only looked at
                name, version, files = function
                caller.prepare(name, int(version), json.loads(files))
            return caller.serve
        raise ValueError(f"no such role: {role}")

    def _caller(self, module: str) -> Caller:
        from inferd.engine.cells.calls import Caller  # noqa: PLC0415 - as above

        if module not in self._callers:
            self._callers[module] = Caller(module)
        return self._callers[module]

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        from inferd.engine.text.tokenizer import Tokenizer  # noqa: PLC0415 - as above

        message, data = self._vocabulary
        return Tokenizer(unpack_vocabulary(message, data), size=message["size"])

    @cached_property
    def _grammar_tokenizer(self) -> LLTokenizer:
        from inferd.engine.cells.words import make_tokenizer  # noqa: PLC0415 - as above

        return make_tokenizer(self._tokenizer, sorted(self._vocabulary[0]["eos_ids"]))

    def _fork(self, serve: Callable[[Channel, list[int]], None], descriptors: list[int], *, memory_bytes: int) -> None:
        """Start a cell; tell the worker its process id, and send a descriptor of the process."""
        gc.collect()
        gc.freeze()  # a collection in a cell would copy the pages of all that it looks at
        stem = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:  # a bound of processes or memory: other cells live on
            self._channel.send({"error": f"the system starts no more processes: {words_of(error)}"})
            return
        if pid == 0:
            _live(self._channel, serve, descriptors, stem=stem, memory_bytes=memory_bytes)
        self._cells += 1
        try:
            process = os.pidfd_open(pid)
        except OSError as error:  # a bound of descriptors, likewise
            with suppress(OSError):  # in a sandbox it may not, and the cell ends with its channel
                os.kill(pid, signal.SIGKILL)
            self._channel.send({"error": f"the system gives no descriptor of a process: {words_of(error)}"})
            return
        self._channel.send({"pid": pid})
        socket.send_fds(self._channel.sock, [b"p"], [process])
        os.close(process)

    def _reap(self, pid: int) -> int | None:
        """How a cell ended, as `waitstatus_to_exitcode` gives it; waits for it. None for one of another stem."""
        if pid in self._ended:
            return self._ended.pop(pid)
        try:
            status = os.waitpid(pid, 0)[1]
        except ChildProcessError:
            return None
        self._cells -= 1
        return os.waitstatus_to_exitcode(status)

    def _collect(self) -> None:
        """Let no process stay that ended by itself."""
        with suppress(ChildProcessError):
            while (found := os.waitpid(-1, os.WNOHANG))[0]:
                self._cells -= 1
                self._ended[found[0]] = os.waitstatus_to_exitcode(found[1])


def die_with(parent: int) -> None:
    """Have this process killed when its parent ends, however that ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the line above
        os._exit(1)


def _live(
    channel: Channel,
    serve: Callable[[Channel, list[int]], None],
    descriptors: list[int],
    *,
    stem: int,
    memory_bytes: int,
) -> None:
    """The life of a cell; does not return."""
    code = 1
    try:
        die_with(stem)
        channel.sock.close()
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + memory_bytes,) * 2)
        forbid_cores()
        nested.close()
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what libraries write when they fail may be what a task says
        with suppress(ClosedError):
            serve(Channel(socket.socket(fileno=descriptors[0])), descriptors[1:])
        code = 0
    finally:
        os._exit(code)  # whatever was raised: the worker sees the end of the channel
