"""What stands around the parts of a kernel that has failpoints set; around those of others stands nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from inferd.core.changes import Change
from inferd.runtime.failpoints import CutError, transition

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from inferd.core.commands import Reply
    from inferd.core.events import Event
    from inferd.core.ids import InstanceId
    from inferd.runtime.driver import Driver
    from inferd.runtime.failpoints import Failpoints
    from inferd.runtime.launcher import Launcher, WorkerLink
    from inferd.runtime.link import Arrived, OnClosed, OnFrame
    from inferd.shared import Memory
    from inferd.store.store import Damaged, Kind, Name, Record, Store, Write
    from inferd_api.worker.v1 import worker_pb2 as wire


def failing_store(store: Store, points: Failpoints) -> Store:
    """A store that fails as it is set to; the same one where nothing is."""
    return FailingStore(store, points) if points else store


def make_fail(driver: Driver, points: Failpoints) -> None:
    """Let a driver's core and its links come by the failpoints that are set."""
    if not points:
        return
    handle = driver.machine.handle

    def failing(event: Event, now: float) -> tuple[Reply, ...]:
        said = handle(event, now)
        for each in said:
            if isinstance(each, Change):
                points.hit(transition(each))
        return said

    driver.machine.handle = failing  # type: ignore[method-assign] # so that it costs nothing where none is set
    launchers = driver.supervisor.launchers
    for host_id, launcher in launchers.items():
        launchers[host_id] = FailingLauncher(launcher, points)


class FailingStore:
    """As `Store`; around another one."""

    def __init__(self, store: Store, points: Failpoints) -> None:
        self._store = store
        self._points = points
        self.name, self.opened_schema, self.schema = store.name, store.opened_schema, store.schema
        self.keys, self.resealing = store.keys, store.resealing
        self.drop_tenant, self.drop_copies = store.drop_tenant, store.drop_copies
        self.check, self.compact, self.kept, self.copy = store.check, store.compact, store.kept, store.copy
        self.size_bytes, self.unix_time, self.close = store.size_bytes, store.unix_time, store.close
        self.lead, self.grip = store.lead, store.grip

    def write(self, writes: Iterable[Write]) -> None:
        """As `Store.write`; the store itself comes by the points of a commit."""
        self._points.hit("store.begin")
        self._store.write(writes)

    def records(self, kind: Kind, damaged: Damaged | None = None, *, unless: Kind | None = None) -> Iterator[Record]:
        """As `Store.records`."""
        self._points.hit("store.read")
        return self._store.records(kind, damaged, unless=unless)

    def some(self, kind: Kind, names: Sequence[Name], damaged: Damaged | None = None) -> Iterator[Record]:
        """As `Store.some`."""
        self._points.hit("store.read")
        return self._store.some(kind, names, damaged)

    def pieces(self, tenant: str, kind: Kind, key: str, *, after: int = -1) -> Iterator[bytes]:
        """As `Store.pieces`."""
        self._points.hit("store.read")
        return self._store.pieces(tenant, kind, key, after=after)


class FailingLauncher:
    """As `Launcher`; around another one."""

    def __init__(self, launcher: Launcher, points: Failpoints) -> None:
        self._launcher = launcher
        self._points = points
        self.log_of, self.silent_s, self.read_log = launcher.log_of, launcher.silent_s, launcher.read_log
        self.adopter = launcher.adopter

    async def launch(self, instance_id: InstanceId, *, on_frame: OnFrame, on_closed: OnClosed) -> WorkerLink:
        """As `Launcher.launch`."""
        link = FailingLink(self._points, on_frame, on_closed)
        link.link = await self._launcher.launch(instance_id, on_frame=link.receive, on_closed=link.close)
        return link


class FailingLink:
    """As `WorkerLink`; around another one, until it is cut."""

    link: WorkerLink

    def __init__(self, points: Failpoints, on_frame: OnFrame, on_closed: OnClosed) -> None:
        self._points = points
        self._on_frame = on_frame
        self._on_closed = on_closed
        self._open = True

    @property
    def pid(self) -> int:
        """As `WorkerLink.pid`."""
        return self.link.pid

    def send(self, frame: wire.KernelFrame, memories: Sequence[Memory] = ()) -> None:
        """As `WorkerLink.send`."""
        if self._passes(f"frame.sent.{frame.WhichOneof('kind')}"):
            self.link.send(frame, memories)

    def receive(self, frame: wire.WorkerFrame, memories: Arrived = (), /) -> None:
        """The worker has sent a frame."""
        if self._passes(f"frame.got.{frame.WhichOneof('kind')}"):
            self._on_frame(frame, memories)

    def _passes(self, name: str) -> bool:
        """Whether the link lives behind this point."""
        if self._open:
            try:
                self._points.hit(name)
            except CutError as error:
                self.close(str(error))
        return self._open

    def close(self, why: str, /) -> None:
        """No frame comes any more."""
        if self._open:
            self._open = False
            self._on_closed(why)

    async def resident_bytes(self) -> int:
        """As `WorkerLink.resident_bytes`."""
        return await self.link.resident_bytes()

    async def tail(self) -> str:
        """As `WorkerLink.tail`."""
        return await self.link.tail()

    async def end(self, *, went: bool, hangs: bool) -> str:
        """As `WorkerLink.end`."""
        return await self.link.end(went=went, hangs=hangs)
