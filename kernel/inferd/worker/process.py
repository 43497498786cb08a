"""The life of a worker: hello, measure, load, run tasks, end."""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from inferd import logs
from inferd.content import PIN, content_digest
from inferd.core.vigil import Doing
from inferd.engine.activity import Activity
from inferd.engine.cause import last_line, placed_line
from inferd.errors import ModelLoadError, SandboxIncompleteError, is_failure, words_of
from inferd.plugin import LoadError, UnsupportedModelError
from inferd.plugin.checks import check_model, check_need, import_loader
from inferd.plugin.ranks import Ranks
from inferd.starts import end_start
from inferd.worker.desk import OWN, TRAININGS, fetch_desk, make_desk
from inferd.worker.frames import failure, needs_frame, pong_frame, read_load, sealed_frame
from inferd.worker.identity import Identity
from inferd.worker.looking import bounded_look
from inferd.worker.refused import refused_words
from inferd_api.worker.v1 import load_pb2, sandbox_pb2
from inferd_api.worker.v1 import worker_pb2 as wire

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inferd.engine.function.backend import LoadedFunctions
    from inferd.engine.training.backend import LoadedTraining
    from inferd.engine.training.following import LoadedFollower
    from inferd.errors import InferdError
    from inferd.plugin import Backend, LoadedModel, LoadedTensorModel, LoadRequest, ModelDescription
    from inferd.shared import Memory
    from inferd.worker.beginning import Start
    from inferd.worker.desk import Desk
    from inferd.worker.link import Link

    _Model = LoadedModel | LoadedTensorModel | LoadedFunctions | LoadedTraining | LoadedFollower
from inferd.worker.links import check_links

PROGRAMS: Final = "inferd.engine.program.threads"
_PROGRESS_S: Final = 0.05  # least time between two reports of load progress

_FAILED: Final = {
    Doing.STARTING: "reading the order to load",
    Doing.IMPORT: "the import of the backend",
    Doing.MEASURE: "Backend.measure",
    Doing.WAITING: "telling what the model needs",
    Doing.LOAD: "Backend.load",
    Doing.PREPARE: "making the tokenizer and the engine of what Backend.load gave",
}

_log = logging.getLogger(__name__)


class Worker:
    """Holds one instance.

    The main thread loads the model and runs its engine. A second one reads the link, so that heartbeats are answered
    and the end of the kernel is noticed in the middle of a step.

    Args:
        link: To the kernel.
        start: How it has begun.
    """

    def __init__(self, link: Link, start: Start) -> None:
        self._link = link
        self._start = start
        self._reserved = threading.Event()  # what the model needs: it may be loaded
        self._stop = wire.Stop()
        self._desk: Desk | None = None
        self._activity = Activity()
        self._reported_at = 0.0
        self._reported = -1.0  # the largest fraction
        self._paged_bytes = 0  # weights in a file that the system pages

    def run(self) -> None:
        """Serve the kernel; returns when it said so or when the model cannot be loaded."""
        logging.basicConfig(level=logging.INFO, format=logs.FORMAT)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal is for the kernel, which stops its workers
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        threading.excepthook = _die
        threading.Thread(target=self._read, name="link", daemon=True).start()
        with suppress(ConnectionError):  # the kernel is gone: nobody is left to serve
            self._link.send(wire.WorkerFrame(begun=sandbox_pb2.Begun()))
            model = self._load(self._start.load)
            if model is not None and self._desk is not None:
                logs.install(logging.INFO)  # from now on what fails may have to do with what tasks say
                threading.excepthook = _die
                self._desk.engine.run()
                if self._stop.keep_bytes:
                    self._desk.keep(self._stop)
                self._activity.begin(Doing.CLOSE)
                model.session.close()
                if (draft := getattr(model, "draft", None)) is not None:
                    draft.close()

    def _load(self, load: load_pb2.Load) -> _Model | None:
        backend: Backend | None = None
        try:
            request, _ = read_load(load)
            self._start.check()
            self._activity.begin(Doing.IMPORT)
            loader: Any = import_loader(load.loader)()
            backend = loader
            if load.loader in TRAININGS:
                loader.prepare(request)
            self._activity.begin(Doing.STARTING)
            self._link.send(sealed_frame(self._start.seal()))
            check_links(load)
            self._check_content(load)
            identity = _identify(request, load.loader)
            self._activity.begin(Doing.MEASURE)
            with bounded_look(load):
                need = check_need(loader.measure(request))
            self._paged_bytes = need.paged_bytes
            self._activity.begin(Doing.WAITING)
            self._link.send(needs_frame(need, request.device, processes=len(request.ranks) or 1))
            self._reserved.wait()
            self._activity.begin(Doing.LOAD)
            fetch_desk(load.loader)
            given = loader.load(request, self._report)
            model: _Model = given if load.loader in OWN else check_model(given)
            self._activity.begin(Doing.PREPARE)
            self._desk = make_desk(model, load, self._link, self._activity, identity=identity)
        except BaseException as error:
            if not is_failure(error):
                raise
            _log.exception("loading %s failed", load.path)
            self._link.send(
                wire.WorkerFrame(load_failed=load_pb2.LoadFailed(failure=failure(self._load_error(error, backend))))
            )
            return None
        gc.collect()
        end_start()  # what a model brings never becomes garbage: do not look through it again
        loaded = self._desk.loaded()
        loaded.description = loaded.description or _describe(model.description)
        loaded.parameters = getattr(model.description, "parameters", 0)
        loaded.memory_bytes = resident_bytes(self._paged_bytes)
        loaded.peak_bytes = _peak_bytes()
        self._activity.begin(Doing.IDLE)
        self._link.send(wire.WorkerFrame(loaded=loaded))
        return model

    def _load_error(self, error: BaseException, backend: Backend | None) -> InferdError:
        """What a client is told, with what the sandbox may have to do with it."""
        told = _load_error(error, self._activity.doing, backend)
        if self._start.sandbox is not None and (words := refused_words(error)):
            told.message += words
            told.metadata["cause"] = told.metadata.get("cause", "") + words
        return told

    def _check_content(self, load: load_pb2.Load) -> None:
        """See that the model's files, and those that settings name, hold what they have to; tells how far that is.

        Raises:
            ModelLoadError: They hold something else, or cannot be read.
        """
        if load.content_digest and (found := self._digest_of(load.path)) != load.content_digest:
            cause = f"its files have the digest {found}, and {load.content_digest} is pinned"
            raise ModelLoadError(cause, metadata={"cause": cause, "found": found, "pinned": load.content_digest})
        for name, pinned in load.setting_digests.items():
            if (found := self._digest_of(path := load.settings[name].str_value)) != pinned:
                cause = f"what its setting {name} names has the digest {found}, and {name}{PIN} is {pinned}"
                fix = f"put the files there that have it or, if these are the right ones, set {name}{PIN}={found}"
                raise ModelLoadError(f"{cause}: {path}; {fix}", metadata={"cause": cause, "found": found})

    def _digest_of(self, path: str) -> str:
        try:
            return content_digest(Path(path), self._report)
        except OSError as error:
            raise ModelLoadError(
                f"its files cannot be read: {words_of(error)}", metadata={"cause": words_of(error)}
            ) from None
        finally:
            self._reported = -1.0  # what follows is another thing

    def _report(self, fraction: float) -> None:
        """Tell the kernel how far loading is, at most 20 times a second."""
        if fraction > self._reported:  # one that says the same again and again gets on with nothing
            self._reported = fraction
            self._activity.advance()
        now = time.monotonic()
        if fraction >= 1 or now - self._reported_at >= _PROGRESS_S:
            self._reported_at = now
            self._link.send(wire.WorkerFrame(load_progress=load_pb2.LoadProgress(fraction=fraction)))

    def _read(self) -> None:
        """The reading thread. The end of the link is the end of the process, whatever the main thread is doing."""
        with suppress(ConnectionError):
            for early in self._start.early:
                self._obey(*early)
            while (received := self._link.receive()) is not None:
                self._obey(*received)
                del received  # before the wait for the next one: it may hold large inputs
        os._exit(0)

    def _obey(self, frame: wire.KernelFrame, memories: Sequence[Memory]) -> None:
        match frame.WhichOneof("kind"):
            case "proceed":
                self._reserved.set()
            case "ping":
                pulse = self._activity.pulse(0) if self._desk is None else self._desk.engine.pulse()
                self._link.send(pong_frame(frame.ping.nonce, resident_bytes(self._paged_bytes), pulse))
            case "stop" if self._desk is not None:
                self._stop = frame.stop
                self._desk.engine.stop()
            case "stop":
                os._exit(0)  # nothing is loaded that would have to be closed
            case None:
                return  # of a later kernel, which does without an answer
            case kind if self._desk is None:
                raise ValueError(f"the kernel sent {kind} before the model was loaded")
            case _:
                self._direct(self._desk, frame, memories)

    def _direct(self, desk: Desk, frame: wire.KernelFrame, memories: Sequence[Memory]) -> None:  # noqa: C901 - a table: one row for each kind
        """Tell the engine what the kernel wants of it."""
        match frame.WhichOneof("kind"):
            case "submit":
                desk.submit(frame.submit, memories)
            case "query":
                desk.answer(frame.query)
            case "cancel":
                desk.cancel(frame.cancel)
            case "moderate":
                desk.moderate(frame.moderate.rules, frame.moderate.search_s)
            case "adapters" | "load_adapter" as kind:
                desk.adapt(getattr(frame, kind), memories)
            case "verdict":
                desk.hear(frame.verdict)
            case "reply":
                desk.take(frame.reply)
            case "hold":
                hold = frame.hold
                desk.engine.hold(hold.lease_id, hold.fencing_token, sequences=hold.sequences, kv_tokens=hold.kv_tokens)
            case "keep":
                desk.keep(frame.keep)
            case "adopt":
                desk.adopt(memories)
            case kind:
                raise ValueError(f"the kernel sent {kind}, which is no order")


def _die(args: threading.ExceptHookArgs) -> None:
    """A thread that fails takes the process with it: the kernel sees a dead worker, not one that never answers."""
    programs = sys.modules.get(PROGRAMS)  # it is there where a program is the model
    if args.exc_type is not SystemExit and not (programs is not None and programs.spares(args)):
        _log.critical("thread %s failed", args.thread and args.thread.name, exc_info=args.exc_value)
        os._exit(1)


ANY = "*"  # an architecture that is not known


def _load_error(error: BaseException, doing: Doing, backend: Backend | None) -> InferdError:
    if isinstance(error, ModelLoadError | SandboxIncompleteError):
        return error
    if isinstance(error, LoadError):
        others = {"unsupported": error.architecture or ANY} if isinstance(error, UnsupportedModelError) else {}
        return ModelLoadError(str(error), metadata={"cause": str(error), **others})
    foreign = doing in (Doing.IMPORT, Doing.MEASURE, Doing.LOAD)
    cause = placed_line(error, backend) if foreign else last_line(error)
    return ModelLoadError(f"{_FAILED[doing]} failed: {cause}", metadata={"cause": cause})


def _identify(request: LoadRequest, loader: str) -> Identity | None:
    """What the prefix cache is found again by; None where the files cannot be seen: whoever loads them says why."""
    try:
        return Identity(request, loader)
    except OSError:
        return None


def _describe(model: ModelDescription) -> str:
    size = f"{model.parameters / 1e6:.0f} M parameters"
    return f"{model.architecture}, {size}, weights {model.weight_format}, computed in {model.compute_format}"


def _peak_bytes() -> int:
    """Most resident memory of this process so far, and of its ranks, in bytes; see proc(5)."""
    return sum(_status_bytes(pid, "VmHWM:") for pid in (os.getpid(), *Ranks.beside()))


def resident_bytes(paged_bytes: int = 0) -> int:
    """Resident memory of this process, and of its ranks, in bytes; see proc(5).

    Without pages of files, up to `paged_bytes`: the system takes those back where memory is short.
    """
    own = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    if paged_bytes:
        own -= min(_status_bytes(os.getpid(), "RssFile:"), paged_bytes)
    return own + sum(_status_bytes(pid, "VmRSS:") for pid in Ranks.beside())


def _status_bytes(pid: int, name: str) -> int:
    with suppress(OSError):  # a rank has ended, which its watch tells
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1]) << 10
    return 0
