"""What a worker does before anything foreign is imported: it hears what it is to load, and enters its sandbox.

Until then it has one thread: walls of a thread that was there before would not be its.
"""

from __future__ import annotations

import glob
import os
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from inferd import __version__
from inferd.core.function import LOADER
from inferd.core.resources import HOST_DEVICE
from inferd.engine.cells.starter import Starter
from inferd.errors import ModelLoadError, SandboxIncompleteError
from inferd.plugin.host import read_memory
from inferd.sandbox.entry import Sandbox
from inferd.sandbox.state import Order, SandboxLevel, State
from inferd.worker.belongings import Belongings
from inferd_api.worker.v1 import sandbox_pb2
from inferd_api.worker.v1 import worker_pb2 as wire

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inferd.shared import Memory
    from inferd.worker.link import Link
    from inferd_api.worker.v1 import load_pb2

SCRATCH: Final = "TMPDIR"
"""The variable by which a worker is told where it may write; a library finds it there, too."""

THREAD_VARIABLES: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""By which libraries are told how many threads to compute with."""

OFF: Final = State(SandboxLevel.OFF, ("workers.sandbox is off",))
_HOMES: Final = ("HOME", "XDG_CACHE_HOME", "HF_HOME", "TORCH_HOME", "TRITON_CACHE_DIR")  # where libraries keep things
_SHARED: Final = ("/dev/shm",)  # noqa: S108  # nosec B108 - where NCCL shares memory, and in no other place
"""Ranks on devices make files in it, and find none whose name they were not told: models lie there, too."""
_LOOK_FILE_BYTES: Final = 64 << 20  # of what a worker writes that looks at a model, its log among it


@dataclass(slots=True)
class Start:
    """How a worker has begun.

    Attributes:
        load: What it is to load.
        early: What the kernel has sent before.
        sandbox: Of this process; None for none.
        required: All of it has to be there.
        refused: What of the model is not its own, a sentence each.
    """

    load: load_pb2.Load
    early: list[tuple[wire.KernelFrame, Sequence[Memory]]] = field(default_factory=list)
    sandbox: Sandbox | None = None
    required: bool = False
    refused: Sequence[str] = ()

    def seal(self) -> State:
        """Close what the import of the backend needed; what has become of the sandbox.

        Raises:
            SandboxIncompleteError: It is required, and something is lacking.
        """
        state = OFF if self.sandbox is None else self.sandbox.seal()
        self._check(state.reasons)
        return state

    def check(self) -> None:
        """See that all is there that is required, as far as that is known before the import of the backend.

        Raises:
            ModelLoadError: A link of the model leads to what is not its own.
            SandboxIncompleteError: Something is lacking.
        """
        if self.refused:
            more = f" ({len(self.refused) - 1} more are wrong likewise)" if len(self.refused) > 1 else ""
            cause = self.refused[0] + more
            raise ModelLoadError(cause, metadata={"cause": cause})
        self._check(() if self.sandbox is None else self.sandbox.reasons)

    def _check(self, reasons: Sequence[str]) -> None:
        if self.required and reasons:
            cause = "; ".join(reasons)
            raise SandboxIncompleteError(
                f"workers.sandbox requires all of a sandbox, and this host does not allow it: {cause}. `inferd doctor`"
                " shows what it allows; workers.sandbox = 'auto' loads models all the same",
                metadata={"cause": cause},
            )


def begin(link: Link, *, descriptor: int) -> Start | None:
    """Say hello, hear what is to be loaded, and enter the sandbox; None where the kernel is gone or wants nothing.

    Args:
        link: To the kernel.
        descriptor: Of its socket, which nothing that works beside this process may have.
    """
    with suppress(ConnectionError):
        link.send(wire.WorkerFrame(hello=wire.Hello(version=__version__, pid=os.getpid())))
        early: list[tuple[wire.KernelFrame, Sequence[Memory]]] = []
        while (received := link.receive()) is not None:
            frame, _ = received
            if frame.HasField("load"):
                return _enter(Start(frame.load, early), descriptor)
            if frame.HasField("stop"):
                return None
            early.append(received)
    return None


def _enter(start: Start, descriptor: int) -> Start:
    load = start.load
    mode = load.limits.sandbox.mode
    if mode in (sandbox_pb2.SANDBOX_MODE_AUTO, sandbox_pb2.SANDBOX_MODE_REQUIRE):
        start.required = mode == sandbox_pb2.SANDBOX_MODE_REQUIRE
        scratch = os.environ.get(SCRATCH, "")
        found = _belongings(load)
        start.refused = found.refused
        order = _order(load, scratch, reads=tuple(map(str, found.paths)))
        for name in _HOMES if scratch else ():
            os.environ[name] = scratch
        start.sandbox = Sandbox(order, package=load.loader)
    calls = load.loader == LOADER
    Starter.make(
        keep_out=descriptor,
        network=load.sandbox.network and calls,
        reads=tuple(load.sandbox.reads) if calls else (),
    )
    if len(load.ranks) > 1 and not load.sandbox.looks:
        from inferd.worker.ranks import prepare_ranks  # noqa: PLC0415 - other workers start without it

        prepare_ranks(load, start.seal, keep_out=descriptor)
    return start


def _belongings(load: load_pb2.Load) -> Belongings:
    """What is read of the model and of what its settings name; what the backend itself asks for is not looked into."""
    limits = load.limits.sandbox
    found = Belongings(tuple(map(Path, limits.roots)), tuple(map(Path, limits.withheld)))
    found.add(Path(load.path))
    named = {value.str_value for value in load.settings.values()}
    for each in load.sandbox.reads:
        if each in named:
            found.add(Path(each), alone=True)
        else:
            found.paths[Path(each)] = None
    return found


def _order(load: load_pb2.Load, scratch: str, *, reads: tuple[str, ...]) -> Order:
    wants, limits = load.sandbox, load.limits.sandbox
    memory_bytes = limits.memory_bytes or read_memory().total_bytes
    if wants.looks and (most := load.limits.look.memory_bytes):
        memory_bytes = min(memory_bytes, most)
    devices = (path for pattern in wants.devices for path in glob.glob(pattern))  # noqa: PTH207 - it begins with "/"
    looped = len(load.ranks) > 1
    return Order(
        reads=reads,
        writes=(*([scratch] if scratch else []), *wants.writes),
        shares=_SHARED if looped and load.device != HOST_DEVICE else (),
        devices=tuple(devices),
        network=wants.network,
        listens=wants.listens,
        loopback=looped,
        programs=wants.programs,
        memory_bytes=memory_bytes,
        file_bytes=_LOOK_FILE_BYTES if wants.looks else 0,
        threads=limits.threads,
    )
