"""What a store is: records by kind and key, pieces of a record in their order, and writes that hold together."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self

from inferd.errors import StoreUnavailableError

if TYPE_CHECKING:
    from inferd.store.kernels import KernelEntry
    from inferd.store.sealing.data_keys import DataKeys
    from inferd.store.sealing.resealing import Progress

NO_TENANT = ""
"""Of records that are everybody's."""


class Kind(Enum):
    """What a record is; the values are what is written."""

    TASK = "task"  # what a task is to do; never changes
    PROGRESS = "progress"  # where it stands
    PAST = "past"  # of one that has ended, what is known without the two above; where it lacks they say it
    OUTPUT = "output"  # that some of what a task has told is in a blob, whose digest ends the key; its size
    MODEL = "model"
    LEASE = "lease"  # one that is held
    SHARE = "share"  # what a tenant was served of a model
    KEY = "key"  # one by which callers are known; no secret
    RULE = "rule"  # who may do what
    QUOTA = "quota"  # how much tenants may use
    USE = "use"  # what a tenant has used of a quota
    COUNT = "count"  # what goes on rising from kernel to kernel
    DATASET = "dataset"  # a version of one; its pieces say which blobs have its rows
    INDEX = "index"  # documents that are searched; which blobs have them
    BLOB = "blob"  # bytes that are in a file; its pieces are the digests of the file's
    UPLOAD = "upload"  # a blob of which not all bytes have come
    DEVICE = "device"  # what one had to give when a kernel began
    MODERATION = "moderation"  # what models must not be told or say
    FLAG = "flag"  # what a person is to look at of that
    FOLDER = "folder"  # which folder has the files
    HOST = "host"  # what an operator wants of one
    PIPELINE = "pipeline"  # a run of one, whose pieces are its input and what has happened of it
    MEMO = "memo"  # what a function keeps from call to call
    EVALUATION = "evaluation"
    EVALUATION_PART = "evaluation part"  # data of one, and what was measured; or its answers, which are pieces
    TRAINING = "training"
    TRAINING_CURVE = "training curve"  # its pieces are steps
    FEDERATION = "federation"
    FEDERATION_PART = "federation part"  # weights of one, and what clients gave to its round
    AUDIT = "audit"  # a part of the audit trail, whose pieces are its lines; and where the trail stands


@dataclass(frozen=True, slots=True)
class Put:
    """A record is made, or takes the place of the one before."""

    tenant: str
    kind: Kind
    key: str
    value: bytes


@dataclass(frozen=True, slots=True)
class Drop:
    """A record is kept no longer, nor are its pieces, or only these; nothing where there is none."""

    tenant: str
    kind: Kind
    key: str
    record: bool = True  # goes, too


@dataclass(frozen=True, slots=True)
class Append:
    """A piece of a record; their numbers rise."""

    tenant: str
    kind: Kind
    key: str
    number: int
    value: bytes


Write = Put | Drop | Append


@dataclass(frozen=True, slots=True)
class Record:
    """A record, as it is read."""

    tenant: str
    key: str
    value: bytes


class DamagedError(StoreUnavailableError):
    """A value is not what was written, or not of its place; others may be whole."""


class UnwritableError(StoreUnavailableError):
    """What is to be written cannot be kept, as it is too large; other writes can."""


class MissingError(StoreUnavailableError):
    """There is no store, and none is to be made."""


class OldSchemaError(StoreUnavailableError):
    """An older kernel has written the store, and it is to stay as it is."""

    @classmethod
    def of(cls, store: str, schema: int, known: int) -> Self:
        """The error of a store, which is named to people, with both versions."""
        return cls(
            f"the store {store} has schema {schema} and this version has {known}: `inferd store migrate` brings it up",
            metadata={"cause": "older schema", "schema": str(schema), "known": str(known)},
        )


class SealError(StoreUnavailableError):
    """The key that the store is sealed with cannot be had, is lost, or is another one: nothing was changed."""


class ShreddedError(DamagedError):
    """The keys of the tenant were dropped: nobody can read the value."""


Name = tuple[str, str]
"""Tenant and key of a record."""

Damaged = Callable[[str, str, DamagedError], None]
"""Told the tenant and the key of a record that is left out, and why."""


class Copy(Protocol):
    """A copy of a store on its way into a file; used as the store is, and between its other uses.

    Attributes:
        done_bytes: Of the store, how much is copied.
        total_bytes: How much there is, as far as is known.
    """

    done_bytes: int
    total_bytes: int

    def step(self, limit_s: float) -> bool:
        """Copy on for about so long; whether the file has all.

        Raises:
            StoreUnavailableError: The store cannot be read, or the file not be written.
        """

    def close(self) -> None:
        """Let go of the store and of the file, however far it is; again changes nothing."""


class Store(Protocol):
    """Keeps records. Used by one thread at a time, which may be another one each time.

    Each method raises StoreUnavailableError when it cannot be done now, and may be tried again.

    Attributes:
        name: What it is called to people; without a password.
        opened_schema: The version of its schema before it was opened; 0 where it was made then.
        schema: The version that it has.
        keys: Those that seal what it keeps; None where nothing of it is, nor was.
    """

    name: str
    opened_schema: int
    schema: int
    keys: "DataKeys | None"

    def write(self, writes: Iterable[Write]) -> None:
        """Do all of it, in its order, or nothing; what was done when this returns survives a loss of power."""

    def records(self, kind: Kind, damaged: Damaged | None = None, *, unless: Kind | None = None) -> Iterator[Record]:
        """All records of a kind, of all tenants, but those that are `damaged`, and those that are of another one, too.

        Raises:
            DamagedError: One is, and there is nobody to be told.
        """

    def some(self, kind: Kind, names: Sequence[Name], damaged: Damaged | None = None) -> Iterator[Record]:
        """The records of a kind that have one of these names, those that there are, in any order; as `records`."""

    def pieces(self, tenant: str, kind: Kind, key: str, *, after: int = -1) -> Iterator[bytes]:
        """The pieces of a record whose numbers are above `after`, in their order; no more is read than is taken.

        Raises:
            DamagedError: One is damaged.
        """

    def kept(self) -> Iterator[Put | Append]:
        """All that is kept, as the writes that make it: the records, then the pieces.

        Raises:
            DamagedError: Some of it is damaged.
        """

    def copy(self, path: Path) -> Copy:
        """Begin to copy all that is kept, as of one instant until the copy is done, into a new file of SQLite."""

    def check(self) -> list[str]:
        """What is wrong with what is kept, as far as the first hundred faults; nothing when all can be read."""

    def resealing(self, most_rows: int) -> "Iterator[Progress]":
        """Seal what older keys have sealed, so many rows at a time, and tell after each step how far that is.

        Nothing where nothing is sealed.
        """

    def drop_tenant(self, tenant: str) -> None:
        """Drop all records and pieces of a tenant, whether they can be read or not."""

    def drop_copies(self) -> None:
        """Remove the copies of it that were made before its schema became a newer one: they have keys and rows.

        Raises:
            StoreUnavailableError: One cannot be removed.
        """

    def compact(self) -> None:
        """Give back the room of what was dropped."""

    def size_bytes(self) -> int:
        """What it takes of its disk."""

    def lead(self, entry: "KernelEntry | None" = None) -> int:
        """Begin an epoch, which this kernel tells of: what any had begun before cannot be written from then on.

        Epochs rise, in whichever store: none is below the microseconds of Unix time at which it began.
        """

    def grip(self) -> int:
        """Have the lock again where it was lost; the server's process that has it, 0 where the store has no server.

        Raises:
            StoreUnavailableError: Another kernel has it or leads, or it cannot be had now.
        """

    def unix_time(self) -> float | None:
        """What all that write it have as the time, in seconds: its server's; None where it is of one machine."""

    def close(self) -> None:
        """Let go of it; again changes nothing."""
