"""Adapters on their way into a session: their files come as memories, and are read beside the steps."""

from __future__ import annotations

import logging
import os
import queue
import tempfile
import threading
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from inferd.adapter_errors import AdapterLoadError
from inferd.engine.cause import last_line
from inferd.errors import InferdError, LimitExceededError, UnsupportedInputError, is_failure
from inferd.plugin import LoadError
from inferd.plugin.session import AdaptingSession
from inferd.reasons import from_reason
from inferd.worker.frames import failure
from inferd_api.worker.v1 import adapter_pb2
from inferd_api.worker.v1 import worker_pb2 as wire

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from inferd.engine.token.adapters import Adapters
    from inferd.engine.token.loop import Loop
    from inferd.plugin.session import ReadAdapter
    from inferd.shared import Memory
    from inferd.worker.link import Link

_log = logging.getLogger(__name__)


class AdapterDesk:
    """Reads adapters for an engine, one after the other, in a thread of its own from when the first one comes.

    Args:
        engine: Takes them.
        session: Reads them.
        link: To the kernel.
    """

    def __init__(self, engine: Loop, session: object, link: Link) -> None:
        self._engine = engine
        self._session = session
        self._link = link
        self._orders: queue.SimpleQueue[tuple[adapter_pb2.LoadAdapter, Sequence[Memory]]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def expect(self, told: adapter_pb2.Adapters) -> None:
        """The model has these from now on."""
        names = {each.digest: each.name for each in told.adapters}
        self._engine.see_to_adapters(lambda adapters: adapters.expect(names))

    def load(self, order: adapter_pb2.LoadAdapter, memories: Sequence[Memory]) -> None:
        """Have one read, and then held."""
        self._orders.put((order, memories))
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="adapters", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while True:
            order, memories = self._orders.get()
            found = self._read(order, memories)
            del memories
            self._engine.see_to_adapters(partial(_add, order.adapter, found, self._tell))

    def _tell(self, digest: str, found: ReadAdapter | InferdError) -> None:
        told = adapter_pb2.AdapterTold(digest=digest)
        if isinstance(found, InferdError):
            told.failure.CopyFrom(failure(found))
        else:
            told.rank, told.memory_bytes = found.rank, found.memory_bytes
            told.targets.extend(found.targets)
        self._link.send(wire.WorkerFrame(adapter_told=told))

    def _read(self, order: adapter_pb2.LoadAdapter, memories: Sequence[Memory]) -> ReadAdapter | InferdError:
        name, path = order.adapter.name, order.path
        if order.HasField("failure"):
            given = order.failure
            return from_reason(given.reason, given.message, given.metadata)
        if not isinstance(self._session, AdaptingSession):
            return UnsupportedInputError(
                f"adapter {name!r} cannot be loaded: the backend of this model takes none while it serves; with"
                f" --set adapter={path} a version of the model is made of it, where the backend has that setting",
                metadata={"adapter": name},
            )
        try:
            with tempfile.TemporaryDirectory(prefix="adapter-") as folder:
                found = self._session.read_adapter(_laid_out(Path(folder), order, memories))
        except LoadError as refused:
            return _refused(name, _named(str(refused), folder, order))
        except BaseException as error:
            if not is_failure(error):
                raise
            _log.exception("an adapter could not be read")
            return _refused(name, _named(last_line(error), folder, order))
        if found.rank > order.most_rank:
            return LimitExceededError(
                f"adapter {name!r} has rank {found.rank} and adapters.rank is {order.most_rank}: {path}",
                metadata={"bound": "adapters.rank", "value": str(found.rank), "limit": str(order.most_rank)},
            )
        return found


def refuse_adapter(order: adapter_pb2.LoadAdapter) -> wire.WorkerFrame:
    """What a model says that has no use for any."""
    error = UnsupportedInputError(
        f"adapter {order.adapter.name!r} cannot be loaded: adapters are for language models, and it is none",
        metadata={"adapter": order.adapter.name},
    )
    told = adapter_pb2.AdapterTold(digest=order.adapter.digest, failure=failure(error))
    return wire.WorkerFrame(adapter_told=told)


def _add(
    order: adapter_pb2.AdapterRef,
    found: ReadAdapter | InferdError,
    tell: Callable[[str, ReadAdapter | InferdError], None],
    adapters: Adapters,
) -> None:
    """Have the engine hold one, and then tell of it."""
    try:
        adapters.add(order.digest, found)
    except MemoryError as error:
        found = _refused(order.name, f"there is no memory for it: {error}")
        adapters.add(order.digest, found)
    tell(order.digest, found)


def _laid_out(folder: Path, order: adapter_pb2.LoadAdapter, memories: Sequence[Memory]) -> Path:
    """The files under their names: a folder where there are several."""
    if not memories or len(memories) != len(order.files):
        raise LoadError(f"{len(order.files)} files are told and {len(memories)} have come")
    for file, size_bytes, memory in zip(order.files, order.sizes, memories, strict=True):
        written = folder / Path(file).name
        with written.open("wb") as out:
            _copy(memory, size_bytes, out.fileno())
    return folder if len(memories) > 1 else folder / Path(order.files[0]).name


def _copy(memory: Memory, size_bytes: int, into: int) -> None:
    done = 0
    while done < size_bytes:
        if not (sent := os.sendfile(into, memory.fileno(), done, size_bytes - done)):
            raise LoadError(f"a memory ends at byte {done} of {size_bytes}")
        done += sent


def _named(cause: str, folder: str, order: adapter_pb2.LoadAdapter) -> str:
    """What was said of the copies, said of the files."""
    if len(order.files) > 1:
        return cause.replace(folder, order.path)
    return cause.replace(str(Path(folder, *order.files)), order.path)


def _refused(name: str, cause: str) -> AdapterLoadError:
    return AdapterLoadError(f"adapter {name!r} cannot be loaded: {cause}", metadata={"adapter": name, "cause": cause})
