"""Backups of stores of both kinds: made while they are written, restored into either, and looked at before."""

import errno
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from postgres_server import PostgresServer
from stores import Postgres, Sqlite, Stores, held, raw_value, usual_sealing

from inferd.config import Settings
from inferd.errors import InvalidFieldError, StoreUnavailableError
from inferd.runtime.backups import back_up_store
from inferd.store import backup_file
from inferd.store.backup_file import BackupFile
from inferd.store.restoring import Before, Restored, prepared, restore
from inferd.store.sqlite import SqliteStore
from inferd.store.store import NO_TENANT, Append, Drop, Kind, MissingError, Put, Store


def fill(store: Store, count: int = 40) -> None:
    """A few pages of records and pieces."""
    store.write([Put(NO_TENANT, Kind.COUNT, "fencing", b"7"), Put("a", Kind.TASK, "t", b"what")])
    store.write([Append("a", Kind.TASK, "t", number, bytes([number]) * 9000) for number in range(count)])


def put_back(stores: Stores, backup: Path, scratch: Path, prepare: Callable[..., None] = lambda *_: None) -> Restored:
    return restore(backup, Settings(store=stores.settings).store_place, prepare, scratch=scratch)  # type: ignore[arg-type] # what it is read from


@pytest.fixture
def others(stores: Stores, postgres: PostgresServer, database: str, tmp_path: Path) -> list[Stores]:
    """Where a backup of `stores` may go: one of each kind, and `stores` itself."""
    (tmp_path / "other").mkdir()
    return [Sqlite(tmp_path / "other"), Postgres(postgres, database, "another"), stores]


def test_a_backup_of_either_kind_is_restored_into_either(stores: Stores, others: list[Stores], tmp_path: Path) -> None:
    """All that was kept is there again, in a new store and in the place of what was there, which is set aside."""
    with closing(stores.open()) as store:
        fill(store)
        before = held(store)
        made = back_up_store(store, str(tmp_path / "b"), replaces=False, step_s=0.0, root=tmp_path)
        store.write([Put("a", Kind.TASK, "later", b"")])
        later = held(store)
    assert (Path(made.path).stat().st_mode & 0o777, Path(made.path).stat().st_size) == (0o600, made.size_bytes)
    for other in others:
        done = put_back(other, tmp_path / "b", tmp_path / "scratch")
        assert (done.schema, done.made, bool(done.aside)) == (2, made.made, other is stores)
        with closing(other.open()) as store:
            assert held(store) == before
            assert store.check() == []
            store.write([Drop("a", Kind.TASK, "t")])  # it is a store as any
    if isinstance(stores, Sqlite):
        aside = Path(done.aside)
        assert "replaced by the backup" in aside.with_name(aside.name + ".txt").read_text()
        (tmp_path / "aside").mkdir()
        with closing(Sqlite(aside.rename(tmp_path / "aside/kernel.sqlite").parent).open()) as store:
            assert held(store) == later
    else:
        with closing(Postgres(stores.server, stores.database, done.aside.removeprefix("schema ")).open()) as store:
            assert held(store) == later
    assert not list((tmp_path / "scratch").iterdir())


def test_what_is_written_meanwhile_does_not_tear_a_copy(stores: Stores, tmp_path: Path) -> None:
    """Writes between the steps, all over the store, leave a copy that is the store as of one instant."""
    with closing(stores.open()) as store, closing(BackupFile(str(tmp_path / "b"), replaces=False)) as file:
        fill(store)
        first, copy, steps = held(store), store.copy(file.partial), 0
        while not copy.step(0.0):
            writes = [Append("a", Kind.TASK, "t", number, bytes([steps % 256]) * 9000) for number in range(0, 40, 7)]
            store.write([*writes, Put("a", Kind.MODEL, str(steps), b"m")])
            assert 0 <= copy.done_bytes <= copy.total_bytes or isinstance(stores, Postgres)
            steps += 1
        copy.close()
        copy.close()
        file.finish(1.0)
        last = held(store)
    assert steps > 1
    with prepared(tmp_path / "b", tmp_path, usual_sealing()) as (restored, made):
        assert (held(restored), made) == (last if isinstance(stores, Sqlite) else first, 1.0)


def test_a_backup_that_cannot_be_used_changes_nothing(stores: Stores, tmp_path: Path) -> None:
    """Damage of a page or of a value, a newer schema, another program's file, no file: refused, the store stays."""
    with closing(stores.open()) as store:
        fill(store)
        before = held(store)
        back_up_store(store, str(tmp_path / "b"), replaces=False, step_s=1.0, root=tmp_path)
    good = (tmp_path / "b").read_bytes()
    torn, damaged = bytearray(good), bytearray(good)
    torn[3 * 4096 : 5 * 4096] = b"\xa5" * 8192
    place = damaged.index(raw_value(tmp_path / "b", "pieces", "number = 20")[500:520])
    damaged[place] ^= 1
    newer = good[:60] + (99).to_bytes(4) + good[64:]
    wrong = {"damaged": [bytes(torn), bytes(damaged), good[: len(good) // 2]], "newer version": [newer]}
    for said, contents in {**wrong, "is no backup": [b"", b"text", good[:68] + b"none" + good[72:]]}.items():
        for content in contents:
            (tmp_path / "wrong").write_bytes(content)
            with pytest.raises(StoreUnavailableError, match=said):
                put_back(stores, tmp_path / "wrong", tmp_path / "scratch")
    with pytest.raises(MissingError):
        put_back(stores, tmp_path / "none", tmp_path / "scratch")
    with closing(stores.open()) as store:
        with pytest.raises(StoreUnavailableError, match="in use by"):
            put_back(stores, tmp_path / "b", tmp_path / "scratch")
        assert held(store) == before
    assert not [each for each in tmp_path.iterdir() if "replaced" in each.name or "restoring" in each.name]


def test_what_prepares_a_restored_store_is_told_the_numbers_of_both(stores: Stores, tmp_path: Path) -> None:
    """It has the store that will be, and what the present one counts; what it raises leaves that one alone."""
    told = []

    def prepare(store: Store, there: Before) -> None:
        told.append(([record.value for record in store.records(Kind.COUNT)], dict(there.numbers)))
        store.write([Put(NO_TENANT, Kind.COUNT, "fencing", b"9")])

    def fail(*_: object) -> None:
        raise StoreUnavailableError("no")

    with closing(stores.open()) as store:
        fill(store)
        back_up_store(store, str(tmp_path / "b"), replaces=False, step_s=1.0, root=tmp_path)
        store.write([Put(NO_TENANT, Kind.COUNT, "fencing", b"8")])
    with pytest.raises(StoreUnavailableError, match="no"):
        put_back(stores, tmp_path / "b", tmp_path / "scratch", fail)
    for there in (b"8", b"9"):
        put_back(stores, tmp_path / "b", tmp_path / "scratch", prepare)
        assert told.pop() == ([b"7"], {"fencing": there})
    with closing(stores.open()) as store:
        assert [record.value for record in store.records(Kind.COUNT)] == [b"9"]


def test_a_store_that_is_damaged_gives_way_to_a_backup(tmp_path: Path) -> None:
    """What cannot be opened is set aside as it is, and so is a store of a newer version."""
    stores = Sqlite(tmp_path)
    with closing(stores.open()) as store:
        fill(store)
        back_up_store(store, str(tmp_path / "b"), replaces=False, step_s=1.0, root=tmp_path)
    whole = stores.path.read_bytes()
    for broken in (b"\xa5" * 100 + whole[100:], whole[:60] + (99).to_bytes(4) + whole[64:], whole[:5000]):
        stores.path.write_bytes(broken)
        done = put_back(stores, tmp_path / "b", tmp_path)
        assert Path(done.aside).read_bytes() == broken
        with closing(stores.open()) as store:
            assert len(held(store)) == 2


def test_a_backup_takes_no_other_files_place(tmp_path: Path) -> None:
    """A file that is there stays; with `replaces` a backup gives way, but no store, no other file and no link does."""
    with closing(Sqlite(tmp_path).open()) as store:
        fill(store)
        path = tmp_path / "b"
        back_up_store(store, str(path), replaces=False, step_s=1.0, root=tmp_path)
        other, link = tmp_path / "other", tmp_path / "link"
        other.write_text("mine")
        link.symlink_to(path)
        for wrong in (path, tmp_path / "no/b", "relative", tmp_path / "k-wal", f"{tmp_path}/", "/a\0b"):
            with pytest.raises(InvalidFieldError):
                back_up_store(store, str(wrong), replaces=False, step_s=1.0, root=tmp_path)
        for wrong in (other, link, Path(store.name), tmp_path):
            with pytest.raises(InvalidFieldError, match="only a backup is replaced"):
                back_up_store(store, str(wrong), replaces=True, step_s=1.0, root=tmp_path)
        first = path.stat().st_ino
        (tmp_path / ".b.inferd-partial").write_bytes(b"left by one that was killed")
        back_up_store(store, str(path), replaces=True, step_s=1.0, root=tmp_path)
        assert (path.stat().st_ino == first, other.read_text()) == (False, "mine")
        assert not [each for each in tmp_path.iterdir() if "partial" in each.name]
        with closing(BackupFile(str(path), replaces=True)), pytest.raises(StoreUnavailableError, match="on its way"):
            BackupFile(str(path), replaces=True)
    with pytest.raises(StoreUnavailableError, match="inferd store restore"):
        SqliteStore(path)


def test_no_room_for_a_backup_leaves_nothing_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is full at its end is told, and the store goes on; so is a folder that takes no file."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with closing(Sqlite(tmp_path).open()) as store:
        fill(store)
        monkeypatch.setattr(backup_file, "sync", full)
        with pytest.raises(StoreUnavailableError, match="No space left"):
            back_up_store(store, str(tmp_path / "b"), replaces=False, step_s=1.0, root=tmp_path)
        assert sorted(each.name for each in tmp_path.iterdir() if "b" in each.name[:2]) == []
        with pytest.raises(StoreUnavailableError, match="cannot be written"):
            back_up_store(store, "/proc/b", replaces=False, step_s=1.0, root=tmp_path)
        store.write([Drop("a", Kind.TASK, "t")])
