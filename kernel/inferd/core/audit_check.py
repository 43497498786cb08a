"""Whether an audit trail is as it was written: the first line that is not, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, TypeAlias

from inferd.core.audit import SIGNATURE, EntryType, Line, NoLineError, Said, hash_of, number, read_line, signed, text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    Signed: TypeAlias = Callable[[str, bytes, bytes], bool]

KEY_DIGITS, SIGNATURE_DIGITS = 64, 128
FOUND_WRONG = ("damaged", "put back", "no checkpoint apart", "key changed")
"""Events by which a kernel says, when it starts, that the trail is not what it was; it goes on behind them."""
MOST_TOLD = 16


class FaultKind(StrEnum):
    """What is wrong with a line."""

    CHANGED = "changed"  # it is not what was written
    REMOVED = "removed"
    INSERTED = "inserted"
    REORDERED = "reordered"
    TRUNCATED = "truncated"  # lines at the end are gone that a checkpoint has seen
    SIGNATURE = "signature"  # of a checkpoint, which does not hold, is by a key that is not trusted, or is missing


@dataclass(frozen=True, slots=True)
class Fault:
    """The first line that is wrong.

    Attributes:
        kind: In which way.
        sequence: Its number, or that which it would have.
        why: For people.
    """

    kind: FaultKind
    sequence: int
    why: str


@dataclass(slots=True, eq=False)
class Verdict:
    """What was found in a trail. One writer: `check`.

    Attributes:
        fault: The first one; None for none.
        first, last: Numbers of the first and the last line that hold; 0 for none.
        checkpoints: How many were checked.
        sealed: The number of the last of them: what stands behind it could be changed by whoever can write there.
        sealed_time: When that was made.
        keys: By which they are signed.
        cut: The last time when lines at the beginning went: `time`, and what the checkpoint says; {} for never.
        told: What kernels have found wrong with the trail and went on behind, by entries of theirs: the last ones.
    """

    fault: Fault | None = None
    first: int = 0
    last: int = 0
    checkpoints: int = 0
    sealed: int = 0
    sealed_time: str = ""
    keys: list[str] = field(default_factory=list)
    cut: Said = field(default_factory=dict)
    told: list[Said] = field(default_factory=list)

    @property
    def unsealed(self) -> int:
        """How many lines stand behind the last checkpoint."""
        return self.last - self.sealed


def check(lines: Iterable[str], holds: Signed, *, heads: Iterable[str] = ()) -> Verdict:
    """Look through a trail, line by line, as far as the first fault.

    Args:
        lines: In the order in which they stand.
        holds: Whether a key, in hexadecimal, is trusted and has signed bytes with a signature.
        heads: Checkpoints of the trail that are kept elsewhere: it must reach as far.
    """
    return _Check(holds).run(iter(lines), list(heads))


class _FaultError(Exception):
    def __init__(self, kind: FaultKind, sequence: int, why: str) -> None:
        super().__init__(why)
        self.fault = Fault(kind, sequence, why)


class _Check:
    """One check."""

    def __init__(self, holds: Signed) -> None:
        self._holds = holds
        self._found = Verdict()
        self._hash = b""
        self._kept_first = 0  # the oldest line that is kept, as the last checkpoint says
        self._every = 0
        self._heads: dict[int, Line] = {}

    def run(self, lines: Iterator[str], heads: Iterable[str]) -> Verdict:
        found = self._found
        try:
            for head in heads:
                self._read_head(head)
            for line in lines:
                self._take(line, lines)
            self._reach()
        except _FaultError as error:
            found.fault = error.fault
        return found

    def _take(self, text_of_line: str, rest: Iterator[str]) -> None:
        found, wanted = self._found, self._found.last + 1
        try:
            line = read_line(text_of_line)
        except NoLineError as error:
            raise _FaultError(FaultKind.CHANGED, wanted if found.last else 1, f"it cannot be read: {error}") from None
        if not found.last:
            self._begin(line, rest)
        elif line.sequence != wanted:
            raise self._misplaced(line, wanted, rest)
        if line.hash != hash_of(self._hash, line.body):
            self._check_single(line, rest)
            raise _FaultError(FaultKind.CHANGED, line.sequence, "its hash is not that of what it says")
        if line.is_checkpoint:
            self._seal(line)
        if line.sequence in self._heads and self._heads[line.sequence].hash != line.hash:
            self._check_single(line, rest)
            raise _FaultError(
                FaultKind.TRUNCATED,
                line.sequence,
                "the checkpoint of this number that is kept elsewhere is another one: the trail was put back to what it"
                " was before, and went on",
            )
        if line.said.get("type") == EntryType.KERNEL.value and line.said.get("event") in FOUND_WRONG:
            found.told = [*found.told, line.said][-MOST_TOLD:]
        found.last, self._hash = line.sequence, line.hash
        if found.unsealed > self._every:
            raise _FaultError(
                FaultKind.SIGNATURE,
                found.sealed + self._every + 1,
                f"behind line {found.sealed} there are more than {self._every} lines without a checkpoint",
            )

    @staticmethod
    def _check_single(line: Line, rest: Iterator[str]) -> None:
        """A line that is not right may be one that was put before it."""
        if next(_sequences(rest), None) == line.sequence:
            why = f"there are two lines {line.sequence}, of which this one was not written"
            raise _FaultError(FaultKind.INSERTED, line.sequence, why)

    def _begin(self, line: Line, rest: Iterator[str]) -> None:
        """The first line is a checkpoint: it vouches for those that are not kept any more."""
        if not line.is_checkpoint:
            behind = set(_sequences(rest))
            kind, sequence = FaultKind.REMOVED, max(1, line.sequence - 1)
            if line.sequence in behind:
                kind, sequence = FaultKind.INSERTED, line.sequence
            elif behind and min(behind) < line.sequence:
                kind, sequence = FaultKind.REORDERED, min(behind)
            raise _FaultError(kind, sequence, f"the trail begins with line {line.sequence}, which is no checkpoint")
        self._found.first = self._found.sealed = line.sequence
        self._hash = _bytes(text(line.said, "last"), KEY_DIGITS)

    def _misplaced(self, line: Line, wanted: int, rest: Iterator[str]) -> _FaultError:
        """What is to be said of a line that has another number than stands next."""
        at, first, behind = line.sequence, self._found.first, set(_sequences(rest))
        where = f"line {at} stands behind line {wanted - 1}"
        if at < first and first not in behind:
            return _FaultError(FaultKind.REORDERED, at, where)
        if at < wanted:
            return _FaultError(FaultKind.INSERTED, max(at, first), f"{where}, once more")
        if at in behind:
            return _FaultError(FaultKind.INSERTED, at, f"{where}, and later once more")
        if wanted in behind:
            return _FaultError(FaultKind.REORDERED, wanted, f"{where}, and line {wanted} later")
        return _FaultError(FaultKind.REMOVED, wanted, f"lines {wanted} to {at - 1} are gone")

    def _seal(self, line: Line) -> None:
        found, said = self._found, line.said
        self._check_signature(line)
        if found.last and (text(said, "last") != self._hash.hex() or _number(said, "count") != found.last):
            raise _FaultError(
                FaultKind.CHANGED,
                found.sealed + 1,
                f"the lines {found.sealed + 1} to {found.last} are not those that the checkpoint {line.sequence} has"
                " signed: one of them, or more, was changed, and the hashes made anew",
            )
        found.checkpoints += 1
        found.sealed, found.sealed_time = line.sequence, text(said, "time")
        self._kept_first, self._every = _number(said, "first"), _number(said, "every")
        if isinstance(cut := said.get("cut"), dict):
            found.cut = {"time": found.sealed_time, **cut}
        if (key := text(said, "key")) not in found.keys:
            found.keys.append(key)

    def _check_signature(self, line: Line) -> None:
        said = line.said
        key, signature = text(said, "key"), _bytes(text(said, SIGNATURE), SIGNATURE_DIGITS)
        if not self._holds(key, signed(said), signature):
            raise _FaultError(
                FaultKind.SIGNATURE,
                line.sequence,
                f"the signature of this checkpoint does not hold, or its key {key} is not trusted: if that was the"
                " kernel's, name its public half, too (--key)",
            )

    def _read_head(self, head: str) -> None:
        """A checkpoint of the trail that is kept elsewhere."""
        try:
            line = read_line(head)
        except NoLineError as error:
            raise _FaultError(
                FaultKind.SIGNATURE, 0, f"the checkpoint that is kept elsewhere is none: {error}"
            ) from None
        self._check_signature(line)
        self._heads[line.sequence] = line

    def _reach(self) -> None:
        """Hold the end of the trail against what was kept elsewhere, and its beginning against its last checkpoint."""
        found, furthest = self._found, max(self._heads, default=0)
        if not found.last:
            raise _FaultError(
                FaultKind.TRUNCATED, 1, "there is no line, and a kernel writes the first ones when it starts"
            )
        if furthest > found.last:
            seen = text(self._heads[furthest].said, "time")
            raise _FaultError(
                FaultKind.TRUNCATED,
                found.last + 1,
                f"the trail ends with line {found.last}, and a checkpoint of {seen} has seen {furthest} lines",
            )
        if 0 < self._kept_first < found.first:
            raise _FaultError(
                FaultKind.REMOVED,
                self._kept_first,
                f"the trail begins with line {found.first}, and its last checkpoint says {self._kept_first}",
            )


def _sequences(lines: Iterator[str]) -> Iterator[int]:
    for line in lines:
        try:
            yield read_line(line).sequence
        except NoLineError:
            continue


def _number(said: dict[str, object], name: str) -> int:
    try:
        return number(said, name)
    except NoLineError:
        return 0


def _bytes(digits: str, length: int) -> bytes:
    try:
        return bytes.fromhex(digits) if len(digits) == length else b""
    except ValueError:
        return b""
