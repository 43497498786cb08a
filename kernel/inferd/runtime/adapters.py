"""Adapters on their way to workers: each that is loaded is given those of its model, and told when they change."""

from __future__ import annotations

import asyncio
import hashlib
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog

from inferd.adapter_errors import AdapterLoadError, AdapterNotFoundError
from inferd.adapter_settings import Adapters as Bounds
from inferd.core.adapter import AdapterState
from inferd.core.model import InstanceState
from inferd.errors import InferdError, InvalidFieldError, LimitExceededError, suggestion, words_of
from inferd.reasons import from_reason
from inferd.runtime.formats import PEFT_MARK
from inferd.runtime.shared_work import SharedWork
from inferd.runtime.sources import check_opened
from inferd.shared import Memory, can_share
from inferd_api.worker.v1 import adapter_pb2, failure_pb2, task_pb2
from inferd_api.worker.v1 import worker_pb2 as wire

if TYPE_CHECKING:
    from collections.abc import Iterator

    from inferd.core.adapter import Adapter
    from inferd.core.ids import InstanceId, ModelName
    from inferd.core.model import Model
    from inferd.core.views import Views
    from inferd.runtime.sources import Roots
    from inferd.runtime.supervisor import Supervisor
    from inferd.runtime.worker import Worker

WEIGHTS: Final = "adapter_model.safetensors"
MAGIC: Final = b"GGUF"
PIECE_BYTES: Final = 4 << 20
FIELD: Final = "path"

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Files:
    """The files of an adapter, as they were read.

    Attributes:
        digest: What they hold, "sha256:…": of one its own; of two that of the lines that sha256sum writes of them.
        names: Of them.
        sizes: How many bytes each has.
        memories: They.
    """

    digest: str
    names: tuple[str, ...]
    sizes: tuple[int, ...]
    memories: tuple[Memory, ...]


@dataclass(frozen=True, slots=True)
class Told:
    """What an instance has said of an adapter.

    Attributes:
        rank: Its rank.
        targets: What it changes.
        memory_bytes: What it takes.
        error: Why it is not held; None where it is.
    """

    rank: int = 0
    targets: tuple[str, ...] = ()
    memory_bytes: int = 0
    error: InferdError | None = None


def read_files(path: Path, *, most_bytes: int, roots: Roots | None = None) -> Files:
    """Read the files of an adapter: a GGUF file, or a folder of the `peft` package.

    Raises:
        PermissionDeniedError: What was opened is not within `roots`.
        InvalidFieldError: It is neither, or cannot be read.
        LimitExceededError: They are larger than `adapters.file_bytes`.
    """
    if not can_share():
        raise InvalidFieldError("adapters are given to workers in memory that this system does not have", field=FIELD)
    files = [path / PEFT_MARK, path / WEIGHTS] if path.is_dir() else [path]
    memories, sums, left = [], [], most_bytes
    for file in files:
        memory, digest = _read_file(file, path, left_bytes=left, most_bytes=most_bytes, roots=roots)
        left -= memory.size_bytes
        memories.append(memory)
        sums.append(digest)
    if len(files) == 1 and memories[0].read(0, min(len(MAGIC), memories[0].size_bytes)) != MAGIC:
        fix = (
            f"name its folder, {path.parent}"
            if (path.parent / PEFT_MARK).is_file()
            else "convert it, or name its folder"
        )
        raise InvalidFieldError(
            f"{path} is no GGUF file; an adapter of the peft package is a folder: {fix}", field=FIELD
        )
    lines = "".join(f"{digest}  {file.name}\n" for digest, file in zip(sums, files, strict=True))
    whole = sums[0] if len(files) == 1 else hashlib.sha256(lines.encode()).hexdigest()
    names, sizes = tuple(file.name for file in files), tuple(memory.size_bytes for memory in memories)
    return Files(f"sha256:{whole}", names, sizes, tuple(memories))


def _read_file(file: Path, path: Path, *, left_bytes: int, most_bytes: int, roots: Roots | None) -> tuple[Memory, str]:
    """The bytes of a file, and their SHA-256."""
    try:
        with open(file, "rb", opener=_open_unblocked) as opened:
            if roots is not None:
                check_opened(opened.fileno(), str(file), roots, what="adapter", field=FIELD)
            status = os.fstat(opened.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise InvalidFieldError(f"{file} is no file", field=FIELD)
            size = status.st_size
            if size > left_bytes:
                raise LimitExceededError(
                    f"the files of the adapter in {path} have more than {most_bytes} bytes (adapters.file_bytes)",
                    metadata={"bound": "adapters.file_bytes", "value": str(size), "limit": str(most_bytes)},
                )
            memory, digest, done = Memory.make(size), hashlib.sha256(), 0
            while done < size and (piece := opened.read(min(PIECE_BYTES, size - done))):
                memory.write(done, piece)
                digest.update(piece)
                done += len(piece)
    except OSError as error:
        lacks = f": a folder of the peft package has {PEFT_MARK} and {WEIGHTS}" if path.is_dir() else ""
        raise InvalidFieldError(f"{file} cannot be read: {words_of(error)}{lacks}", field=FIELD) from None
    if done < size or not size:
        raise InvalidFieldError(f"{file} ends at byte {done} of {size}: it is empty, or changes just now", field=FIELD)
    memory.seal()
    return memory, digest.hexdigest()


def _open_unblocked(file: str, flags: int) -> int:
    return os.open(file, flags | os.O_NONBLOCK | os.O_CLOEXEC)


def settle_adapter(work: object, model: Model | None) -> None:
    """Note what the adapter holds that a task names, as it is now: it is computed with that or not at all.

    Raises:
        AdapterNotFoundError: Its model has none of this name.
    """
    written = work.work if isinstance(work, SharedWork) else work
    if model is None or not isinstance(written, task_pb2.Work) or not written.HasField("adapter"):
        return
    written.adapter.digest = find_adapter(model, written.adapter.name, "spec.adapter").digest


def find_adapter(model: Model, name: str, field: str) -> Adapter:
    """The adapter of this name.

    Raises:
        AdapterNotFoundError: There is none.
    """
    known = {each.name: each for each in model.traits.adapters}
    if (found := known.get(name)) is not None:
        return found
    near = suggestion(name, list(known))
    has = f"it has {', '.join(sorted(known))}" if known else "it has none (inferd adapters load)"
    raise AdapterNotFoundError(
        f"model {model.spec.name!r} has no adapter {name[:140]!r}; {f'did you mean {near!r}? ' if near else ''}{has}",
        metadata={"adapter": name[:140], **({"suggestion": near} if near else {})},
        field=field,
    )


class Adapters:
    """Has workers hold the adapters of their models. One writer: the driver.

    Args:
        views: What may be read of the core.
        supervisor: The workers.

    Attributes:
        bounds: Of adapters.
    """

    def __init__(self, views: Views, supervisor: Supervisor) -> None:
        self.bounds = Bounds()
        self._views = views
        self._supervisor = supervisor
        self._given: dict[InstanceId, set[str]] = {}  # digests, by instances that have loaded
        self._told: dict[tuple[ModelName, str], Told] = {}
        self._waiting: dict[tuple[InstanceId, str], list[asyncio.Future[Told | None]]] = {}
        self._reader = ThreadPoolExecutor(1, "adapters")

    def give(self, instance_id: InstanceId) -> None:
        """A worker has loaded its model: it is told of the adapters before its first task, and then given them."""
        self._given = {known: given for known, given in self._given.items() if known in self._supervisor.workers}
        self._given[instance_id] = set()
        self._offer(instance_id)

    def gone(self, instance_id: InstanceId) -> None:
        """A worker has ended: it holds nothing, and says nothing more."""
        for digest in self._given.pop(instance_id, ()):
            self._settle(instance_id, digest, None)

    def change(self, name: ModelName) -> None:
        """A model has other adapters: its workers hold these and no others."""
        for instance_id in self._loaded(name):
            self._offer(instance_id)
        digests = {each.digest for each in self._adapters(name)}
        self._told = {key: told for key, told in self._told.items() if key[0] != name or key[1] in digests}

    def told(self, instance_id: InstanceId, said: adapter_pb2.AdapterTold) -> None:
        """A worker holds an adapter, or says why not."""
        if (instance := self._views.find_instance(instance_id)) is None:
            return
        error = None
        if said.HasField("failure"):
            error = from_reason(said.failure.reason, said.failure.message, said.failure.metadata)
            log.warning("an adapter is refused", model=instance.model, instance_id=instance_id, why=error.message)
        told = Told(said.rank, tuple(said.targets), said.memory_bytes, error)
        self._told[instance.model, said.digest] = told
        self._settle(instance_id, said.digest, told)

    def of(self, name: ModelName, adapter: Adapter) -> tuple[Told, AdapterState]:
        """What is known of an adapter, and where it stands."""
        told = self._told.get((name, adapter.digest), Told())
        if told.error is not None:
            return told, AdapterState.FAILED
        held = told.rank and any(adapter.digest in self._given[each] for each in self._loaded(name))
        return told, AdapterState.LOADED if held else AdapterState.KNOWN

    async def read(self, path: Path, roots: Roots | None = None) -> Files:
        """Read the files of an adapter, beside the loop; within `roots` alone.

        Raises:
            InferdError: As `read_files`.
        """
        loop = asyncio.get_running_loop()
        reading = partial(read_files, path, most_bytes=self.bounds.file_bytes, roots=roots)
        return await loop.run_in_executor(self._reader, reading)

    async def hold(self, name: ModelName, adapter: Adapter, files: Files) -> None:
        """Have all loaded instances of a model hold an adapter that is not one of the model's yet.

        Raises:
            InferdError: One refuses it, or does not answer in time; none holds it then.
        """
        asked = [self._ask(instance_id, adapter, files) for instance_id in self._loaded(name)]
        try:
            async with asyncio.timeout(self.bounds.load_s):
                answers = await asyncio.gather(*asked)
        except TimeoutError:
            self.change(name)
            raise AdapterLoadError(
                f"adapter {adapter.name!r} was not read within {self.bounds.load_s:g} s (adapters.load_s)",
                metadata={"adapter": adapter.name, "cause": "timeout"},
            ) from None
        except BaseException:
            self.change(name)
            raise
        if refused := next((each.error for each in answers if each is not None and each.error is not None), None):
            self.change(name)
            raise refused

    def close(self) -> None:
        """Read nothing more."""
        self._reader.shutdown(wait=False, cancel_futures=True)

    def _ask(self, instance_id: InstanceId, adapter: Adapter, files: Files) -> asyncio.Future[Told | None]:
        """Have a worker hold an adapter; what it says, or None where it ends before."""
        answer: asyncio.Future[Told | None] = asyncio.get_running_loop().create_future()
        worker, instance = self._supervisor.workers.get(instance_id), self._views.find_instance(instance_id)
        if worker is None or instance is None:
            answer.set_result(None)
            return answer
        self._waiting.setdefault((instance_id, adapter.digest), []).append(answer)
        _name(worker, (*self._adapters(instance.model), adapter))
        self._given[instance_id].add(adapter.digest)
        self._send(worker, adapter, files)
        return answer

    def _offer(self, instance_id: InstanceId) -> None:
        """Tell a worker which adapters its model has, and give it those that it has not been given."""
        worker, instance = self._supervisor.workers.get(instance_id), self._views.find_instance(instance_id)
        if worker is None or instance is None or worker.signature:
            return
        adapters, given = self._adapters(instance.model), self._given[instance_id]
        if not adapters and not given:
            return
        _name(worker, adapters)
        given &= {each.digest for each in adapters}
        for adapter in adapters:
            if adapter.digest not in given:
                given.add(adapter.digest)
                reading = asyncio.ensure_future(self.read(Path(adapter.path)))
                reading.add_done_callback(partial(self._bring, instance_id, adapter))

    def _bring(self, instance_id: InstanceId, adapter: Adapter, reading: asyncio.Future[Files]) -> None:
        """The files of an adapter were read, or could not be."""
        worker = self._supervisor.workers.get(instance_id)
        if reading.cancelled():
            return
        error = reading.exception()
        files = None if error is not None else reading.result()
        if files is not None and files.digest != adapter.digest:
            error, files = _changed(adapter, files), None
        if worker is not None and adapter.digest in self._given.get(instance_id, ()):
            self._send(worker, adapter, files, error)

    def _send(self, worker: Worker, adapter: Adapter, files: Files | None, error: BaseException | None = None) -> None:
        load = adapter_pb2.LoadAdapter(
            adapter=adapter_pb2.AdapterRef(name=adapter.name, digest=adapter.digest),
            path=adapter.path,
            most_rank=self.bounds.rank,
        )
        if files is None:
            load.failure.CopyFrom(_failure(adapter, error))
        else:
            load.files.extend(files.names)
            load.sizes.extend(files.sizes)
        worker.send(wire.KernelFrame(load_adapter=load), () if files is None else files.memories)

    def _settle(self, instance_id: InstanceId, digest: str, told: Told | None) -> None:
        for answer in self._waiting.pop((instance_id, digest), ()):
            if not answer.done():
                answer.set_result(told)

    def _adapters(self, name: ModelName) -> tuple[Adapter, ...]:
        model = self._views.find_model(name)
        return () if model is None else model.traits.adapters

    def _loaded(self, name: ModelName) -> Iterator[InstanceId]:
        """The instances of a model that have loaded it and live."""
        for instance_id in list(self._given):
            instance = self._views.find_instance(instance_id)
            if instance is not None and instance.model == name and instance.state is InstanceState.READY:
                yield instance_id


def _name(worker: Worker, adapters: tuple[Adapter, ...]) -> None:
    named = [adapter_pb2.AdapterRef(name=each.name, digest=each.digest) for each in adapters]
    worker.send(wire.KernelFrame(adapters=adapter_pb2.Adapters(adapters=named)))


def _changed(adapter: Adapter, files: Files) -> AdapterLoadError:
    cause = f"its files have the digest {files.digest}, and had {adapter.digest} when it was loaded"
    return AdapterLoadError(
        f"adapter {adapter.name!r} cannot be loaded: {cause}; load it again: {adapter.path}",
        metadata={"adapter": adapter.name, "cause": cause},
    )


def _failure(adapter: Adapter, error: BaseException | None) -> failure_pb2.Failure:
    """Why an adapter has no files any more, for those whose tasks name it."""
    if isinstance(error, AdapterLoadError):
        return failure_pb2.Failure(reason=error.reason, message=error.message, metadata=error.metadata)
    cause = "a defect of inferd" if error is None else words_of(error)
    message = f"adapter {adapter.name!r} cannot be loaded: {cause}"
    facts = {"adapter": adapter.name, "cause": cause}
    return failure_pb2.Failure(reason=AdapterLoadError.reason, message=message, metadata=facts)
