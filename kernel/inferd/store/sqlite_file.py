"""The file of a store in SQLite: whose it is, its schema, how it is opened, and set aside when it is damaged."""

import os
import time
from contextlib import suppress
from glob import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

import apsw
import structlog

from inferd.errors import StoreUnavailableError
from inferd.store.header import Owner, owner_of
from inferd.store.sqlite_wal import lost_frames
from inferd.store.store import OldSchemaError, UnwritableError

LEAST_VERSION = (3, 51, 3)
APPLICATION = 0x1F_E2_D0_01  # marks the file as ours
BACKUP = 0x1F_E2_D0_02  # marks a backup, which no kernel opens: what it has given since it would give again
MIGRATIONS = (
    # 1
    """
    CREATE TABLE records (
      tenant TEXT NOT NULL, kind TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL,
      PRIMARY KEY (kind, tenant, key)
    );
    CREATE TABLE pieces (
      tenant TEXT NOT NULL, kind TEXT NOT NULL, key TEXT NOT NULL, number INTEGER NOT NULL, value BLOB NOT NULL,
      PRIMARY KEY (kind, tenant, key, number)
    );
    """,
    # 2: the keys of tenants, each wrapped
    """
    CREATE TABLE data_keys (
      tenant TEXT NOT NULL, number INTEGER NOT NULL, wrapped BLOB NOT NULL, PRIMARY KEY (tenant, number)
    );
    """,
)
"""What brings a file from each version of its schema to the next one; the version is how many were done."""
UNSEALED = 1
"""The last schema whose values nobody had sealed: copies of such are not left beside a store that is sealed."""
UNFINISHED = ".part"  # of a copy that may not be whole
FAMILY = ("", "-wal", "-shm")
CACHE_KIB = 8192
CHECK_S = 0.5  # most that an opening looks for damage: beyond that it is found where it is read
TELL_S = 1.0  # between two lines of the log while all of it is looked through
CHECK_STEPS = 1000  # pages between two looks at the clock
UNWRITABLE = (apsw.TooBigError, apsw.ConstraintError, apsw.MismatchError)
DAMAGED = (apsw.CorruptError, apsw.NotADBError, ValueError)

log = structlog.get_logger()


def newest_schema() -> int:
    """The version that this kernel writes."""
    return len(MIGRATIONS)


def bring_up(database: apsw.Connection, version: int) -> None:
    """Make of the tables of a version those of this kernel; in the caller's transaction."""
    for number, statements in enumerate(MIGRATIONS[version:], start=version + 1):
        database.execute(f"{statements}; PRAGMA user_version = {number}")


def make_private(path: Path) -> None:
    """Make a file for its user alone, where there is none; what SQLite makes beside it has the same permissions."""
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))


def check_library(version: str) -> None:
    """Refuse a library that can damage files.

    Raises:
        StoreUnavailableError: It is older than 3.51.3.
    """
    if tuple(int(part) for part in version.split(".")[:3]) < LEAST_VERSION:
        least = ".".join(map(str, LEAST_VERSION))
        raise StoreUnavailableError(
            f"SQLite {version} can damage a store and {least} is the first that cannot; install a newer apsw",
            metadata={"cause": f"SQLite {version}"},
        )


def check_owner(path: Path, lock: Path) -> None:
    """Refuse what is not ours.

    Raises:
        StoreUnavailableError: It is another program's, or may be.
        OSError: It cannot be read.
    """
    owner = owner_of(path, APPLICATION)
    if owner is Owner.FOREIGN and owner_of(path, BACKUP) is Owner.OURS:
        raise StoreUnavailableError(
            f"{path} is a backup of a store: `inferd store restore {path}` makes a store of it",
            metadata={"cause": "a backup"},
        )
    if owner is Owner.FOREIGN:
        raise _foreign(path, "it is a database of another program, or no file")
    if owner in {Owner.UNMARKED, Owner.UNKNOWN} and not lock.exists():  # a kernel that had it has left its lock
        raise _foreign(
            path, "it is a database of another program" if owner is Owner.UNMARKED else "it is no database of a kernel"
        )


def _foreign(path: Path, what: str) -> StoreUnavailableError:
    return StoreUnavailableError(
        f"the store {path}: {what}; it is left alone: name another store.url", metadata={"cause": "not a store"}
    )


def check_names(path: Path) -> None:
    """Refuse a file with several names: each would have a WAL of its own.

    Raises:
        StoreUnavailableError: It has hard links.
    """
    if (names := path.stat().st_nlink) > 1:
        raise StoreUnavailableError(
            f"the store {path} has {names} names (hard links) and may have 1: what was written by one is not seen by"
            " another; remove the others, or name another store.url",
            metadata={"cause": "hard links", "names": str(names)},
        )


def set_aside(path: Path, why: str) -> Path:
    """Rename a damaged file and what belongs to it; a note beside says why. Where it is now."""
    aside = aside_of(path, "damaged")
    for ending in FAMILY:
        part = path.with_name(path.name + ending)
        with suppress(FileNotFoundError):
            if ending and not part.stat().st_size:
                part.unlink()  # made when it was looked at
            else:
                part.rename(aside.with_name(aside.name + ending))
    note = aside.with_name(aside.name + ".txt")
    make_private(note)
    note.write_text(f"{why}\n", encoding="utf-8")
    log.error("the store was damaged and set aside: what it held is not known to this kernel", path=str(aside), why=why)
    return aside


def aside_of(path: Path, what: str) -> Path:
    """A new name beside a file, which says what it is from now on and since when."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    names = (path.with_name(f"{path.name}.{what}-{stamp}{f'-{count}' if count else ''}") for count in range(1000))
    return next(name for name in names if not name.exists())


def open_file(path: Path, *, migrates: bool, copies: int = 1) -> tuple[apsw.Connection, int]:
    """The database, migrated, and the schema that it had.

    Raises:
        apsw.Error: It cannot be opened, or is damaged.
        ValueError: It is damaged.
        OldSchemaError: An older kernel has written it, and it is to stay so.
        StoreUnavailableError: A newer kernel has written it, or another program.
    """
    database = apsw.Connection(str(path))
    try:
        database.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)  # a damaged one is set aside as it is
        # The lock first, so that there is no index of the WAL beside it; one each, as the first answers with a row.
        for pragma in ("locking_mode = EXCLUSIVE", "synchronous = FULL", f"cache_size = -{CACHE_KIB}"):
            database.execute(f"PRAGMA {pragma}")
        _check_wal(database, path)
        version = _version(database, path)
        _check_pages(database, path)
        if 0 < version < len(MIGRATIONS):
            _prepare(database, path, version, migrates=migrates, copies=copies)
        if version == 0:  # marked in the file itself, before there is a WAL
            database.execute(f"PRAGMA application_id = {APPLICATION}")
        database.execute("PRAGMA journal_mode = WAL")
        with database:
            bring_up(database, version)
        database.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0)
    except BaseException:
        database.close()
        raise
    return database, version


def open_to_read(path: Path, *, looks: bool = True) -> tuple[apsw.Connection, int]:
    """As `open_file`; nothing is changed nor made, so it may be on a disk that takes nothing. The caller has it locked.

    What is in the WAL is read, too, which stays as it is. Where nobody `looks`, its damage is met where it is read.
    """
    wal = path.with_name(path.name + "-wal")
    how = "mode=ro&vfs=unix-none" if wal.is_file() and wal.stat().st_size else "immutable=1"
    flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
    database = apsw.Connection(f"file:{quote(str(path))}?{how}", flags=flags)
    try:
        database.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        database.execute("PRAGMA locking_mode = EXCLUSIVE")  # no index of the WAL beside it
        if looks:
            _check_wal(database, path)
        version = _version(database, path)
        _refuse_other_schemas(path, version)
    except BaseException:
        database.close()
        raise
    return database, version


def _refuse_other_schemas(path: Path, version: int) -> None:
    if version == 0:
        raise ValueError("it is empty; `inferd serve` makes a store of it")
    if version < len(MIGRATIONS):
        raise OldSchemaError.of(str(path), version, len(MIGRATIONS))


def _check_wal(database: apsw.Connection, path: Path) -> None:
    """See whether SQLite reads all that was committed.

    Raises:
        ValueError: It does not.
    """
    next(database.execute("SELECT count(*) FROM sqlite_schema"))  # it reads its WAL now
    ((_, valid, _),) = database.execute("PRAGMA wal_checkpoint(NOOP)")
    wal = path.with_name(path.name + "-wal")
    if lost := lost_frames(wal, max(0, valid)):
        raise ValueError(
            f"its WAL {wal} is damaged behind frame {max(0, valid)}: at least {lost} frames that were committed cannot"
            " be read"
        )


def copies_of(path: Path, schema: int) -> list[Path]:
    """The copies that were made of a file before its schema became a newer one, the oldest first."""
    return sorted(
        copy for copy in path.parent.glob(f"{escape(path.name)}.schema-{schema}-*") if copy.suffix != UNFINISHED
    )


def sync(*paths: Path) -> None:
    """Have files and folders on the disk, in this order."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _prepare(database: apsw.Connection, path: Path, version: int, *, migrates: bool, copies: int) -> None:
    """Copy what is to be migrated, onto the disk; older copies of this schema go, but for the last ones.

    Raises:
        OldSchemaError: It is not to be migrated.
        OSError: The copy cannot be put onto the disk.
    """
    if not migrates:
        raise OldSchemaError.of(str(path), version, len(MIGRATIONS))
    copy = aside_of(path, f"schema-{version}")
    growing = copy.with_name(copy.name + UNFINISHED)
    for left in path.parent.glob(f"{escape(path.name)}.schema-*{UNFINISHED}"):  # of a migration that was cut off
        left.unlink()
    log.info("the store has an older schema: it is copied before it is brought up", copy=str(copy), schema=version)
    try:
        growing.touch(mode=0o600)
        database.execute("VACUUM INTO ?", (str(growing),))
        sync(growing)
        growing.rename(copy)
    except BaseException:
        growing.unlink(missing_ok=True)
        raise
    for old in copies_of(path, version)[:-copies]:
        old.unlink()
    sync(copy.parent)


def _version(database: Any, path: Path) -> int:
    """Of the schema of a file that is ours; raises as `open_file`."""
    (version,) = next(database.execute("PRAGMA user_version"))
    (mark,) = next(database.execute("PRAGMA application_id"))
    (tables,) = next(database.execute("SELECT count(*) FROM sqlite_schema"))
    if mark != APPLICATION and (mark or tables):
        raise _foreign(path, f"it is a database of another program (application_id {mark:#x})")
    if version > len(MIGRATIONS):
        raise StoreUnavailableError(
            f"the store {path} has schema {version} and this kernel knows {len(MIGRATIONS)}: a newer kernel has"
            " written it; start that one, or name another store.url",
            metadata={"cause": "newer schema", "schema": str(version), "known": str(len(MIGRATIONS))},
        )
    return int(version)


def _check_pages(database: apsw.Connection, path: Path) -> None:
    """Look through the file, for `CHECK_S` at most, unless damage was met in it: a large one takes very long.

    Raises:
        ValueError: It is damaged.
    """
    suspect, began = suspect_of(path).exists(), time.monotonic()
    told = began

    def look() -> bool:
        nonlocal told
        now = time.monotonic()
        if suspect and now - told >= TELL_S:
            told = now
            log.info(
                "damage was met in the store, and it is looked through", path=str(path), seconds=round(now - began)
            )
        return not suspect and now > began + CHECK_S

    database.set_progress_handler(look, CHECK_STEPS)
    try:
        (found,) = next(database.execute("PRAGMA quick_check(1)"))
    except apsw.InterruptError:
        return
    finally:
        database.set_progress_handler(None)
    if found != "ok":
        raise ValueError(found)


def suspect_of(path: Path) -> Path:
    """What is there from when damage was met in a store until it was looked through as a whole."""
    return path.with_name(path.name + ".suspect")


def plain(error: Exception) -> str:
    """What SQLite says of damage, in one line."""
    return " ".join(str(error).replace("*** in database main ***", "").split())


def unavailable(path: Path, error: Exception, *, marks: bool = True) -> StoreUnavailableError:
    """What to say of an error of SQLite; https://www.sqlite.org/rescode.html. Damage `marks` the store as suspect."""
    causes = {
        apsw.FullError: "its disk is full; make room",
        apsw.ReadOnlyError: "it cannot be written; let this user write the file and its folder",
        apsw.CantOpenError: "it cannot be opened; let this user write the file and its folder",
        apsw.IOError: "its disk does not take it, or is full",
        apsw.CorruptError: "it is damaged; a restart sets it aside",
        apsw.BusyError: "it is in use by another process; one kernel at a time has it: end that one",
    }
    if isinstance(error, apsw.CorruptError) and marks:
        with suppress(OSError):
            suspect_of(path).touch(mode=0o600)
    said = plain(error)
    cause = next((f"{text} ({said})" for kind, text in causes.items() if isinstance(error, kind)), said)
    made = UnwritableError if isinstance(error, UNWRITABLE) else StoreUnavailableError
    return made(
        f"the store {path}: {cause}",
        metadata={"cause": f"{type(error).__name__}: {said}"},
        retry_after_s=1.0,
    )
