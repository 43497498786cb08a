"""The audit trail as values: lines of JSON, each of which vouches for all before it.

A line is a JSON object in ASCII whose last member is `hash`: SHA-256 over `CHAINED`, the 32 bytes of the hash before
it, and the line without that member (its body). Nothing has to be made anew to check a line: cut off its end, put a
brace there. Some lines, checkpoints, are signed: what they say but the signature, sorted by name, without spaces.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from hashlib import sha256
from json.encoder import encode_basestring_ascii as _quoted
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

FORMAT: Final = 1
CHAINED: Final = b"inferd audit 1 entry\n"  # before what is hashed, and signed: good for nothing else
SIGNED: Final = b"inferd audit 1 checkpoint\n"
NOTHING: Final = bytes(32)  # the hash before the first line
BEFORE_HASH, BEHIND_HASH = ',"hash":"', '"}'
HASH_DIGITS: Final = 64
LINE_END_CHARACTERS: Final = 256  # of a line, its format, number and hash
END_CHARACTERS: Final = len(BEFORE_HASH) + HASH_DIGITS + len(BEHIND_HASH)
LINE_CHARACTERS: Final = 1 << 16  # most of a line; of an entry that is longer the longest members are left out
CLIPPED: Final = "clipped"  # names those
SIGNATURE: Final = "signature"
HEAD: Final = ""
"""The name of what an entry says that is written as it has to stand."""

Said: TypeAlias = "dict[str, object]"
"""What an entry says, by name: texts, whole numbers, lists and objects of those. What is empty is left out."""


_encoded = json.JSONEncoder(separators=(",", ":")).encode
_sorted = json.JSONEncoder(separators=(",", ":"), sort_keys=True).encode


class EntryType(StrEnum):
    """What an entry tells of."""

    CALL = "call"  # it was answered, denied or refused; of one that changes something lasting also that it begins
    END = "end"  # of a task
    KERNEL = "kernel"  # it began, or ended in order, or found that its trail is not as it was
    GAP = "gap"  # entries could not be kept
    OMITTED = "omitted"  # refusals beyond `audit.refusals_per_s` were counted and not told
    DECISION = "decision"  # one that no call made, as of a rule about outputs
    CHECKPOINT = "checkpoint"  # is signed


class Decision(StrEnum):
    """What became of a call."""

    ALLOWED = "allowed"
    DENIED = "denied"  # by rules, or nobody is known to have made it
    REFUSED = "refused"  # for another reason, which is named


class NoLineError(ValueError):
    """A text is no line of a trail."""


class Line(NamedTuple):
    """A line that was read.

    Attributes:
        body: Without its hash.
        hash: As it says.
        said: All that it says, the hash left out.
    """

    body: str
    hash: bytes
    said: Said

    @property
    def sequence(self) -> int:
        """Its number: 1 for the first one of a trail."""
        return number(self.said, "sequence")

    @property
    def is_checkpoint(self) -> bool:
        """Whether it is signed."""
        return self.said.get("type") == EntryType.CHECKPOINT


def number(said: Mapping[str, object], name: str) -> int:
    """A whole number that an entry says.

    Raises:
        NoLineError: It says none.
    """
    value = said.get(name)
    if not isinstance(value, int) or isinstance(value, bool):
        raise NoLineError(f"{name} is no number")
    return value


def text(said: Mapping[str, object], name: str) -> str:
    """A text that an entry says; "" where it says none."""
    value = said.get(name, "")
    return value if isinstance(value, str) else ""


def canonical(said: Mapping[str, object]) -> str:
    """The one way to write what is signed."""
    return _sorted(said)


def members(said: Mapping[str, object]) -> str:
    """What is said, as members of a JSON object; those that are empty are left out."""
    return ",".join(
        f'"{name}":{_quoted(value) if type(value) is str else _encoded(value)}' for name, value in said.items() if value
    )


def time_of(unix_s: float) -> str:
    """A Unix time as lines have it: UTC, to the microsecond."""
    second = int(unix_s)
    return f"{_second(second)}.{int((unix_s - second) * 1e6):06d}Z"


@lru_cache(maxsize=4)
def _second(unix_s: int) -> str:
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def hash_of(before: bytes, body: str) -> bytes:
    """The hash of a line that stands behind one with the hash `before`."""
    return sha256(CHAINED + before + body.encode()).digest()


def read_line(line: str) -> Line:
    """A line, as it says it is; its hash is not looked at.

    Raises:
        NoLineError: It is none.
    """
    line = line.rstrip("\r\n")
    body, end = line[:-END_CHARACTERS] + "}", line[-END_CHARACTERS:]
    digits = end[len(BEFORE_HASH) : -len(BEHIND_HASH)]
    if not end.startswith(BEFORE_HASH) or not end.endswith(BEHIND_HASH) or not line.isascii():
        raise NoLineError("it does not end with a hash")
    try:
        said, digest = json.loads(body), bytes.fromhex(digits)
    except (ValueError, RecursionError):
        raise NoLineError("it is no JSON object with a hash") from None
    if not isinstance(said, dict):
        raise NoLineError("it is no JSON object")
    found = Line(body, digest, said)
    if said.get("format") != FORMAT:
        raise NoLineError(f"its format is {said.get('format')!r}, and this version knows {FORMAT}")
    _ = found.sequence
    return found


def _clipped(said: Mapping[str, object]) -> Said:
    """The same without its longest member, whose name it says instead."""
    lengths = {name: len(members({name: value})) for name, value in said.items() if name not in (HEAD, CLIPPED)}
    longest = max(lengths, key=lambda name: lengths[name], default=HEAD)
    before = said.get(CLIPPED)
    names = [*(before if isinstance(before, list) else ()), longest or "head"]
    return {**{name: value for name, value in said.items() if name != longest}, CLIPPED: names}


@dataclass(slots=True, eq=False)
class Chain:
    """A chain that goes on. One writer: who adds to it.

    Attributes:
        count: How many lines it has had; the number of its last one.
        hash: Of that.
    """

    count: int = 0
    hash: bytes = NOTHING

    def add(self, said: Mapping[str, object]) -> str:
        """One line more; what it says as `HEAD` are members of JSON already, and stand first."""
        head = said.get(HEAD)
        rest = members({name: value for name, value in said.items() if name != HEAD} if head else said)
        told = f"{head},{rest}" if head and rest else str(head or rest)
        if len(told) > LINE_CHARACTERS - LINE_END_CHARACTERS:
            return self.add(_clipped(said))
        return self._chain(f'{{{told},"format":{FORMAT},"sequence":{self.count + 1}}}')

    def _chain(self, body: str) -> str:
        self.hash = hash_of(self.hash, body)
        self.count += 1
        return f"{body[:-1]}{BEFORE_HASH}{self.hash.hex()}{BEHIND_HASH}"

    def add_checkpoint(self, checkpoint: Checkpoint, sign: Callable[[bytes], bytes]) -> str:
        """A line that says where the chain stands, signed.

        Args:
            checkpoint: What else it says.
            sign: Signs bytes.
        """
        said: Said = {
            "type": EntryType.CHECKPOINT,
            "time": checkpoint.time,
            "count": self.count,
            "last": self.hash.hex(),
            "first": checkpoint.first or self.count + 1,
            "every": checkpoint.every,
            "key": checkpoint.key,
            "format": FORMAT,
            "sequence": self.count + 1,
            **({"cut": checkpoint.cut} if checkpoint.cut else {}),
        }
        return self._chain(canonical({**said, SIGNATURE: sign(signed(said)).hex()}))


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """What a checkpoint says besides where the chain stands.

    Attributes:
        time: When it was made.
        first: The number of the oldest line that is kept; 0 for the checkpoint itself.
        every: So many lines stand between two of them at most.
        key: The public half of the key that signs, 64 hexadecimal digits.
        cut: Which lines at the beginning are not kept from now on, and by which setting; {} for none.
    """

    time: str
    first: int
    every: int
    key: str
    cut: Said = field(default_factory=dict)


def signed(said: Mapping[str, object]) -> bytes:
    """What the signature of a checkpoint is about."""
    return SIGNED + canonical({name: value for name, value in said.items() if name != SIGNATURE}).encode()
