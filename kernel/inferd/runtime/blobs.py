"""Blobs: bytes that clients leave with the kernel, or it keeps itself, by tenant and digest.

A blob has a row in the store and a file beside it. The row of one that grows is written before its file begins, that of
a whole one when its file has its own name on the disk; one that goes loses its row first. So whatever ends the kernel,
there is nothing, or what can be gone on with, or the whole blob; files without rows are swept. Who holds a blob is
not written down but found anew in what is kept: the counts cannot come to differ from that.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import structlog

from inferd.errors import BlobDamagedError, InvalidFieldError, StoreUnavailableError
from inferd.runtime.blob_backups import Wanted
from inferd.runtime.blob_book import BlobBook
from inferd.runtime.blob_bounds import check_room
from inferd.runtime.blob_entry import Entry, read_left, tried
from inferd.runtime.blob_memories import BlobMemories
from inferd.runtime.blob_removing import LOOK, Removing
from inferd.runtime.blob_sealing import FilesProgress, reseal_files, seal_files
from inferd.runtime.model_files import ModelFiles
from inferd.runtime.opened_files import OpenedFiles
from inferd.runtime.store_thread import StoreThread
from inferd.runtime.whole import Whole
from inferd.store.arrival import Arrival
from inferd.store.blob_files import PIECE_BYTES, SUM_BYTES, BlobFiles
from inferd.store.opening import unnoticed
from inferd.store.store import NO_TENANT, Append, DamagedError, Drop, Kind, Put

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
    from pathlib import Path

    from inferd.core.blob import Blob
    from inferd.core.index import Page
    from inferd.core.task_events import Elements
    from inferd.runtime.blob_bounds import BlobBounds
    from inferd.runtime.blob_entry import Rows
    from inferd.store.opening import AtPoint
    from inferd.store.store import Store, Write

GROUP = 1024  # digests of pieces of a file that one piece of its record has
STEP = 100  # blobs that are forgotten in one write
TOUCH_S = 3600.0  # how exactly is written when a blob was used

log = structlog.get_logger()


class Blobs:
    """Keeps blobs. One writer: the loop; files and rows are written on threads.

    Args:
        root: The folder in which the folders of stores are.
        rows: Where the rows are.
        bounds: How much may be kept, and for how long.
        at_point: Told where a write is, for tests.
        wall: The time.
        open_root: In which folder models are opened; None for beside the blobs.

    Attributes:
        memories: Parts of them that tasks have named.
        models: Models that are made of them.
        opened: The files of those, for who reads them.
        left: What goes on to its end, though its call has left.
    """

    def __init__(
        self,
        root: Path,
        rows: Rows,
        bounds: BlobBounds,
        *,
        at_point: AtPoint = unnoticed,
        wall: Callable[[], float] = time.time,
        open_root: Path | None = None,
    ) -> None:
        self._root, self._rows, self._bounds = root, rows, bounds
        self._at_point, self._wall = at_point, wall
        self._thread = StoreThread("blobs")
        self._open_root = open_root
        self._files = BlobFiles(root, at_point)
        self.left = Whole()
        self._removing = Removing(self._files, self._do, rows, self.left)
        self.opened = OpenedFiles(self._files, self._thread)
        self._book = BlobBook()
        self.staying = self._book.staying
        self._lacks = False  # a folder for the first blob
        self._names: set[str] = set()  # of files that stay
        self.memories = BlobMemories(self, bounds.inline_bytes)
        self.models = ModelFiles(self)

    async def read(self) -> None:
        """Find what the kernels before this one have left.

        Raises:
            StoreUnavailableError: The store cannot be read.
        """
        left = await self._rows(read_left)
        folder, keys = self._root / (left.folder or uuid.uuid4().hex), await self._rows(lambda store: store.keys)
        self._files, self._lacks = BlobFiles(folder, self._at_point, keys=keys, opened=self._open_root), True
        self._removing = Removing(self._files, self._do, self._rows, self.left)
        self.opened = OpenedFiles(self._files, self._thread)
        if not left.entries:
            try:
                await self._make()
            except StoreUnavailableError as error:  # as on a full disk: what is there is served
                log.warning("blobs cannot be kept now", why=error.message)
        self._lacks = self._lacks and not left.entries
        self._names |= {name for key in left.damaged for name in self._files.names(*key)}
        for entry in left.entries:
            self._add(entry)
        growing = [entry for entry in left.entries if not entry.whole]
        try:
            await seal_files(self._files, left.entries, self._do)
            sizes = await self._do(self._files.part_sizes, [entry.key for entry in growing])
        except StoreUnavailableError as error:  # the folder is away: others are served, and it may come back
            log.warning("blobs cannot be read or written now", why=error.message)
            return
        for entry, size_bytes in zip(growing, sizes, strict=True):
            entry.received_bytes = min(size_bytes or 0, entry.size_bytes)

    async def _make(self) -> None:
        """Have a folder, and the store know which.

        Raises:
            StoreUnavailableError: That cannot be now.
        """
        if self._lacks:
            await self._write([Put(NO_TENANT, Kind.FOLDER, "blobs", self._files.folder.name.encode())])
            await self._do(self._files.make)
            self._lacks = False

    async def _do(self, do: Callable[..., Any], *values: Any, **named: Any) -> Any:
        """Do something with the files, when what was to be done before is done."""
        return await asyncio.wrap_future(self._thread.submit(do, *values, **named))

    async def _write(self, writes: Sequence[Write]) -> None:
        await self._rows(lambda store: store.write(writes))

    def _add(self, entry: Entry) -> None:
        self._book.add(entry)
        self._names.update(self._files.names(*entry.key))

    def _forget(self, entry: Entry) -> None:
        self._book.forget(entry)
        self._names.difference_update(self._files.names(*entry.key))

    # Giving.

    @asynccontextmanager
    async def receiving(self, tenant: str, digest: str, size_bytes: int, *, own: bool = False) -> AsyncIterator[Entry]:
        """A blob that is given in the block, behind what has come of it; what came stays after the block, if anything.

        While another call gives it, this one waits for that. `own` is whether the kernel gives it itself.

        Raises:
            InvalidFieldError, LimitExceededError: As `BlobBook.take_up` and `check_room`.
            StoreUnavailableError: It cannot be kept now.
        """
        entry = self._book.entries.get((tenant, digest)) or self._announce(tenant, digest, size_bytes, own=own)
        if entry.own and not own:  # a client gives it, too: so it is that one's, as the next sweep writes
            entry.own, entry.written_use = False, 0.0
        self._book.take_up(entry, size_bytes, self._bounds)
        try:
            with entry.held("the call that gives it"):
                async with entry.lock:
                    await self._take_up(entry)
                    entry.used = self._wall()
                    yield entry
        finally:
            await self.left.do(self._drop_empty(entry))

    async def _drop_empty(self, entry: Entry) -> None:
        """Forget a blob that was announced and of which nothing has come: nobody else gives it now."""
        if entry.whole or entry.gone or entry.received_bytes or entry.holders:
            return
        late = entry.arrival is not None and await self._do(entry.arrival.received)  # left undone by its call
        if not late and not entry.holders and not entry.gone:
            await tried(lambda: self._remove([entry]))

    def _announce(self, tenant: str, digest: str, size_bytes: int, *, own: bool) -> Entry:
        check_room(self._bounds, size_bytes, self._book.held(tenant))
        now = self._wall()
        self._add(entry := Entry(tenant=tenant, digest=digest, size_bytes=size_bytes, created=now, used=now, own=own))
        return entry

    async def _take_up(self, entry: Entry) -> None:
        """Write the row of a new one; find what has come of another."""
        if entry.gone:
            raise entry.missing("was forgotten while it was given; give it again")
        if not entry.kept:
            try:
                await self._make()
                await self._write([entry.row(whole=False)])
            except BaseException:
                self._forget(entry)  # should the row be there, the next kernel finds it, and none of its bytes
                raise
            entry.kept = True
            self._at_point("announced")
        if entry.whole:
            return
        if entry.arrival is None or entry.arrival.gone:
            arrival = Arrival(self._files, *entry.key)
            while await self._do(arrival.take_up, entry.size_bytes):
                pass
            entry.arrival = arrival
        # Behind what a call has left undone that ended meanwhile.
        entry.received_bytes = await self._do(entry.arrival.received)

    async def add(self, entry: Entry, chunk: bytes) -> None:
        """The next bytes of a blob that is given have come.

        Raises:
            InvalidFieldError: They are more than were announced, or none.
            StoreUnavailableError: They cannot be written; those before are there.
        """
        if not chunk or entry.received_bytes + len(chunk) > entry.size_bytes or entry.arrival is None:
            raise InvalidFieldError(
                f"a chunk of {len(chunk)} bytes comes behind {entry.received_bytes} of the {entry.size_bytes} bytes"
                " that start.size_bytes states; send as many as it says, none of them empty",
                field="chunk",
            )
        await self._do(entry.arrival.add, chunk)
        entry.received_bytes = entry.arrival.received_bytes
        entry.used = self._wall()

    async def finish(self, entry: Entry) -> Blob:
        """All bytes have come: the blob is whole, and kept when this returns.

        Raises:
            InvalidFieldError: They have another digest; they are forgotten.
            StoreUnavailableError: It cannot be kept now; its bytes stay.
        """
        if entry.whole or (arrival := entry.arrival) is None:
            return entry.blob()
        if arrival.digest != entry.digest:
            await self._remove([entry])
            raise InvalidFieldError(
                f"the bytes that came have digest sha256:{arrival.digest} and start.digest is sha256:{entry.digest};"
                " they are forgotten: give them under their own digest",
                field="start.digest",
            )
        sums = await self._do(arrival.finish)
        entry.used = self._wall()
        groups = [b"".join(sums[at : at + GROUP]) for at in range(0, len(sums), GROUP)]
        pieces = [Append(entry.tenant, Kind.BLOB, entry.digest, number, each) for number, each in enumerate(groups)]
        await self._write([Drop(entry.tenant, Kind.UPLOAD, entry.digest), entry.row(whole=True), *pieces])
        self._book.became_whole(entry)
        self._at_point("kept")
        return entry.blob()

    async def put(self, tenant: str, digest: str, contents: Elements, holder: str) -> None:
        """Keep bytes of the kernel's own making, held from the start.

        Raises:
            InferdError: As `receiving`.
        """
        async with self.receiving(tenant, digest, contents.size_bytes, own=True) as entry:
            while not entry.complete:
                await self.add(entry, await self._do(contents.read, entry.received_bytes, PIECE_BYTES))
            await self.finish(entry)
            entry.hold(holder)

    # Reading.

    async def pieces(
        self, tenant: str, digest: str, *, start: int = 0, size_bytes: int | None = None
    ) -> AsyncGenerator[bytes]:
        """The bytes of a whole blob from there on, in pieces of which each was checked. Nobody forgets it meanwhile.

        Raises:
            BlobNotFoundError: There is none.
            InvalidFieldError: It ends before.
            BlobDamagedError: A byte is not what was written; none of its piece is told.
        """
        entry = self._book.whole(tenant, digest)
        end = entry.size_bytes if size_bytes is None else start + size_bytes
        if not 0 <= start <= end <= entry.size_bytes:
            raise InvalidFieldError(
                f"bytes {start} to {end} are asked for and the blob ends at {entry.size_bytes}", field="offset_bytes"
            )
        sums, group = b"", -1
        with entry.held("a call that reads it"):
            entry.used = self._wall()
            while start < end:
                number, skip = divmod(start, PIECE_BYTES)
                if number // GROUP != group:
                    group = number // GROUP
                    sums = await self._sums(entry, group)
                wanted = sums[number % GROUP * SUM_BYTES :][:SUM_BYTES]
                most = min(PIECE_BYTES, entry.size_bytes - number * PIECE_BYTES)
                data = await self._do(self._files.read_piece, tenant, digest, number, most, wanted)
                part = data[skip : skip + end - start]
                start += len(part)
                yield part

    async def _sums(self, entry: Entry, group: int) -> bytes:
        """The digests of some pieces."""

        def read(store: Store) -> bytes:
            return next(store.pieces(entry.tenant, Kind.BLOB, entry.digest, after=group - 1), b"")

        try:
            sums: bytes = await self._rows(read)
        except DamagedError as error:
            why, facts = error.message, {"digest": f"sha256:{entry.digest}", "cause": error.message}
            raise BlobDamagedError(f"blob sha256:{entry.digest} cannot be checked: {why}", metadata=facts) from None
        return sums

    def get(self, tenant: str, digest: str) -> Blob:
        """A blob, whole or not.

        Raises:
            BlobNotFoundError: The tenant has none.
        """
        return self._book.find(tenant, digest).blob()

    def whole(self) -> tuple[list[Wanted], BlobFiles]:
        """Those that are whole, and their files."""
        return [Wanted(e.tenant, e.digest, e.size_bytes) for e in self._book.entries.values() if e.whole], self._files

    def list(self, tenant: str, *, after: str | None, size: int) -> Page[Blob]:
        """The tenant's blobs by digest, behind the digest `after`."""
        return self._book.page(tenant, after=after, size=size)

    # Holding.

    def hold(self, tenant: str, digest: str, holder: str) -> Blob:
        """Let a blob stay until `let_go`, as often.

        Raises:
            BlobNotFoundError: There is none, or not all of it has come.
        """
        entry = self._book.whole(tenant, digest)
        entry.hold(holder)
        entry.used = self._wall()
        return entry.blob()

    def let_go(self, tenant: str, digest: str, holder: str) -> None:
        """Someone holds a blob no longer; nothing where there is none."""
        if (entry := self._book.entries.get((tenant, digest))) is not None:
            entry.let_go(holder)
            entry.used = self._wall()

    # Going.

    async def remove(self, tenant: str, digest: str) -> None:
        """Forget a blob.

        Raises:
            BlobNotFoundError: There is none.
            BlobHeldError: Someone holds it.
            StoreUnavailableError: It cannot be forgotten now.
        """
        entry = self._book.find(tenant, digest)
        entry.check_free()
        await self.left.do(self._remove([entry]))  # all of it, though its call ends

    async def _remove(self, entries: Sequence[Entry]) -> None:
        """Rows first, then files: what is left without a row is swept."""
        for entry in entries:
            self._forget(entry)
        try:
            await self._write([Drop(e.tenant, kind, e.digest) for e in entries for kind in (Kind.UPLOAD, Kind.BLOB)])
        except BaseException:
            for entry in entries:
                if entry.key not in self._book.entries:
                    entry.gone = False
                    self._add(entry)
            raise
        self._at_point("dropped")
        known = self._book.entries  # as it is then: others are given anew by now
        await self._removing.remove(lambda: self._files.each_of([e.key for e in entries if e.key not in known]))
        self._at_point("removed")

    async def reseal(self, progress: FilesProgress) -> set[str]:
        """Seal anew what older keys have sealed; the tenants of blobs that cannot be. Raises as `reseal_files`."""
        entries, check = [*self._book.entries.values()], self._removing.check
        return await reseal_files(self._files, entries, self._do, progress, names=self._names, check=check)

    async def shred(self, tenant: str) -> int:
        """The rows and keys of a tenant are dropped: its files go, whoever holds them. How many blobs there were."""
        for entry in (gone := self._book.of(tenant)):
            self._forget(entry)
        await self._removing.remove_tenant(tenant, self._names)
        return len(gone)

    async def run(self) -> None:
        """Sweep, now and from time to time, until this is cancelled."""
        await tried(self._sweep_files)
        await tried(self._sweep_rows)
        while True:
            await asyncio.sleep(self._bounds.sweep_s)
            await tried(self.sweep)

    async def sweep(self) -> None:
        """Forget what was not used for long, and is not held; write when others were used."""
        entries, now, bounds = list(self._book.entries.values()), self._wall(), self._bounds
        for at in range(0, len(entries), LOOK):
            some = [entry for entry in entries[at : at + LOOK] if not entry.gone]
            old = [e for e in some if e.own or now - e.used > (bounds.retention_s if e.whole else bounds.upload_s)]
            await self._remove_free(old)
            await self._give_room([e for e in some if not e.whole and now - e.used > bounds.room_s])
            used = [e for e in some if e.kept and not e.gone and e.used - e.written_use > TOUCH_S]
            if used:
                await self._write([entry.row(whole=entry.whole) for entry in used])
            await asyncio.sleep(0)

    async def _give_room(self, entries: Sequence[Entry]) -> None:
        """Keep no room for what does not come."""
        waiting = [e for e in entries if e.room_bytes == e.size_bytes and not e.holders and not e.gone]
        sizes = await self._do(self._files.part_sizes, [entry.key for entry in waiting])
        for entry, size_bytes in zip(waiting, sizes, strict=True):
            if not entry.holders and not entry.gone:  # nor since the look
                self._book.keep_room(entry, min(size_bytes or 0, entry.size_bytes))

    async def _remove_free(self, entries: Sequence[Entry]) -> None:
        for at in range(0, len(entries), STEP):
            if free := [entry for entry in entries[at : at + STEP] if not entry.holders and not entry.gone]:
                await self._remove(free)

    async def _sweep_files(self) -> None:
        """Remove the files that belong to no row, and folders of models that nobody has."""
        await self._do(self._files.models.sweep, self.opened.names)
        await self._removing.sweep(self._names)

    async def _sweep_rows(self) -> None:
        """Forget the blobs whose files are gone, but those that are held."""
        entries = [entry for entry in self._book.entries.values() if entry.whole]
        for at in range(0, len(entries), LOOK):
            some = entries[at : at + LOOK]
            paths = [self._files.path(*entry.key) for entry in some]
            there = set(await self._do(self._files.find_again, paths))
            lost = [entry for entry, path in zip(some, paths, strict=True) if path not in there]
            for entry in lost:
                log.error("the file of a blob is missing", digest=entry.digest, tenant=entry.tenant)
            await self._remove_free(lost)

    def close(self) -> None:
        """Read and write no more files."""
        self._thread.submit(self._files.models.close)
        self._thread.shutdown()
