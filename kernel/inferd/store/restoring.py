"""A store is made of a backup: all of it is looked at first, and what was there before is set aside."""

import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from glob import escape as glob_escape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

import apsw

from inferd.errors import InternalError, StoreUnavailableError
from inferd.store.header import Owner, owner_of
from inferd.store.lock import StoreLock
from inferd.store.opening import SQLITE, open_store
from inferd.store.sealing.sealed import Sealing
from inferd.store.sqlite import SqliteStore
from inferd.store.sqlite_file import (
    APPLICATION,
    BACKUP,
    FAMILY,
    aside_of,
    check_owner,
    newest_schema,
    suspect_of,
    sync,
)
from inferd.store.store import DamagedError, Kind, MissingError, SealError, Store
from inferd.store.where import Where


@dataclass(frozen=True, slots=True)
class Before:
    """What the store that is there has that must not be forgotten.

    Attributes:
        numbers: Those that go on rising, by name.
        keys: The records of keys, by id; None where it cannot be read, or there is none.
    """

    numbers: Mapping[str, bytes] = field(default_factory=dict)
    keys: Mapping[str, bytes] | None = None

    @classmethod
    def of(cls, store: Store) -> Self:
        """That of a store; what is damaged is left out."""
        numbers, keys = (
            {record.key: record.value for record in store.records(kind, lambda *_: None)}
            for kind in (Kind.COUNT, Kind.KEY)
        )
        return cls(numbers, keys)


Prepare = Callable[[SqliteStore, Before], None]
"""Makes of a backup what a kernel may go on from, given what the store that is there has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """What was done.

    Attributes:
        made: When the backup was made, as Unix time; None where it does not say.
        schema: That the backup had.
        store: The store, for people.
        aside: Where what was there before is now; "" where nothing was.
    """

    made: float | None
    schema: int
    store: str
    aside: str


@contextmanager
def prepared(
    backup: Path, folder: Path, sealing: Sealing, *, name: str = ".inferd-restoring-"
) -> Iterator[tuple[SqliteStore, float | None]]:
    """A copy of a backup as a store of this version, in a folder of its own in `folder`, and when the backup was made.

    The name of that folder begins with `name`. `sealing` is how the store is sealed, and opens what the backup has.

    Raises:
        MissingError: There is no such file.
        StoreUnavailableError: It is no backup, of a newer version, or damaged; or there is no room.
    """
    try:
        check_backup(backup)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with TemporaryDirectory(dir=folder, prefix=name) as scratch:
            copy = Path(scratch, "store")
            for ending in FAMILY[:2]:  # one that was copied by hand may have a WAL
                with suppress(FileNotFoundError):
                    shutil.copyfile(backup.with_name(backup.name + ending), copy.with_name(copy.name + ending))
                    copy.with_name(copy.name + ending).chmod(0o600)
            made = _unseal(copy, backup)
            with closing(_whole(copy, backup, sealing)) as store:
                yield store, made
    except OSError as error:
        raise StoreUnavailableError(
            f"the backup {backup} cannot be read, or be copied to {folder}: {error.strerror}",
            metadata={"cause": str(error.strerror)},
        ) from None


def check_backup(backup: Path) -> None:
    """Refuse what is no backup at first sight.

    Raises:
        MissingError: There is no such file.
        StoreUnavailableError: It is another one, or cannot be read.
    """
    if not backup.is_file():
        raise MissingError(f"there is no backup {backup}", metadata={"cause": "no backup"})
    try:
        owners = {owner_of(backup, mark) for mark in (BACKUP, APPLICATION)}
    except OSError as error:
        raise StoreUnavailableError(
            f"the backup {backup} cannot be read: {error.strerror}", metadata={"cause": str(error.strerror)}
        ) from None
    if Owner.OURS not in owners:
        raise StoreUnavailableError(f"{backup} is no backup of a store", metadata={"cause": "not a backup"})


def _unseal(copy: Path, backup: Path) -> float | None:
    """Mark a copy as a store, and when it says that it was made."""
    try:
        database = apsw.Connection(str(copy))
        try:
            database.execute("PRAGMA locking_mode = EXCLUSIVE")
            made = None
            if next(database.execute("PRAGMA application_id"))[0] == BACKUP:
                made = next(database.execute("SELECT max(made) FROM backup"))[0]
                with database:
                    database.execute(f"DROP TABLE backup; PRAGMA application_id = {APPLICATION}")
        finally:
            database.close()
    except apsw.Error as error:
        raise _damaged(backup, [str(error)]) from None
    return made if isinstance(made, float) else None


def _whole(copy: Path, backup: Path, sealing: Sealing) -> SqliteStore:
    """The store in a copy.

    Raises:
        SealError: It is sealed with a key that is lost, or another one.
        StoreUnavailableError: It is damaged, or of a newer version.
    """
    try:
        store = SqliteStore(copy, sealing=sealing, mends=False)
    except SealError as error:
        said = error.message.replace(str(copy), str(backup)).replace(f"the store {backup}", f"the backup {backup}")
        raise SealError(said, metadata=error.metadata) from None
    except StoreUnavailableError as error:
        if "schema" in error.metadata:
            raise StoreUnavailableError(
                f"the backup {backup} has schema {error.metadata['schema']} and this version knows {newest_schema()}:"
                " a newer version has made it; restore it with that one",
                metadata=error.metadata,
            ) from None
        raise _damaged(backup, [error.metadata.get("cause", error.message)]) from None
    try:
        wrong = store.check() if store.opened_schema else ["it has no tables"]
    except BaseException:
        store.close()
        raise
    if wrong:
        store.close()
        raise _damaged(backup, wrong)
    return store


def _damaged(backup: Path, wrong: list[str]) -> DamagedError:
    return DamagedError(
        "\n  ".join([f"the backup {backup} is damaged, and nothing was changed:", *wrong]),
        metadata={"cause": wrong[0]},
    )


def restore(backup: Path, where: Where, prepare: Prepare, *, scratch: Path) -> Restored:
    """Put a backup in the place of a store, which no kernel has; the store that was there is set aside.

    Args:
        backup: The file.
        where: The store.
        prepare: Is told the copy that will be the store, and changes it.
        scratch: A folder for that copy where the store is no file, in whose folder it is otherwise.

    Raises:
        MissingError: There is no such file.
        StoreUnavailableError: A process has the store, it is another program's, or the backup is damaged or of a newer
            version: nothing was changed.
    """
    check_backup(backup)
    why = f"replaced by the backup {backup}"
    if not where.url.startswith(SQLITE):
        return _restore_elsewhere(backup, where, prepare, scratch=scratch, why=why)
    path = Path(os.path.realpath(where.url.removeprefix(SQLITE)))
    lock_path = path.with_name(path.name + ".lock")
    try:
        if path.exists() and path.samefile(backup):
            raise StoreUnavailableError(f"{backup} is the store itself", metadata={"cause": "not a backup"})
        check_owner(path, lock_path)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = StoreLock(lock_path)
        try:
            return _restore_file(backup, path, prepare, lock, sealing=Sealing.of(where), why=why)
        finally:
            lock.release()
    except OSError as error:
        raise StoreUnavailableError(
            f"the store {path} cannot be put in its place: {error.strerror}", metadata={"cause": str(error.strerror)}
        ) from None


def _restore_file(
    backup: Path, path: Path, prepare: Prepare, lock: StoreLock, *, sealing: Sealing, why: str
) -> Restored:
    name = f".{path.name}.restoring-"
    for left in path.parent.glob(f"{glob_escape(name)}*"):  # of a restoration that was killed: the lock is ours
        shutil.rmtree(left, ignore_errors=True)
    with prepared(backup, path.parent, sealing, name=name) as (store, made):
        schema = store.opened_schema
        prepare(store, _before(path, lock, sealing))
        store.close()
        aside = _put_in_place(Path(store.name), path, why)
    return Restored(made=made, schema=schema, store=str(path), aside=aside)


def _before(path: Path, lock: StoreLock, sealing: Sealing) -> Before:
    """Of the store that is there, whose WAL goes into it; nothing of one that cannot be read."""
    if owner_of(path, APPLICATION) is Owner.NOBODY:
        return Before()
    try:
        with closing(SqliteStore(path, sealing=sealing, mends=False, migrates=False, held=lock)) as store:
            return Before.of(store)
    except StoreUnavailableError:
        return Before()


def _restore_elsewhere(backup: Path, where: Where, prepare: Prepare, *, scratch: Path, why: str) -> Restored:
    from inferd.store.postgres import PostgresStore  # noqa: PLC0415 - as in `opening`

    sealing = Sealing.of(where)
    with closing(open_store(where, mends=False)) as there, prepared(backup, scratch, sealing) as (store, made):
        if not isinstance(there, PostgresStore):
            raise InternalError(f"a defect of inferd: a backup was to be written into {type(there).__name__}")
        prepare(store, Before.of(there))
        aside = ""
        if there.keys is not None and store.keys is not None:
            there.keys.adopt(store.keys)  # by which the blobs are sealed that come with it
        if next(there.kept(), None) is None:
            there.write(store.kept())
        else:
            aside = f"schema {there.replace(store.kept(), why)}"
        return Restored(made=made, schema=store.opened_schema, store=there.name, aside=aside)


def _put_in_place(new: Path, path: Path, why: str) -> str:
    """The new file gets the name of the store, which is never without a file; where the old one is, or ""."""
    aside = ""
    if path.exists() and path.stat().st_size:
        kept = aside_of(path, "replaced")
        stamp = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
        kept.with_name(kept.name + ".txt").write_text(f"{stamp}: {why}\n", encoding="utf-8")
        try:
            os.link(path, kept)
        except OSError:
            path.rename(kept)  # no links there
        aside = str(kept)
        for ending in FAMILY[1:]:  # of one that could not be opened
            with suppress(FileNotFoundError):
                path.with_name(path.name + ending).rename(kept.with_name(kept.name + ending))
    sync(new)
    new.replace(path)
    suspect_of(path).unlink(missing_ok=True)
    sync(path.parent)
    return aside
