"""Workers on the kernel's own host: child processes, each with a socketpair and a log file."""

import asyncio
import hashlib
import os
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

import psutil
import structlog

from inferd.core.host import LOCAL_HOST
from inferd.core.ids import InstanceId
from inferd.plugin.child import abort, worker_environment
from inferd.runtime.launcher import Adopter, NoLauncher, no_log
from inferd.runtime.link import LocalLink, OnClosed, OnFrame
from inferd.runtime.memory_group import MemoryGroup, TaskGroup, sweep
from inferd.runtime.sandboxing import UNBOUNDED, GroupBounds
from inferd.runtime.scratch import VARIABLE, Watched, make_scratch, remove_scratch, sweep_scratch
from inferd.runtime.worker_log import last_words, new_log, read_part
from inferd.shared import Memory, can_share
from inferd_api.worker.v1 import worker_pb2 as wire

LONGEST_LOG_NAME = 150  # characters; a file's name has at most 255 bytes
LOOK_S = 1.0  # between two looks at what a worker has written
LOOK_REST = 20.0  # times as long as a look took, at least
ORDERLY_EXIT_S = 0.5  # how long a worker that closed its link may take to go by itself
GUESS = ", perhaps because memory ran out (this kernel may make no control groups, which would tell)"

log = structlog.get_logger()


class LocalLauncher:
    """Starts workers with `exec`.

    Args:
        log_dir: Where their logs are.
        frame_limit_bytes: The largest frame.
        bounds: Of their control groups, where this kernel may make some.
    """

    def __init__(self, log_dir: Path, *, frame_limit_bytes: int, bounds: GroupBounds = UNBOUNDED) -> None:
        self._log_dir = log_dir
        self._bounds = bounds
        self._frame_limit_bytes = frame_limit_bytes
        log_dir.mkdir(parents=True, exist_ok=True)
        sweep()
        sweep_scratch(log_dir)
        if not can_share():
            log.warning("this system gives no shared memory: tensors go through frames, and there are no uploads")

    def log_of(self, instance_id: InstanceId) -> str:
        """The path of the log of an instance's worker."""
        return str(self._log_dir / log_name(instance_id))

    def silent_s(self) -> float | None:
        """It is this host."""
        return None

    async def read_log(self, instance_id: InstanceId, offset_bytes: int, most_bytes: int) -> tuple[bytes, int]:
        """A part of the log of an instance's worker, and how large that is now; the last ones of this kernel are kept.

        Raises:
            InvalidFieldError: There is none.
        """
        try:
            return await asyncio.to_thread(read_part, Path(self.log_of(instance_id)), offset_bytes, most_bytes)
        except OSError as error:
            raise no_log(instance_id, error.strerror or "it is not there") from None

    def adopter(self, held_id: int) -> Adopter:
        """Of a kernel's own workers none outlives it."""
        return NoLauncher(LOCAL_HOST).adopter(held_id)

    async def launch(
        self,
        instance_id: InstanceId,
        *,
        on_frame: OnFrame,
        on_closed: OnClosed,
    ) -> "LocalWorker":
        """Start a worker.

        Raises:
            OSError: It could not be started, or its log not be written.
        """
        log_path = Path(self.log_of(instance_id))
        scratch = await asyncio.to_thread(make_scratch, self._log_dir)
        try:
            process, ours = await self._exec(log_path, scratch)
        except BaseException:  # cancelled, too
            remove_scratch(scratch)
            raise
        worker = LocalWorker(
            process, Watched(scratch, log_path, self._bounds.scratch_bytes, self._bounds.scratch_files)
        )
        try:
            await worker.enter(*await asyncio.to_thread(_make_groups, log_path.stem, self._bounds))
            worker.link = await LocalLink.connect(
                ours, frame_limit_bytes=self._frame_limit_bytes, on_frame=on_frame, on_closed=on_closed
            )
        except BaseException:  # cancelled, too
            ours.close()
            await worker.end(went=False, hangs=False)
            raise
        return worker

    async def _exec(self, log_path: Path, scratch: Path) -> tuple[asyncio.subprocess.Process, socket.socket]:
        """The process, and our end of the link."""
        ours, theirs = socket.socketpair()
        try:
            with await new_log(log_path) as log:
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-P", "-m", "inferd.worker", "--fd", str(theirs.fileno())),
                    *("--parent", str(os.getpid()), "--frame-bytes", str(self._frame_limit_bytes)),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=(theirs.fileno(),),
                    env=worker_environment(self._bounds.variables) | {VARIABLE: str(scratch)},
                    start_new_session=True,
                )
        except BaseException:  # cancelled, too
            ours.close()
            raise
        finally:
            theirs.close()
        return process, ours


class LocalWorker:
    """A child process and its link. One user: its `Worker`.

    Attributes:
        link: The kernel's end of it; None before it is connected.
    """

    def __init__(self, process: asyncio.subprocess.Process, written: Watched) -> None:
        self.link: LocalLink | None = None
        self._process = process
        self._log_path = written.log
        self._written = written
        self._excess = ""  # why it was ended for what it has written
        self._looking = asyncio.create_task(self._look()) if written.most_bytes else None
        self._group: MemoryGroup | None = None
        self._tasks: TaskGroup | None = None

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    async def enter(self, group: MemoryGroup | None, tasks: TaskGroup | None) -> None:
        """Have it in control groups of its own, before it takes memory or starts threads; None where there are none."""
        self._group, self._tasks = group, tasks
        for each in (group, tasks):
            if each is not None:
                await asyncio.to_thread(each.add, self.pid)

    async def _look(self) -> None:
        """End it when it has written more than it may."""
        loop = asyncio.get_running_loop()
        while not self._excess:
            began = loop.time()
            self._excess = await asyncio.to_thread(self._written.excess)
            await asyncio.sleep(0 if self._excess else max(LOOK_S, LOOK_REST * (loop.time() - began)))
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)

    def send(self, frame: wire.KernelFrame, memories: Sequence[Memory] = ()) -> None:
        """Send a frame and the memories that it speaks of; lost when the worker is gone."""
        if self.link is not None:
            self.link.send(frame, memories)

    async def resident_bytes(self) -> int:
        """Its resident memory; 0 when it is gone."""
        return await asyncio.to_thread(_resident_bytes, self.pid)

    async def tail(self) -> str:
        """What its log says last, as a clause; "" when it says nothing."""
        return await asyncio.to_thread(last_words, self._log_path)

    async def end(self, *, went: bool, hangs: bool) -> str:
        """Have nothing left of it or its children; how it ended, "" when that was in order."""
        process = self._process
        try:
            with suppress(TimeoutError):
                if went:
                    async with asyncio.timeout(ORDERLY_EXIT_S):
                        await process.wait()
                elif hangs:
                    await abort(process)
        finally:  # cancelled meanwhile, too
            by_itself = process.returncode is not None
            if self._looking is not None:
                self._looking.cancel()
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # the whole group, so that nothing it started holds memory
            await process.wait()
            if self.link is not None:
                self.link.close()
            group, self._group = self._group, None
            tasks, self._tasks = self._tasks, None
            memory = await asyncio.to_thread(_close, group, tasks, self._written.folder)
        if self._excess:
            return self._excess
        guess = GUESS if by_itself and group is None and process.returncode == -signal.SIGKILL else ""
        return f"{_ending(process.returncode or 0)}{memory or guess}"


def _resident_bytes(pid: int) -> int:
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


def _make_groups(name: str, bounds: GroupBounds) -> tuple[MemoryGroup | None, TaskGroup | None]:
    memory = MemoryGroup.make(name, most_bytes=bounds.memory_bytes)
    return memory, TaskGroup.make(name, most=bounds.threads) if bounds.threads else None


def _close(group: MemoryGroup | None, tasks: TaskGroup | None, scratch: Path) -> str:
    """Leave nothing of what it had; what its group of memory counted, as a clause. Failures are logged, not raised."""
    count = 0
    try:
        count = 0 if group is None else group.ended_for_memory()
        for each in (group, tasks):
            if each is not None:
                each.remove()
        remove_scratch(scratch)
    except Exception:  # a worker's remains end no kernel, whatever they are
        log.exception("something of a worker stays", scratch=str(scratch))
    return f": memory ran out, and the system ended {count} of its processes" if count else ""


def _ending(returncode: int) -> str:
    if returncode == -signal.SIGXCPU:
        return "it took more processor time to look at the model's file than workers.look_cpu_s allows (SIGXCPU)"
    if returncode < 0:
        return f"it was ended by signal {-returncode} ({signal.Signals(-returncode).name})"
    return f"it exited with status {returncode}" if returncode else ""


def log_name(instance_id: InstanceId, *, pid: int = 0) -> str:
    """The name of the log of an instance's worker: readable, of this process or `pid`, and short enough for a file."""
    name = quote(instance_id, safe="")
    if len(name) > LONGEST_LOG_NAME:  # a name may be all slashes, each of which takes three letters
        name = f"{name[:LONGEST_LOG_NAME]}-{hashlib.sha256(instance_id.encode()).hexdigest()[:16]}"
    return f"{pid or os.getpid()}-{name}.log"
