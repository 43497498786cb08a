"""What every store does, and what those in files do. One that joins is a class more in `Stores`."""

import os
import shutil
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stores import WRITES, Sqlite, Stores, held, model_of

from inferd.errors import StoreUnavailableError
from inferd.store import sqlite_file
from inferd.store.sqlite import AFTER_COMMIT, BEFORE_COMMIT, SqliteStore, check_library
from inferd.store.store import Append, DamagedError, Drop, Kind, Put, Record, Store, Write


@pytest.fixture
def store(stores: Stores) -> Iterator[Store]:
    """An empty store."""
    made = stores.open()
    yield made
    made.close()


def test_what_was_written_is_read_after_it_was_opened_again(stores: Stores, store: Store) -> None:
    """Records and their pieces are there for the next one that opens it, pieces in the order of their numbers."""
    piece = Append("t", Kind.TASK, "a", 10, b"later")
    store.write([Put("t", Kind.TASK, "a", b"\0\xff"), piece, Append("t", Kind.TASK, "a", 9, b"sooner")])
    store.write([Put("t", Kind.TASK, "b", b""), Put("", Kind.MODEL, "a", b"model")])
    store.close()
    again = stores.open()
    assert held(again) == {
        ("t", Kind.TASK, "a"): (b"\0\xff", [b"sooner", b"later"]),
        ("t", Kind.TASK, "b"): (b"", []),
        ("", Kind.MODEL, "a"): (b"model", []),
    }
    assert again.check() == []
    again.close()


def test_pieces_are_read_from_any_number_on(store: Store) -> None:
    """Those up to a number are left out, and whoever has taken enough may write before and after letting go."""
    store.write([Append("t", Kind.TASK, "a", number, bytes([number])) for number in (3, 7, 9, 200)])
    assert list(store.pieces("t", Kind.TASK, "a", after=3)) == [b"\x07", b"\x09", b"\xc8"]
    assert list(store.pieces("t", Kind.TASK, "a", after=8)) == [b"\x09", b"\xc8"]
    assert list(store.pieces("t", Kind.TASK, "a", after=200)) == []
    pieces = store.pieces("t", Kind.TASK, "a")
    assert next(pieces) == b"\x03"
    store.write([Put("t", Kind.TASK, "a", b"")])
    del pieces
    store.write([Drop("t", Kind.TASK, "a")])
    assert held(store) == {}


def test_records_are_read_by_their_names_and_but_for_those_of_another_kind(store: Store) -> None:
    """Those that there are of the names that are asked for; all of a kind but those that another one has, too."""
    names = [(tenant, f"{number}") for tenant in ("a", "b") for number in range(300)]  # more than a page
    store.write([Put(*name[:1], Kind.TASK, name[1], name[1].encode()) for name in names])
    store.write([Put("a", Kind.PAST, "7", b"past"), Put("b", Kind.MODEL, "8", b"not asked for")])
    found = store.some(Kind.TASK, [*names[5:290], ("a", "none"), ("c", "1"), ("b", "7")])
    assert sorted((each.tenant, each.key, each.value) for each in found) == sorted(
        (tenant, key, key.encode()) for tenant, key in [*names[5:290], ("b", "7")]
    )
    assert not list(store.some(Kind.TASK, []))
    left = [(each.tenant, each.key) for each in store.records(Kind.TASK, unless=Kind.PAST)]
    assert left == sorted(set(names) - {("a", "7")})


def test_tenants_and_kinds_have_keys_of_their_own(store: Store) -> None:
    """The same key of another tenant, or of another kind, is another record, and is not dropped with it."""
    keys = [("a", Kind.TASK), ("b", Kind.TASK), ("a", Kind.PROGRESS)]
    store.write([Put(tenant, kind, "key", tenant.encode()) for tenant, kind in keys])
    store.write([Append(tenant, kind, "key", 1, b"piece") for tenant, kind in keys])
    store.write([Drop("a", Kind.TASK, "key")])
    assert held(store) == {
        ("b", Kind.TASK, "key"): (b"b", [b"piece"]),
        ("a", Kind.PROGRESS, "key"): (b"a", [b"piece"]),
    }


def test_a_record_takes_the_place_of_the_one_before(store: Store) -> None:
    """A second `Put` of a key is the record, and dropping what is not there is nothing."""
    store.write([Put("", Kind.MODEL, "m", b"1"), Drop("", Kind.MODEL, "none")])
    store.write([Put("", Kind.MODEL, "m", b"2")])
    assert list(store.records(Kind.MODEL)) == [Record("", "m", b"2")]


def test_dropped_room_is_given_back(store: Store) -> None:
    """After `compact` a store takes no more than before what was dropped meanwhile."""
    store.write([Put("", Kind.TASK, "t", b"")])  # the key by which it is sealed, too
    store.compact()
    before = store.size_bytes()
    store.write([Append("", Kind.TASK, "t", number, os.urandom(1 << 16)) for number in range(32)])
    assert store.size_bytes() > before + (2 << 20)
    store.write([Drop("", Kind.TASK, "t", record=False)])
    store.compact()
    assert store.size_bytes() == before


def test_a_second_opener_is_refused_with_who_has_it(stores: Stores, store: Store) -> None:
    """While one has it another is refused, by the first one's process; then it can be opened."""
    with pytest.raises(StoreUnavailableError, match="in use by process") as caught:
        stores.open()
    assert caught.value.metadata["cause"] == "in use"
    assert int(caught.value.metadata["pid"]) == os.getpid()
    store.close()
    stores.open().close()


def test_one_at_a_time_has_it_by_whatever_name(tmp_path: Path) -> None:
    """Another is refused by a symlink, by a hard link, and when the lock file was deleted; a symlink alone is fine."""
    (tmp_path / "there").mkdir()
    path, link = tmp_path / "there" / "s", tmp_path / "link"
    link.symlink_to(path)
    store = SqliteStore(link)
    store.write([Put("", Kind.TASK, "t", b"1")])
    with pytest.raises(StoreUnavailableError, match=f"the store {path} is in use by process"):
        SqliteStore(path)
    (tmp_path / "there" / "s.lock").unlink()
    for name in (path, link):
        with pytest.raises(StoreUnavailableError, match="in use by another process"):
            SqliteStore(name)
    (tmp_path / "hard").hardlink_to(path)
    with pytest.raises(StoreUnavailableError, match=r"has 2 names \(hard links\) and may have 1"):
        SqliteStore(tmp_path / "hard")
    (tmp_path / "hard").unlink()
    store.close()
    again = SqliteStore(path)
    assert held(again) == {("", Kind.TASK, "t"): (b"1", [])}
    again.close()


class CrashError(Exception):
    """The process is as good as dead."""


@settings(max_examples=40, deadline=None)
@given(
    batches=st.lists(st.lists(WRITES, min_size=1, max_size=6), min_size=1, max_size=6),
    at=st.tuples(st.integers(0, 5), st.sampled_from([BEFORE_COMMIT, AFTER_COMMIT])),
)
def test_a_crash_leaves_whole_writes(
    batches: list[list[Write]], at: tuple[int, str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Wherever a process dies, its file holds each write that had returned, and of the last one all or nothing."""
    folder, copy = tmp_path_factory.mktemp("store"), tmp_path_factory.mktemp("copy")
    which, point = at
    written = 0

    def crash(where: str) -> None:
        if (written, where) == (which, point):
            for file in folder.iterdir():
                shutil.copyfile(file, copy / file.name)  # as the system leaves it
            raise CrashError

    store = SqliteStore(folder / "s", at_point=crash)
    done: list[Write] = []
    try:
        for batch in batches:
            store.write(batch)
            done += batch
            written += 1
    except CrashError:
        done += batches[which] if point == AFTER_COMMIT else []
    else:
        copy = folder  # it was to die at a later write than there was
    store.close()
    after = SqliteStore(copy / "s")
    assert held(after) == model_of(done)
    assert after.check() == []
    after.close()


def test_a_write_that_fails_changes_nothing_and_the_next_one_is_done(stores: Stores) -> None:
    """What fails half-way is undone as a whole; the store takes the same write later."""
    fails = [BEFORE_COMMIT]

    def at_point(where: str) -> None:
        if where in fails:
            raise CrashError

    def broken() -> Iterator[Write]:
        yield Put("", Kind.TASK, "t", b"1")
        raise CrashError

    store = stores.open(at_point=at_point)
    with pytest.raises(CrashError):
        store.write([Put("", Kind.TASK, "t", b"1"), Put("", Kind.TASK, "u", b"2")])
    assert held(store) == {}
    fails.clear()
    with pytest.raises(CrashError):
        store.write(broken())
    assert held(store) == {}
    store.write([Put("", Kind.TASK, "t", b"1")])
    assert len(held(store)) == 1
    store.close()


def test_a_damaged_file_is_set_aside_with_its_reason(tmp_path: Path) -> None:
    """A file whose pages are overwritten is kept under another name, with why; an empty store takes its place."""
    path = tmp_path / "s"
    store = SqliteStore(path)
    store.write([Put("", Kind.TASK, str(number), bytes(2000)) for number in range(100)])
    store.close()
    content = bytearray(path.read_bytes())
    content[4096 : 4096 * 8] = b"\xa5" * (4096 * 7)
    path.write_bytes(content)
    again = SqliteStore(path)
    assert held(again) == {}
    again.close()
    (aside,) = [p for p in tmp_path.iterdir() if ".damaged-" in p.name and p.suffix != ".txt"]
    assert aside.read_bytes() == content
    assert aside.with_name(aside.name + ".txt").read_text().strip()


def test_a_store_that_takes_the_place_of_a_damaged_one_is_its_users_alone(tmp_path: Path) -> None:
    """It, its WAL, the damaged one, and the note beside that are read and written by nobody else."""
    path, mask = tmp_path / "s", os.umask(0o022)
    try:
        SqliteStore(path).close()
        path.write_bytes(b"\xa5" * 8192)
        with closing(SqliteStore(path)) as store:
            store.write([Put("", Kind.TASK, "t", b"1")])
            modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in tmp_path.iterdir()}
    finally:
        os.umask(mask)
    assert len(modes) >= 5
    assert set(modes.values()) == {0o600}, modes


def test_damage_that_an_opening_has_no_time_to_find_is_met_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large store is opened at once; whoever meets damage is told, and the next opening looks until it is found."""
    path = tmp_path / "s"
    store = SqliteStore(path)
    store.write([Put("", Kind.TASK, str(number), bytes(2000)) for number in range(100)])
    store.close()
    content = bytearray(path.read_bytes())
    content[4096 * 8 : 4096 * 30] = b"\xa5" * (4096 * 22)
    path.write_bytes(content)
    monkeypatch.setattr(sqlite_file, "CHECK_S", -1.0)
    monkeypatch.setattr(sqlite_file, "CHECK_STEPS", 1)
    for _ in range(2):
        store = SqliteStore(path)
        assert not [each for each in tmp_path.iterdir() if ".damaged-" in each.name]
        store.close()
    store = SqliteStore(path)
    with pytest.raises(StoreUnavailableError, match="it is damaged; a restart sets it aside"):
        list(store.records(Kind.TASK))
    store.close()
    again = SqliteStore(path)
    assert held(again) == {}
    again.close()
    names = [each.name for each in tmp_path.iterdir()]
    assert any(".damaged-" in name for name in names)
    assert not any("suspect" in name for name in names)


@pytest.mark.parametrize("content", [b"no database at all, but long enough to be one" * 100, b"SQLite format 3\0"])
def test_a_store_whose_header_is_destroyed_is_set_aside(content: bytes, tmp_path: Path) -> None:
    """What is no database any more, but has a kernel's lock file beside it, is kept under another name."""
    SqliteStore(tmp_path / "s").close()
    (tmp_path / "s").write_bytes(content)
    store = SqliteStore(tmp_path / "s")
    store.write([Put("", Kind.TASK, "t", b"1")])
    store.close()
    (aside,) = [p for p in tmp_path.iterdir() if ".damaged-" in p.name and p.suffix != ".txt"]
    assert aside.read_bytes() == content


def notes(mark: int) -> bytes:
    """A database of another program."""
    database = sqlite3.connect(":memory:")
    database.executescript(f"CREATE TABLE notes(a); INSERT INTO notes VALUES('dear'); PRAGMA application_id = {mark}")
    return database.serialize()


@pytest.mark.parametrize("mends", [True, False])
@pytest.mark.parametrize(
    ("content", "locked"),
    [
        (notes(0), False),
        (notes(0), True),
        (notes(7), False),
        (notes(7), True),
        (b"my diary, one page" * 100, False),
        (b"x", False),
        (b"SQLite format 3\0", False),
    ],
)
def test_a_file_of_another_program_is_refused_and_left_alone(
    content: bytes, *, locked: bool, mends: bool, tmp_path: Path
) -> None:
    """It is refused by name and stays as it is, with its time, and nothing is made beside it, also beside a lock."""
    path = tmp_path / "s"
    path.write_bytes(content)
    if locked:
        (tmp_path / "s.lock").touch()
    before = path.stat().st_mtime_ns, sorted(tmp_path.iterdir())
    with pytest.raises(StoreUnavailableError, match="name another store") as caught:
        SqliteStore(path, mends=mends)
    assert caught.value.metadata["cause"] == "not a store"
    assert path.read_bytes() == content
    assert (path.stat().st_mtime_ns, sorted(tmp_path.iterdir())) == before


def test_a_new_store_is_marked_before_a_kernel_can_die_with_it(tmp_path: Path) -> None:
    """The file alone, without its WAL and its lock, is known as ours from when it is opened."""
    store = SqliteStore(tmp_path / "s")
    shutil.copyfile(tmp_path / "s", tmp_path / "alone")
    SqliteStore(tmp_path / "alone").close()
    store.close()


def test_a_newer_schema_is_refused_and_left_alone(stores: Stores) -> None:
    """A store that a newer kernel has written is refused with both versions, and not touched."""
    store = stores.open()
    store.write([Put("", Kind.TASK, "t", b"1")])
    stores.run(store, stores.newer)
    store.close()
    before = stores.path.read_bytes() if isinstance(stores, Sqlite) else b""
    with pytest.raises(StoreUnavailableError, match=f"has schema 99 and this kernel knows {stores.known}") as caught:
        stores.open()
    assert caught.value.metadata == {"cause": "newer schema", "schema": "99", "known": str(stores.known)}
    if isinstance(stores, Sqlite):
        assert stores.path.read_bytes() == before


def test_a_full_store_says_so_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    """A write that finds no room is refused by name and leaves nothing; with room again it is done."""
    store = SqliteStore(tmp_path / "s")
    store.write([Put("", Kind.TASK, "kept", b"1")])
    (pages,) = next(store._database.execute("PRAGMA page_count"))
    store._database.execute(f"PRAGMA max_page_count = {pages}")
    large = Put("", Kind.TASK, "large", bytes(1 << 20))
    with pytest.raises(StoreUnavailableError, match="disk is full") as caught:
        store.write([Put("", Kind.TASK, "small", b"2"), large])
    assert caught.value.retry_after_s is not None
    assert [record.key for record in store.records(Kind.TASK)] == ["kept"]
    store._database.execute("PRAGMA max_page_count = 1000000")
    store.write([large])
    assert [record.key for record in store.records(Kind.TASK)] == ["kept", "large"]
    store.close()


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    """A store whose folder cannot be made is refused with its path and the system's reason."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreUnavailableError, match="cannot be made"):
        SqliteStore(tmp_path / "file" / "s")


def test_values_are_bound_to_their_place(stores: Stores, store: Store) -> None:
    """A value that was changed, or moved to another key, behind the store's back is told by `check` and not read.

    Whoever asks to be told reads the others.
    """
    store.write([Put("", Kind.TASK, name, name.encode()) for name in "abc"])
    stores.run(store, "UPDATE records SET value = (SELECT value FROM records WHERE key = 'a') WHERE key = 'b'")
    (wrong,) = store.check()
    assert "in another's place" in wrong
    for reading in (held, lambda which: list(which.kept())):
        with pytest.raises(DamagedError, match="in another's place"):
            reading(store)
    told: list[tuple[str, str]] = []
    left = list(store.records(Kind.TASK, lambda tenant, key, _: told.append((tenant, key))))
    assert ([record.key for record in left], told) == (["a", "c"], [("", "b")])


def test_all_that_is_kept_makes_another_store(store: Store, tmp_path: Path) -> None:
    """What `kept` tells, written to an empty store as one write, makes the same: records, pieces, numbers, tenants."""
    made: list[Write] = [
        Put(tenant, Kind.TASK, f"{number}", os.urandom(50)) for tenant in "ab" for number in range(300)
    ]
    made += [Append("a", Kind.TASK, "7", number, os.urandom(100)) for number in range(600)]  # more than a page
    made += [Append("a", Kind.TASK, "8", 1, os.urandom(9 << 20)), Append("a", Kind.TASK, "8", 2, b""), *made[:3]]
    store.write(made)
    with closing(SqliteStore(tmp_path / "other")) as other:
        other.write(store.kept())
        assert held(other) == held(store) == model_of(made)
        assert set(other.kept()) == set(store.kept())


def test_others_cannot_read_it(tmp_path: Path) -> None:
    """The folder that it makes, and the file, are their owner's alone."""
    store = SqliteStore(tmp_path / "made" / "s")
    store.write([Put("", Kind.TASK, "a", b"a secret")])
    for path in (tmp_path / "made", *(tmp_path / "made").iterdir()):
        assert not stat.S_IMODE(path.stat().st_mode) & 0o077, path
    store.close()


def test_an_old_library_is_refused() -> None:
    """A version of SQLite that can damage files is refused by its number; the first that cannot is not."""
    with pytest.raises(StoreUnavailableError, match=r"SQLite 3\.51\.2 can damage"):
        check_library("3.51.2")
    check_library("3.51.3")
    check_library("3.54.1")
