"""The prefix cache beyond the life of its session: written to a memory at the end of one, read by the next."""

from __future__ import annotations

import logging
import struct
import time
import zlib
from typing import TYPE_CHECKING, Final, NamedTuple

from inferd.core.vigil import Doing
from inferd.engine.cause import last_line
from inferd.errors import is_failure
from inferd.plugin import KeepingSession
from inferd.shared import Memory, MemoryRefusedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from inferd.engine.activity import Activity
    from inferd.engine.token.blocks import BlockPool
    from inferd.engine.token.places import Places
    from inferd.plugin import TokenSession

MAGIC: Final = b"inferdKV"
KEY_BYTES: Final = 32
HEADER: Final = struct.Struct(f"<8s{KEY_BYTES}sQ16x")  # the key, and how many blocks follow
RECORD: Final = struct.Struct("<32sI?27x")  # a digest, a CRC-32 of the block behind it, whether it is one of a window
BESIDE_BYTES: Final = 64 << 20
"""Of blocks that are read between two steps, while tasks run: some tens of milliseconds."""

_log = logging.getLogger(__name__)


class Kept(NamedTuple):
    """What became of a prefix cache.

    Attributes:
        tokens: So many are kept, or were found again.
        memory: Where, sealed; None where nothing is kept, or where it was read.
        why_not: Why not all; "" where nothing is lacking.
    """

    tokens: int = 0
    memory: Memory | None = None
    why_not: str = ""


class _Record(NamedTuple):
    digest: bytes
    checksum: int
    windowed: bool
    start: int


class Keeping:
    """Takes what can be found in the KV blocks out of a session that ends, and into one that begins.

    Blocks keep their digests, which begin with the salt of whoever may find them: what a tenant could not find before
    it cannot find afterwards. Nothing is trusted that was read: blocks of another key are not looked at, and a block
    that is not what was written is left out with all that is behind it.

    One writer: the thread of the steps, between two of them.

    Args:
        session: Of the model.
        places: Where blocks are found.
        activity: Told when blocks are copied.
    """

    def __init__(self, session: TokenSession, places: Places, activity: Activity) -> None:
        self._session = session if isinstance(session, KeepingSession) else None
        self._blocks = session.limits.blocks
        self._places = places
        self._activity = activity
        self._coming: list[_Record] = []  # what is to be read from the end on: what is used last is to go last
        self._memory: Memory | None = None  # where it is
        self._found_tokens = 0
        self._told: Callable[[Kept], None] | None = None

    @property
    def pending(self) -> bool:
        """Whether blocks are to be read."""
        return bool(self._coming)

    def export(self, key: bytes, *, most_bytes: int, most_s: float) -> Kept:
        """Write what can be found to a memory, what was used last first.

        Args:
            key: What the blocks are of: 32 bytes.
            most_bytes: Of the memory.
            most_s: How long that may take.
        """
        if self._session is None:
            return Kept(why_not="the backend gives no KV blocks out of its sessions")
        self._activity.begin(Doing.COPY)
        try:
            return self._export(self._session, key, most_bytes, time.monotonic() + most_s)
        except BaseException as error:
            if not is_failure(error):
                raise
            _log.exception("the prefix cache could not be kept")
            return Kept(why_not=f"it could not be written: {last_line(error)}")
        finally:
            self._activity.begin(Doing.SCHEDULE)

    def take_in(self, memory: Memory, key: bytes, told: Callable[[Kept], None]) -> None:
        """Have the blocks read that a memory has of this key, by `read`.

        Args:
            memory: Sealed.
            key: What the blocks must be of.
            told: Called once, with what was found again.
        """
        if self._memory is not None:
            told(Kept(why_not="another one is still being read"))
            return
        try:
            records = [] if self._session is None else self._list(self._session, memory, key)
        except (MemoryRefusedError, ValueError, struct.error) as error:
            told(Kept(why_not=str(error)))
            return
        if not records:
            told(Kept(why_not="all of it is there already, or no block is free"))
            return
        self._coming, self._memory, self._told, self._found_tokens = records, memory, told, 0

    def read(self) -> None:
        """Read blocks that are to be read: all, or some where tasks run."""
        if self._session is None or self._memory is None:
            return
        why_not, left = "", BESIDE_BYTES if self._places.rows else self._memory.size_bytes
        self._activity.begin(Doing.COPY, len(self._coming))
        try:
            while self._coming and left > 0:
                left -= self._read_block(self._session, self._memory, self._coming.pop())
                self._activity.advance()
        except BaseException as error:
            if not is_failure(error):
                raise
            _log.exception("the prefix cache could not be taken in")
            why_not, self._coming = f"it could not be read: {last_line(error)}", []
        self._activity.begin(Doing.SCHEDULE)
        if not self._coming and self._told is not None:
            self._told(Kept(tokens=self._found_tokens, why_not=why_not))
            self._memory = self._told = None

    def _export(self, session: KeepingSession, key: bytes, most_bytes: int, until: float) -> Kept:
        places, layout = self._places, session.kv_layout
        found = places.pool.findable()
        if not found:
            return Kept(why_not="nothing could be found in it")
        windows = {} if places.windows is None else {digest: at for at, digest in places.windows.pool.findable()}
        each = RECORD.size + layout.block_bytes + (RECORD.size + layout.window_block_bytes if windows else 0)
        if HEADER.size + each > most_bytes:
            return Kept(why_not=f"a block takes {each} bytes, and {most_bytes} may be kept")
        memory = Memory.make(min(most_bytes, HEADER.size + each * len(found)))
        end, blocks, count, why_not = HEADER.size, 0, 0, ""
        for block, digest in found:
            if end + each > memory.size_bytes or time.monotonic() > until:
                late = time.monotonic() > until
                why_not = f"{len(found) - blocks} of {len(found)} blocks are " + ("too late" if late else "too much")
                break
            numbers = [(block, False)] + ([(self._blocks + windows[digest], True)] if digest in windows else [])
            for number, windowed in numbers:
                data = session.export_block(number)
                if len(data) != (layout.window_block_bytes if windowed else layout.block_bytes):
                    raise ValueError(f"export_block gave {len(data)} bytes for block {number} of {layout}")
                memory.write(end, RECORD.pack(digest, zlib.crc32(data), windowed))
                memory.write(end + RECORD.size, data)
                end += RECORD.size + len(data)
                count += 1
            blocks += 1
        memory.write(0, HEADER.pack(MAGIC, key, count))
        memory.shorten(end)
        memory.seal()
        return Kept(blocks * places.pool.block_tokens, memory, why_not)

    def _list(self, session: KeepingSession, memory: Memory, key: bytes) -> list[_Record]:
        """What is to be read of a memory: as much as there are blocks in which nothing is found."""
        magic, kept_key, count = HEADER.unpack(memory.read(0, HEADER.size))
        if magic != MAGIC:
            raise ValueError("it is no prefix cache")
        if kept_key != key:
            raise ValueError("it is of another model, or of one that was loaded with other settings")
        left = {False: self._places.pool.unused}
        if self._places.windows is not None:
            left[True] = self._places.windows.pool.unused
        records = []
        for record in _walk(session, memory, count):
            if left.get(record.windowed, 0) > 0 and not self._pool(record.windowed).find((record.digest,)):
                left[record.windowed] -= 1
                records.append(record)
        return records

    def _read_block(self, session: KeepingSession, memory: Memory, record: _Record) -> int:
        """Read a block, if there is still one for it; how many bytes it had."""
        pool = self._pool(record.windowed)
        layout = session.kv_layout
        size_bytes = layout.window_block_bytes if record.windowed else layout.block_bytes
        if not pool.unused or pool.find((record.digest,)):
            return 0
        data = memory.read(record.start, size_bytes)
        if zlib.crc32(data) != record.checksum:
            raise ValueError("a block is damaged")
        block = pool.take()
        try:
            session.import_block(block + (self._blocks if record.windowed else 0), data)
            pool.publish(block, record.digest)
            self._found_tokens += 0 if record.windowed else pool.block_tokens
        finally:
            pool.release([block])
        return size_bytes

    def _pool(self, windowed: bool) -> BlockPool:  # noqa: FBT001 - a field of a record
        windows = self._places.windows
        return windows.pool if windowed and windows is not None else self._places.pool


def _walk(session: KeepingSession, memory: Memory, count: int) -> Iterator[_Record]:
    layout, at = session.kv_layout, HEADER.size
    for _ in range(count):
        digest, checksum, windowed = RECORD.unpack(memory.read(at, RECORD.size))
        at += RECORD.size
        yield _Record(digest, checksum, windowed, at)
        at += layout.window_block_bytes if windowed else layout.block_bytes
        memory.check(at, 0)
