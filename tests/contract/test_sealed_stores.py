"""What is kept is sealed, on every kind of store: nothing of it is to be read, to be changed or to be moved."""

import shutil
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import apsw
import pytest
from stores import Postgres, Sqlite, Stores, held, raw_value

from inferd.config import Settings
from inferd.errors import StoreUnavailableError
from inferd.store import sqlite_file
from inferd.store.postgres import PostgresStore
from inferd.store.sealing import resealing
from inferd.store.sealing.key_source import CREDENTIAL, Kek, KeyCommand, KeyFile, source_of
from inferd.store.sealing.sealed import Sealing
from inferd.store.sealing.turning import shred
from inferd.store.sqlite import BEFORE_COMMIT, SqliteStore
from inferd.store.store import Append, DamagedError, Kind, Put, SealError, Store, Write
from inferd.store_settings import usual_key_file

CANARY = "canary-7c1f0a95"
DIGEST = "5e" * 32


@pytest.fixture
def sealing(tmp_path: Path) -> Sealing:
    return Sealing(KeyFile(tmp_path / "apart" / "store.key"), on=True)


def ignore(*_: object) -> None:
    """Whoever is told of damage does nothing."""


def told(canary: str = CANARY) -> list[Write]:
    """Of each kind a record and a piece, and of two tenants."""
    value = f'{{"said": "{canary}"}}'.encode() * 40
    return [
        write
        for tenant in ("one", "two")
        for kind in Kind
        for write in (Put(tenant, kind, DIGEST, value), Append(tenant, kind, DIGEST, 1, value))
    ]


def on_disk(stores: Stores) -> Iterator[bytes]:
    """All that lies there of a store: the file and what is beside it, or the rows of all tables of the database."""
    if isinstance(stores, Sqlite):
        for path in stores.path.parent.rglob("*"):
            if path.is_file() and path.parent.name != "apart":
                yield path.read_bytes()
        return
    with stores.server.connect(stores.database) as connection:
        schemas = connection.execute("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'inferd%'").fetchall()
        for (schema,) in schemas:
            tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = %s", (schema,)).fetchall()
            for (table,) in tables:
                query = f"SELECT t::text, t.* FROM {schema}.{table} t"  # noqa: S608 - of tests
                for row in connection.execute(query).fetchall():  # type: ignore[arg-type] # ours
                    yield b" ".join(each if isinstance(each, bytes) else str(each).encode() for each in row)


def test_nothing_of_what_is_kept_is_to_be_read(stores: Stores, sealing: Sealing, tmp_path: Path) -> None:
    """While it is open and when it is closed no value, and no digest of a blob, is in the file, its log or its rows."""
    with closing(stores.open(sealing=sealing)) as store:
        store.write(told())
        assert not [each for each in on_disk(stores) if CANARY.encode() in each]
    written = list(on_disk(stores))
    assert not [each for each in written if CANARY.encode() in each]
    for kind in ("blob", "upload", "output"):
        rows = raw_rows(stores, f"kind = '{kind}'")
        assert len({key for _, key, _ in rows}) == 2  # of each tenant another one
        assert all(DIGEST not in key for _, key, _ in rows)
    key = tmp_path / "apart" / "store.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert not [each for each in written if key.read_bytes().split()[-1] in each]
    with closing(stores.open(sealing=sealing)) as store:
        assert held(store).keys() == {(tenant, kind, DIGEST) for tenant in ("one", "two") for kind in Kind}
        assert all(CANARY.encode() in value for value, _ in held(store).values())


def raw_rows(stores: Stores, where: str) -> list[tuple[str, str, bytes]]:
    query = f"SELECT tenant, key, value FROM records WHERE {where} ORDER BY tenant, key"  # noqa: S608 - of tests
    if isinstance(stores, Sqlite):
        with closing(apsw.Connection(str(stores.path))) as database:
            return list(database.execute(query))
    with stores.server.connect(stores.database) as connection:
        connection.execute("SET search_path = inferd")
        return connection.execute(query).fetchall()  # type: ignore[arg-type] # ours


SWAPS = {
    "tenants": "UPDATE records SET tenant = CASE tenant WHEN 'one' THEN 'two' ELSE 'one' END",
    "values of tenants": "UPDATE records SET value = (SELECT o.value FROM records o WHERE o.kind = records.kind AND"
    " o.key = records.key AND o.tenant <> records.tenant)",
    "values of kinds": "UPDATE records SET value = (SELECT o.value FROM records o WHERE o.key = records.key AND"
    " o.tenant = records.tenant AND o.kind = CASE records.kind WHEN 'task' THEN 'model' ELSE 'task' END)",
    "pieces": "UPDATE pieces SET number = 2",
    "pieces and records": "UPDATE pieces SET value = (SELECT o.value FROM records o WHERE o.key = pieces.key AND"
    " o.tenant = pieces.tenant AND o.kind = pieces.kind)",
    "keys": "UPDATE records SET key = 'other'",
    "keys of tenants": "UPDATE data_keys SET wrapped = (SELECT o.wrapped FROM data_keys o WHERE o.tenant NOT IN"
    " ('', data_keys.tenant) AND o.number = data_keys.number) WHERE number > 0 AND tenant <> ''",
}


@pytest.mark.parametrize("swap", SWAPS.values(), ids=SWAPS)
def test_what_is_moved_is_found(swap: str, stores: Stores, sealing: Sealing) -> None:
    """Rows swapped between tenants, kinds, keys, numbers and tables: each is told as damaged, and none is read."""
    writes: list[Write] = [
        write
        for tenant in ("one", "two")
        for kind in (Kind.TASK, Kind.MODEL)
        for write in (Put(tenant, kind, "k", f"{tenant} {kind}".encode()), Append(tenant, kind, "k", 1, b"piece"))
    ]
    with closing(stores.open(sealing=sealing)) as store:
        store.write(writes)
        if isinstance(stores, Sqlite) or "CASE tenant" not in swap:
            stores.run(store, swap if "CASE tenant" not in swap else "UPDATE records SET tenant = tenant || '-'")
        if "CASE tenant" in swap:  # in steps, as each name is one
            if isinstance(stores, Postgres):
                stores.run(store, "UPDATE records SET tenant = tenant || '-'")
            stores.run(store, "UPDATE records SET tenant = CASE tenant WHEN 'one-' THEN 'two' ELSE 'one' END")
    with closing(stores.open(sealing=sealing)) as store:
        assert len(store.check()) >= 2
        found: list[tuple[str, str]] = []
        for kind in (Kind.TASK, Kind.MODEL):
            list(store.records(kind, lambda tenant, key, _: found.append((tenant, key))))
        moved = "pieces" in swap
        assert len(found) in ({0} if moved else {2, 4})  # SQLite exchanges one after the other
        if moved:
            with pytest.raises(DamagedError):
                list(store.pieces("one", Kind.TASK, "k"))


def test_each_page_that_is_changed_is_found(tmp_path: Path, sealing: Sealing) -> None:
    """In each page of a small file bytes are changed: what is used is found, and no value that is read is another."""
    place = Sqlite(tmp_path)
    with closing(place.open(sealing=sealing)) as store:
        store.write([Put("one", Kind.TASK, f"{number:02}", bytes([number]) * 1500) for number in range(8)])
        store.compact()
        kept = held(store)
    content, found = place.path.read_bytes(), 0
    cells = {content.index(value[at : at + 9]) for _, _, value in raw_rows(place, "true") for at in (0, 700)}
    for at in sorted({*range(100, len(content), 1999), *cells}):
        place.path.write_bytes(content[:at] + bytes([content[at] ^ 0x10]) + content[at + 1 :])
        wrong: list[str] = []
        try:
            with closing(place.open(sealing=Sealing(sealing.source, on=True, reads=True), reads=True)) as store:
                wrong = store.check()
                read = {record.key: record.value for record in store.records(Kind.TASK, ignore)}
        except StoreUnavailableError as error:
            wrong, read = [error.message], {}
        assert wrong or held_keys(kept) == read, at
        assert all(held_keys(kept).get(key) == value for key, value in read.items())
        found += bool(wrong)  # else nobody uses the byte
    assert found >= len(cells) // 2 >= 8


def held_keys(kept: dict[Any, Any]) -> dict[str, bytes]:
    return {key: value for (_, _, key), (value, _) in kept.items()}


def unsealed(stores: Stores, source: Sealing) -> dict[Any, Any]:
    """A store of before: with schema 1, and nothing sealed. What it has."""
    with closing(stores.open(sealing=Sealing(source.source, on=False))) as store:
        store.write(told())
        kept = held(store)
        version = "PRAGMA user_version = 1" if isinstance(stores, Sqlite) else "UPDATE inferd_store SET version = 1"
        stores.run(store, "DROP TABLE data_keys")
        if not isinstance(stores, Sqlite):
            stores.run(store, "DROP TABLE kernels")
            stores.run(store, "ALTER TABLE inferd_store DROP COLUMN epoch")
        stores.run(store, version)
    assert [each for each in on_disk(stores) if CANARY.encode() in each]
    return kept


def test_what_was_kept_before_is_sealed(stores: Stores, sealing: Sealing) -> None:
    """An older store has all that it had, and nothing of that is to be read any more: not in a copy of it either."""
    kept = unsealed(stores, sealing)
    with closing(stores.open(sealing=sealing)) as store:
        assert (store.opened_schema, store.schema) == (1, stores.known)
        assert held(store) == kept
        assert store.check() == []
    assert not [each for each in on_disk(stores) if CANARY.encode() in each]
    if isinstance(stores, Sqlite):
        assert sqlite_file.copies_of(stores.path, 1) == []


def test_sealing_that_is_cut_off_goes_on(stores: Stores, sealing: Sealing, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever write it dies at, the next start goes on and nothing is lost; until then the copy of before is."""
    kept = unsealed(stores, sealing)
    monkeypatch.setattr(resealing.resealed, "__kwdefaults__", {"most": 7, "most_bytes": 4 << 20})

    class CutError(Exception):
        pass

    for last in (1, 3, 5):
        count = 0

        def cut(where: str) -> None:
            nonlocal count
            count += where == BEFORE_COMMIT
            if count >= last:  # noqa: B023 - called within this round
                raise CutError

        with pytest.raises(CutError):
            stores.open(sealing=sealing, at_point=cut)
        if isinstance(stores, Sqlite):
            assert sqlite_file.copies_of(stores.path, 1)
    with closing(stores.open(sealing=sealing)) as store:
        assert held(store) == kept
    assert not [each for each in on_disk(stores) if CANARY.encode() in each]


def test_a_copy_of_before_goes_though_the_kernel_was_killed(
    stores: Stores, sealing: Sealing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the word that all is sealed and the end of the copy that is not: the next start removes that."""
    unsealed(stores, sealing)
    with monkeypatch.context() as patch:
        patch.setattr(SqliteStore, "drop_unsealed", ignore)
        patch.setattr(PostgresStore, "drop_unsealed", ignore)
        stores.open(sealing=sealing).close()
    assert [each for each in on_disk(stores) if CANARY.encode() in each]
    stores.open(sealing=sealing).close()
    assert not [each for each in on_disk(stores) if CANARY.encode() in each]


def test_a_tenant_is_shredded_in_copies_of_before_too(stores: Stores, sealing: Sealing) -> None:
    """A copy that was made before the schema became newer has its keys and rows: it goes before they do."""
    with closing(stores.open(sealing=sealing)) as store:
        store.write([Put("one", Kind.TASK, "t", b"1")])
        if isinstance(stores, Postgres):
            stores.run(store, "DROP TABLE kernels; ALTER TABLE inferd_store DROP COLUMN epoch")
            stores.run(store, "UPDATE inferd_store SET version = 2")
    if isinstance(stores, Sqlite):
        shutil.copyfile(stores.path, stores.path.with_name(f"{stores.path.name}.schema-2-20260101T000000Z"))
    with closing(stores.open(sealing=sealing)) as store:
        assert len(copies_of(stores)) == 1
        shred(store, "one")
        assert copies_of(stores) == []


def copies_of(stores: Stores) -> list[str]:
    """The copies of a store that are left."""
    if isinstance(stores, Sqlite):
        return [path.name for path in stores.path.parent.glob("*.schema-*")]
    with stores.server.connect(stores.database) as connection:
        query = "SELECT nspname FROM pg_namespace WHERE nspname LIKE 'inferd\\_schema\\_%'"
        return [name for (name,) in connection.execute(query).fetchall()]


def test_a_lost_or_another_key_is_refused(stores: Stores, sealing: Sealing, tmp_path: Path) -> None:
    """The start is refused with the file and the fix; nothing is made or changed, and with the key all is there."""
    with closing(stores.open(sealing=sealing)) as store:
        store.write(told())
        kept = held(store)
    key = tmp_path / "apart" / "store.key"
    right = key.read_bytes()
    before = list(on_disk(stores))
    key.unlink()
    for cause in ("lost key", "wrong key"):
        with pytest.raises(SealError, match=f"{key}.*store.key_file.*Nothing was changed") as caught:
            stores.open(sealing=sealing)
        assert caught.value.metadata["cause"] == cause
        assert key.exists() == (cause == "wrong key")
        KeyFile(key).make([Kek.made()], replaces=True)
    key.write_bytes(right)
    key.chmod(0o644)
    with pytest.raises(SealError, match="chmod 600"):
        stores.open(sealing=sealing)
    key.chmod(0o600)
    assert len(list(on_disk(stores))) == len(before)
    with closing(stores.open(sealing=sealing)) as store:
        assert held(store) == kept


def test_what_nobody_sealed_is_not_taken_for_kept(stores: Stores, sealing: Sealing) -> None:
    """A row that was put there unsealed, as by who can write the database, is damaged; until sealing is off."""
    with closing(stores.open(sealing=sealing)) as store:
        store.write([Put("one", Kind.TASK, "t", b"1")])
    with closing(stores.open(sealing=Sealing(sealing.source, on=False))) as store:
        store.write([Put("one", Kind.TASK, "u", b"2")])
        assert held(store) == {("one", Kind.TASK, "t"): (b"1", []), ("one", Kind.TASK, "u"): (b"2", [])}
    rows = raw_rows(stores, "key = 'u'")
    with closing(stores.open(sealing=sealing)) as store:  # and is on again
        assert len(held(store)) == 2
        written = ("x'{}'" if isinstance(stores, Sqlite) else "'\\x{}'").format(rows[0][2].hex())
        stores.run(store, f"UPDATE records SET value = {written} WHERE key = 'u'")  # noqa: S608 - of tests
        with pytest.raises(DamagedError, match="is not sealed"):
            held(store)


@pytest.mark.parametrize("change", ["DELETE FROM data_keys", "UPDATE data_keys SET wrapped = ''"])
def test_nobody_without_the_key_has_his_rows_sealed(change: str, stores: Stores, sealing: Sealing) -> None:
    """A store that does not say, sealed, whether all of it is, is refused: else plain rows would be sealed."""
    with closing(stores.open(sealing=Sealing(sealing.source, on=False))) as store:
        store.write([Put("one", Kind.RULE, "forged", b"all")])
    with closing(stores.open(sealing=sealing)) as store:
        assert held(store).keys() == {("one", Kind.RULE, "forged")}
        stores.run(store, f"{change} WHERE tenant = '' AND number = 0")
    for _ in range(2):
        with pytest.raises(SealError, match=r"Put a backup back.*sealing = \"off\"") as caught:
            stores.open(sealing=sealing)
        assert caught.value.metadata["cause"] == "no mark"
    for on in (False, True):  # as whoever trusts what is there
        with closing(stores.open(sealing=Sealing(sealing.source, on=on))) as store:
            assert len(held(store)) == 1


def test_keys_come_from_a_file_a_credential_or_a_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command goes before a credential of systemd's, and that before the file; what fails says so, and no secret."""
    KeyFile(tmp_path / CREDENTIAL).make([Kek(b"c" * 32)])
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)

    def place(*words: str) -> Any:
        return Settings(store={"key_file": tmp_path / "f", "key_command": words, "key_timeout_s": 0.2}).store_place  # type: ignore[arg-type] # what it is read from

    assert source_of(place()).read() == []
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert source_of(place()).read() == [Kek(b"c" * 32)]
    assert source_of(place("cat", str(tmp_path / CREDENTIAL))).read() == [Kek(b"c" * 32)]
    for words, why in (
        (("cat", "none"), "ended with 1"),
        (("none-such",), "cannot be run"),
        (("sleep", "9"), "within"),
    ):
        with pytest.raises(SealError, match=why):
            source_of(place(*words)).read()
    assert isinstance(source_of(place("cat")), KeyCommand)


def test_the_usual_key_lies_apart(tmp_path: Path) -> None:
    """Beside the configuration, also where its folder is not there yet; in the state's where that cannot be."""
    state = tmp_path / "state"
    assert usual_key_file(tmp_path / "a" / "b", state) == tmp_path / "a" / "b" / "store.key"
    (tmp_path / "file").touch()
    assert usual_key_file(tmp_path / "file" / "b", state) == state / "store.key"
    state.mkdir()
    (state / "store.key").touch()
    assert usual_key_file(tmp_path / "a", state) == state / "store.key"


def test_a_backup_is_sealed_and_has_no_key(stores: Stores, sealing: Sealing, tmp_path: Path) -> None:
    """A copy of a store has nothing that is to be read, nor the key."""
    with closing(stores.open(sealing=sealing)) as store:
        store.write(told())
        copy = copied(store, tmp_path / "copy")
    assert CANARY.encode() not in copy
    assert (tmp_path / "apart" / "store.key").read_bytes().split()[-1] not in copy
    assert raw_value(tmp_path / "copy", "records", "kind = 'task' AND tenant = 'one'")[:1] == b"\2"


def copied(store: Store, path: Path) -> bytes:
    path.touch()
    copy = store.copy(path)
    while not copy.step(1.0):
        pass
    copy.close()
    return path.read_bytes()
