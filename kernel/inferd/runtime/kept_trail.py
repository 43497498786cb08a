"""The audit trail as it is kept: in segments, each a record whose pieces are blocks of lines.

A segment begins with a checkpoint, so that the oldest can go. Another record says where the trail stands.
"""

from __future__ import annotations

import hmac
import json
from bisect import bisect_right
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import structlog

from inferd.core.audit import Chain, Checkpoint, NoLineError, Said, read_line, text, time_of
from inferd.runtime.audit_key import put_file
from inferd.runtime.kept_records import UNREADABLE
from inferd.store.store import NO_TENANT, Append, DamagedError, Drop, Kind, Put

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from inferd.store.store import Damaged, Record, Write

HEAD = "head"  # the key of the record that says where the trail stands
DIGITS = 20  # of the number of a segment's first line, which is its key
PARTS = 64  # at least, the oldest of which goes at once
PART_BYTES = 4 << 20
HEAD_MODE = 0o600
FOLLOWED = "followed"
"""What a kernel says of a trail that another one has signed, which shares its secrets: all is as it should be."""

log = structlog.get_logger()


class Shelf(Protocol):
    """Where a trail is kept: a store, or the memory of a kernel without one."""

    def write(self, writes: Iterable[Write]) -> None:
        """As `Store.write`."""

    def records(self, kind: Kind, damaged: Damaged | None = None) -> Iterator[Record]:
        """As `Store.records`."""

    def pieces(self, tenant: str, kind: Kind, key: str, *, after: int = -1) -> Iterator[bytes]:
        """As `Store.pieces`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrailBounds:
    """How much of a trail is kept.

    Attributes:
        every: Lines between two checkpoints.
        checkpoint_s: The longest time until a line is signed.
        retention_s: How long lines are kept.
        size_bytes: How much of them.
    """

    every: int
    checkpoint_s: float
    retention_s: float
    size_bytes: int


@dataclass(slots=True, eq=False)
class Segment:
    """A part of the trail. One writer: `TrailWriter`.

    Attributes:
        first: The number of its first line.
        size_bytes: What its lines take.
        began, ended: Unix times; it goes on as long as the second one is 0.
    """

    first: int
    size_bytes: int = 0
    began: float = 0.0
    ended: float = 0.0

    @property
    def key(self) -> str:
        """Of its record."""
        return f"{self.first:0{DIGITS}d}"

    def put(self) -> Put:
        """Its record."""
        said = {"bytes": self.size_bytes, "began": self.began, "ended": self.ended}
        return Put(NO_TENANT, Kind.AUDIT, self.key, json.dumps(said).encode())


class Place(NamedTuple):
    """Where a line stands: the number of its segment's first line, and how many stand before it there."""

    segment: int
    line: int


class TrailWriter:
    """Makes lines of entries, and what is to be written of them. One writer at a time: the thread of the store.

    Args:
        bounds: How much is kept.
        public: The public half of the key.
        sign: Signs with it.
        wall: Unix time.
        steady: Seconds that only rise.
        anchor: A file, apart from the store, that has the last checkpoint; None for none.
        kin: A secret that kernels of one store share, and who has the store alone does not know; b"" for none. By it a
            kernel knows the last checkpoint of another one, which signs by a key of its own, and vouches for its own.

    Attributes:
        chain: Where the trail stands.
        segments: Those that are kept; to be read.
        checkpoint: The last one, as a line; "" before the first.
    """

    def __init__(
        self,
        bounds: TrailBounds,
        *,
        public: str,
        sign: Callable[[bytes], bytes],
        wall: Callable[[], float],
        steady: Callable[[], float],
        anchor: Path | None = None,
        kin: bytes = b"",
    ) -> None:
        self._kin = kin
        self._bounds = bounds
        self._public = public
        self._sign = sign
        self._wall = wall
        self._steady = steady
        self._anchor = anchor
        self.chain = Chain()
        self.segments: list[Segment] = []
        self.checkpoint = ""
        self._behind = 0  # lines behind the last checkpoint
        self._behind_since = 0.0
        self._apart = ""
        self._part_bytes = min(PART_BYTES, bounds.size_bytes // PARTS)
        self._block: list[str] = []
        self._writes: list[Write] = []

    @property
    def first(self) -> int:
        """The number of the oldest line that is kept; 0 for none."""
        return self.segments[0].first if self.segments else 0

    def due_s(self) -> float | None:
        """In how many seconds a checkpoint is due; None where none is."""
        return max(0.0, self._behind_since + self._bounds.checkpoint_s - self._steady()) if self._behind else None

    def write(self, entries: Sequence[Said], *, seal: bool = False) -> list[Write]:
        """What is to be written, so that these are kept; a checkpoint stands last where one is due, or to `seal`."""
        self._writes = []
        for said in entries:
            if not self.segments or self._behind >= self._bounds.every or self._is_full():
                self._add_checkpoint()
            if not self._behind:
                self._behind_since = self._steady()
            self._add(self.chain.add(said))
            self._behind += 1
        if self._behind and (seal or self.due_s() == 0.0):
            self._add_checkpoint()
        if not self._block and not self._writes:
            return []
        self._close_block()
        self._writes.append(self._head())
        return self._writes

    def _add(self, line: str) -> None:
        self._block.append(line)
        self.segments[-1].size_bytes += len(line) + 1

    def _add_checkpoint(self) -> None:
        now = self._wall()
        if not self.segments or self._is_full() or self._is_old(now):
            self._close_block()
            if self.segments:
                self.segments[-1].ended = now
                self._writes.append(self.segments[-1].put())
            self.segments.append(Segment(self.chain.count + 1, began=now))
            self._writes.append(self.segments[-1].put())
        cut = self._cut(now)
        checkpoint = Checkpoint(
            time=time_of(now), first=self.first, every=self._bounds.every, key=self._public, cut=cut
        )
        self.checkpoint = self.chain.add_checkpoint(checkpoint, self._sign)
        self._add(self.checkpoint)
        self._behind = 0

    def _is_full(self) -> bool:
        return self.segments[-1].size_bytes >= self._part_bytes

    def _is_old(self, now: float) -> bool:
        return now - self.segments[-1].began >= self._bounds.retention_s / PARTS

    def _cut(self, now: float) -> Said:
        """Let the oldest go; what the checkpoint that is made next says of that."""
        bounds, first, oldest = self._bounds, self.first, None
        size_bytes = sum(segment.size_bytes for segment in self.segments)
        setting: Said = {}
        while len(self.segments) > 1:
            if size_bytes > bounds.size_bytes:
                setting = {"audit.bytes": bounds.size_bytes}
            elif self.segments[0].ended < now - bounds.retention_s:
                setting = {"audit.retention_s": f"{bounds.retention_s:g}"}
            else:
                break
            oldest = self.segments.pop(0)
            size_bytes -= oldest.size_bytes
            self._writes.append(Drop(NO_TENANT, Kind.AUDIT, oldest.key))
        if oldest is None:
            return {}
        log.info("the oldest part of the audit trail was cut", first=first, last=self.first - 1, by=setting)
        return {"first": first, "last": self.first - 1, "ended": time_of(oldest.ended), "by": setting}

    def _close_block(self) -> None:
        if self._block:
            number = self.chain.count - len(self._block) + 1
            value = "\n".join(self._block).encode()
            self._writes.append(Append(NO_TENANT, Kind.AUDIT, self.segments[-1].key, number, value))
            self._block = []

    def _head(self) -> Put:
        said = {
            "count": self.chain.count,
            "hash": self.chain.hash.hex(),
            "bytes": self.segments[-1].size_bytes,
            "behind": self._behind,
            "checkpoint": self.checkpoint,
            "vouched": self._vouch(),
        }
        return Put(NO_TENANT, Kind.AUDIT, HEAD, json.dumps(said).encode())

    def _vouch(self) -> str:
        """What shows who shares `kin` that the last checkpoint is of one of them; "" without it."""
        return hmac.digest(self._kin, self.checkpoint.encode(), "sha256").hex() if self._kin else ""

    @property
    def is_apart(self) -> bool:
        """Whether the file apart from the store has the last checkpoint."""
        return self._anchor is None or self._apart == self.checkpoint

    def keep_apart(self) -> None:
        """What was written is kept: the file apart from the store has the last checkpoint, if it can be written."""
        if self._anchor is None or self.is_apart:
            return
        self._apart = self.checkpoint
        try:
            put_file(self._anchor, self.checkpoint.encode() + b"\n", mode=HEAD_MODE)
        except OSError as error:
            log.warning("the last checkpoint of the audit trail has no copy apart", why=error.strerror)

    # What was kept.

    def adopt(self, shelf: Shelf) -> list[Said]:
        """Go on with the trail of a kernel before this one. What is to be said of it, should it not be as it was.

        Or should that have been another kernel of this store, with a key of its own: "followed".
        """
        wrong: list[Said] = []
        head, self.segments, damaged = read_parts(shelf)
        if damaged:
            wrong.append({"event": "damaged", "what": damaged})
        if head is not None:
            self.chain = Chain(int(head["count"]), bytes.fromhex(head["hash"]))
            self.checkpoint, self._behind = str(head["checkpoint"]), int(head["behind"])
            if self.segments:
                self.segments[-1].size_bytes = int(head["bytes"])
        elif self.segments:
            self._find_end(shelf)
            wrong.append({"event": "damaged", "what": ["where the trail stood is not kept"]})
        if self._behind:
            self._behind = self._bounds.every  # what a kernel that was killed has left is signed first
        vouched = "" if head is None else str(head.get("vouched", ""))
        wrong += self._look_apart(
            is_kin=bool(vouched) and hmac.compare_digest(vouched.encode(), self._vouch().encode())
        )
        if head is None and wrong and self.segments:
            self.segments[-1].ended = self._wall()
            self.segments[-1].size_bytes = max(self.segments[-1].size_bytes, self._part_bytes)
        return wrong

    def _look_apart(self, *, is_kin: bool) -> Iterator[Said]:
        """What the file apart from the store, and the key, say of the trail; `is_kin`: of whom it is is known."""
        last = None
        with suppress(NoLineError):
            last = read_line(self.checkpoint)
        seen, before = self._read_anchor(), "" if last is None else text(last.said, "key")
        follows = is_kin and before != self._public
        if seen is not None and seen.sequence > self.chain.count:
            yield {"event": "put back", "lines": seen.sequence, "last": seen.hash.hex()}
        elif seen is None and not follows and self._anchor is not None and last is not None and last.sequence > 1:
            yield {"event": "no checkpoint apart", "what": [self._anchor.name], "last": last.sequence}
        if last is not None and before != self._public:
            yield {"event": FOLLOWED if follows else "key changed", "before": before, "key": self._public}

    def _find_end(self, shelf: Shelf) -> None:
        """Where the last segment ends, as far as it can be read."""
        segment = self.segments[-1]
        self.chain = Chain(segment.first - 1)
        with suppress(DamagedError, NoLineError, ValueError):
            for line in lines_of(shelf, segment):
                found = read_line(line)
                self.chain = Chain(found.sequence, found.hash)

    def _read_anchor(self) -> Any:
        if self._anchor is None:
            return None
        try:
            return read_line(self._anchor.read_text(encoding="ascii"))
        except (OSError, ValueError):
            return None


def read_parts(shelf: Shelf) -> tuple[dict[str, Any] | None, list[Segment], list[str]]:
    """Where a trail stood, its segments, and which records of both are damaged."""
    head, segments, damaged = None, [], []
    for record in shelf.records(Kind.AUDIT, lambda _, key, __: damaged.append(key)):
        try:
            said = json.loads(record.value)
            if record.key == HEAD:
                head = said
            else:
                segments.append(Segment(int(record.key), said["bytes"], said["began"], said["ended"]))
        except UNREADABLE:
            damaged.append(record.key)
    segments += [Segment(int(key)) for key in damaged if key.isdecimal()]
    return head, sorted(segments, key=lambda each: each.first), damaged


def lines_of(shelf: Shelf, segment: Segment) -> Iterator[str]:
    """The lines of a segment.

    Raises:
        DamagedError: A block is damaged.
    """
    for block in shelf.pieces(NO_TENANT, Kind.AUDIT, segment.key):
        yield from block.decode("ascii", "replace").split("\n")


def told_lines(shelf: Shelf, segment: Segment) -> Iterator[str]:
    """The lines of a segment; a block that is damaged ends it, by a line that says so, and is none."""
    try:
        yield from lines_of(shelf, segment)
    except DamagedError as error:
        yield f"damaged: {error.metadata.get('cause', '')}"


def all_lines(shelf: Shelf, segments: Sequence[Segment]) -> Iterator[str]:
    """All lines, in their order, as `told_lines`."""
    for segment in segments:
        yield from told_lines(shelf, segment)


def some_lines(
    shelf: Shelf, segments: Sequence[Segment], place: Place, *, most: int, most_bytes: int
) -> tuple[list[str], Place | None]:
    """Lines from a place on, so many and about so many bytes of them at most, and where the next ones begin.

    Where something was tampered with, places say nothing of numbers: all lines are given, each once, as `told_lines`.
    """
    found: list[str] = []
    left_bytes = most_bytes
    for segment in segments[max(0, bisect_right([each.first for each in segments], place.segment) - 1) :]:
        begin = place.line if segment.first == place.segment else 0
        for number, line in enumerate(told_lines(shelf, segment)):
            if number < begin:
                continue
            if len(found) == most or (found and left_bytes < len(line)):
                return found, Place(segment.first, number)
            found.append(line)
            left_bytes -= len(line)
    return found, None


def place_behind(segments: Sequence[Segment], after: int) -> Place:
    """Where the lines behind one of a number begin."""
    at = bisect_right([each.first for each in segments], after + 1) - 1
    return Place(0, 0) if at < 0 else Place(segments[at].first, after + 1 - segments[at].first)


class MemoryShelf:
    """Keeps a trail as long as the kernel lives. One writer: its trail."""

    def __init__(self) -> None:
        self._segments: dict[str, list[bytes]] = {}

    def write(self, writes: Iterable[Write]) -> None:
        """As `Shelf.write`."""
        for write in writes:
            if isinstance(write, Append):
                self._segments.setdefault(write.key, []).append(write.value)
            elif isinstance(write, Drop):
                self._segments.pop(write.key, None)

    def records(self, kind: Kind, damaged: Damaged | None = None) -> Iterator[Record]:  # noqa: ARG002 - as `Shelf`
        """As `Shelf.records`: none, as no kernel comes after this one."""
        return iter(())

    def pieces(self, tenant: str, kind: Kind, key: str, *, after: int = -1) -> Iterator[bytes]:  # noqa: ARG002 - as `Shelf`
        """As `Shelf.pieces`."""
        return iter(tuple(self._segments.get(key, ())))
