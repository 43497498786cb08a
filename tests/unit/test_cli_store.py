"""`inferd store` on files that a kernel has left."""

import json
import os
import shutil
import stat
from contextlib import closing
from pathlib import Path

import pytest
from postgres_server import PostgresServer
from stores import Sqlite, Stores, opened_store, raw_value
from typer.testing import CliRunner, Result

from inferd.cli.main import app
from inferd.store import sqlite_file
from inferd.store.store import NO_TENANT, Append, Drop, Kind, Put, Store


def inferd(*words: object) -> Result:
    return CliRunner().invoke(app, ["store", *map(str, words)])


def fill(store: Store) -> None:
    """A model and a task."""
    store.write(
        [
            Put(NO_TENANT, Kind.MODEL, "m", b'{"name":"m"}'),
            Put("a", Kind.TASK, "t", b'{"id":"t"}\0\xff\x00work'),
            Put("a", Kind.PROGRESS, "t", b'{"state":3}'),
            Append("a", Kind.TASK, "t", 1, b'[[1,"queued",0,null]]'),
            Append("a", Kind.TASK, "t", 3, b'[[3,"run",["x","y"],[1,1],[7,8]]]'),
        ]
    )


@pytest.fixture
def named(stores: Stores) -> tuple[str, str]:
    """The option that names a store with a model and a task."""
    with closing(stores.open()) as store:
        fill(store)
    return ("--file", str(stores.path)) if isinstance(stores, Sqlite) else ("--url", stores.settings["url"])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A store in a file, with a model and a task."""
    path = tmp_path / "s"
    with closing(opened_store(path)) as store:
        fill(store)
    return path


def test_check_tells_what_there_is(named: tuple[str, str]) -> None:
    """A whole store is counted, for people and as JSON."""
    assert "1 task and 1 model, nothing is damaged" in inferd("check", *named).stdout
    told = json.loads(inferd("check", *named, "-o", "json").stdout)
    assert told["records"] == {"task": 1, "progress": 1, "model": 1, "lease": 0}


def test_check_tells_what_is_damaged_and_leaves_it(file: Path) -> None:
    """A damaged file is an error that says where, and the file stays where and as it is."""
    content = bytearray(file.read_bytes())
    content[4096 : 4096 * 3] = b"\xa5" * (4096 * 2)
    file.write_bytes(content)
    result = inferd("check", "--file", file, "-o", "json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["error"]["reason"] in {"STORE_DAMAGED", "STORE_UNAVAILABLE"}
    assert file.read_bytes() == content


def killed(file: Path, folder: Path) -> Path:
    """The files that a kernel leaves which is killed: nearly all is in the WAL."""
    folder.mkdir()
    with closing(opened_store(file)) as store:
        for number in range(20):
            store.write([Put("a", Kind.MODEL, f"{number}", b'{"name":"' + b"x" * 3000 + b'"}')])
        for each in file.parent.glob(f"{file.name}*"):
            shutil.copy(each, folder)
    return folder / file.name


def test_a_wal_that_is_damaged_in_its_middle_is_told_and_set_aside(file: Path, tmp_path: Path) -> None:
    """What was committed behind a damaged frame is lost, which a check tells, and a kernel keeps all there was."""
    left = killed(file, tmp_path / "left")
    wal = left.with_name("s-wal")
    whole = wal.read_bytes()
    assert "1 task and 21 models" in inferd("check", "--file", left).stdout
    wal.write_bytes(whole[:40000] + b"x" * 5000 + whole[45000:])
    damaged = wal.read_bytes()
    result = inferd("check", "--file", left)
    assert result.exit_code == 1
    assert "frames that were committed cannot be read" in result.output
    assert wal.read_bytes() == damaged
    with closing(opened_store(left)) as store:
        assert not list(store.records(Kind.MODEL))
    (aside,) = tmp_path.glob("left/s.damaged-*-wal")
    assert aside.read_bytes() == damaged


def test_a_wal_that_was_cut_off_is_whole(file: Path, tmp_path: Path) -> None:
    """A write that a crash broke off was not acknowledged: what is before it is all there was."""
    left = killed(file, tmp_path / "left")
    wal = left.with_name("s-wal")
    whole = wal.read_bytes()
    wal.write_bytes(whole[:-9000] + b"y" * 1000 + whole[-8000:])
    assert "1 task and 20 models" in inferd("check", "--file", left).stdout


@pytest.mark.parametrize("command", ["check", "export"])
def test_a_command_that_reads_changes_nothing(command: str, file: Path, tmp_path: Path) -> None:
    """A copy of a killed kernel's files is read with its WAL; no byte of them changes, and no file comes beside."""
    folder = killed(file, tmp_path / "left").parent
    folder.joinpath("s.lock").unlink()
    before = {each.name: (each.read_bytes(), each.stat().st_mtime_ns) for each in folder.iterdir()}
    result = inferd(command, "--file", folder / "s", "-o", "json")
    assert result.exit_code == 0
    assert result.stdout.count("xxxx") > 20 if command == "export" else json.loads(result.stdout)["ok"]
    assert {each.name: (each.read_bytes(), each.stat().st_mtime_ns) for each in folder.iterdir()} == before


@pytest.mark.parametrize("url", ["sqlite:/", "sqlite:///", "sqlite:{folder}", "sqlite:{folder}/a?mode=ro"])
def test_a_url_of_no_file_says_what_to_write(url: str, tmp_path: Path) -> None:
    """A folder and parameters are refused by name, and nothing is made."""
    result = inferd("check", "--url", url.format(folder=tmp_path), "-o", "json")
    error = json.loads(result.stdout)["error"]
    assert error["reason"] == "STORE_UNAVAILABLE"
    assert "names a folder" in error["message"] or "has parameters" in error["message"]
    assert not list(tmp_path.iterdir())


def test_compact_gives_room_back(named: tuple[str, str], stores: Stores) -> None:
    """What was dropped takes no room afterwards, and the rest is still there."""
    with closing(stores.open()) as store:
        store.write([Append("a", Kind.TASK, "large", number, os.urandom(1 << 16)) for number in range(20)])
        store.write([Drop("a", Kind.TASK, "large")])
    told = json.loads(inferd("compact", *named, "-o", "json").stdout)
    assert told["before_bytes"] - told["after_bytes"] > 1 << 20
    assert "1 task" in inferd("check", *named).stdout


def test_export_writes_a_line_for_each(named: tuple[str, str]) -> None:
    """Models and tasks come as JSON lines, a task with where it stands and its events."""
    model, task = map(json.loads, inferd("export", *named).stdout.splitlines())
    assert model == {"kind": "model", "name": "m"}
    events = [[1, "queued", 0, None], [3, "run", ["x", "y"], [1, 1], [7, 8]]]
    assert task == {"kind": "task", "id": "t", "work": "/wB3b3Jr", "progress": {"state": 3}, "events": events}


def test_what_is_damaged_or_missing_is_told_and_the_rest_exported(named: tuple[str, str], stores: Stores) -> None:
    """A changed event and a task of which nobody knows where it stands are told by `check`; `export` has the rest."""
    with closing(stores.open()) as store:
        store.write([Put("a", Kind.TASK, "lost", b'{"id":"lost"}\0'), Put("a", Kind.TASK, "u", b'{"id":"u"}\0')])
        store.write([Put("a", Kind.PROGRESS, "u", b"{}")])
    result = inferd("check", *named, "-o", "json")
    assert (result.exit_code, "task lost of 'a': where it stands is not kept" in result.stdout) == (1, True)
    with closing(stores.open()) as store:
        stores.run(store, "UPDATE pieces SET value = substr(value, 1, length(value) - 1) WHERE number = 3")
    assert "it is damaged" in inferd("check", *named, "-o", "json").stdout
    result = inferd("export", *named)
    told = [(line["kind"], line.get("id", line.get("key"))) for line in map(json.loads, result.stdout.splitlines())]
    assert (result.exit_code, told) == (0, [("model", None), ("damaged", "lost"), ("damaged", "t"), ("task", "u")])


@pytest.mark.parametrize(("piece", "said"), [(3, "events 2 to 3 are missing"), (5, "events 4 to 5 are missing")])
def test_events_that_are_missing_are_told(named: tuple[str, str], stores: Stores, piece: int, said: str) -> None:
    """A piece that is not there, in the middle or at the end, is told by `check`; what overlaps is not damage."""
    with closing(stores.open()) as store:
        store.write([Put("a", Kind.PROGRESS, "t", b'{"state":3,"last":5}')])
        store.write(
            [Append("a", Kind.TASK, "t", 5, b'[[3,"run",["x","y"],[1,1],[7,8]],[5,"run",["z","!"],[1,1],[9,9]]]')]
        )
    assert inferd("check", *named).exit_code == 0
    with closing(stores.open()) as store:
        store.write([Append("a", Kind.TASK, "t", 5, b'[[5,"run",["z","!"],[1,1],[9,9]]]')])
        stores.run(store, f"DELETE FROM pieces WHERE number = {piece}")  # noqa: S608 - ours
    assert f"task t of 'a': {said}" in inferd("check", *named, "-o", "json").stdout


def test_a_store_that_a_kernel_has_is_left_alone(named: tuple[str, str], stores: Stores) -> None:
    """While a process has the store the commands are refused, with its id."""
    with closing(stores.open()):
        result = inferd("export", *named, "-o", "json")
    assert result.exit_code == 1
    error = json.loads(result.stdout)["error"]
    assert (error["reason"], error["metadata"]["cause"]) == ("STORE_UNAVAILABLE", "in use")


def test_no_store_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no file, or none is configured, that is said, and nothing is made."""
    assert json.loads(inferd("check", "--file", tmp_path / "s", "-o", "json").stdout)["error"]["reason"] == "NO_STORE"
    monkeypatch.setenv("INFERD_STORE__URL", "memory:")
    assert "store.url is memory:" in inferd("check", "-o", "json").stdout
    monkeypatch.setenv("INFERD_STORE__URL", f"sqlite:{tmp_path}/other")
    assert f"no store {tmp_path}/other" in inferd("check", "-o", "json").stdout
    assert not list(tmp_path.iterdir())


def test_no_store_in_a_database_is_an_error(stores: Stores) -> None:
    """Where a database or a folder has none, that is said, and none is made; two names are one too many."""
    named = ("--file", str(stores.path)) if isinstance(stores, Sqlite) else ("--url", stores.settings["url"])
    for command in ("check", "compact", "export", "migrate"):
        result = inferd(command, *named, "-o", "json")
        assert (result.exit_code, json.loads(result.stdout)["error"]["reason"]) == (1, "NO_STORE")
    assert "leave one out" in inferd("check", "--file", "s", "--url", "sqlite:/s").output


def test_a_store_is_copied_to_another_one(
    named: tuple[str, str], stores: Stores, tmp_path: Path, postgres: PostgresServer
) -> None:
    """`migrate --to` copies all to an empty store of either kind, leaves the first as it is, and adds to no other."""
    database = postgres.make_database()
    before = inferd("export", *named).stdout
    for url in (f"sqlite:{tmp_path}/copy/store", postgres.url(database)):
        told = json.loads(inferd("migrate", *named, "--to", url, "-o", "json").stdout)
        assert told["copied"] == 5
        assert inferd("export", "--url", url).stdout == before == inferd("export", *named).stdout
        again = inferd("migrate", *named, "--to", url, "-o", "json")
        assert (again.exit_code, json.loads(again.stdout)["error"]["reason"]) == (1, "STORE_NOT_EMPTY")
        assert inferd("export", "--url", url).stdout == before
    assert "names the store itself" in inferd("migrate", *named, "--to", stores.settings["url"]).output
    postgres.drop_database(database)


def test_a_damaged_store_is_not_copied_in_part(named: tuple[str, str], stores: Stores, tmp_path: Path) -> None:
    """One damaged value, and nothing is copied: the other store stays empty, and takes all once that was dropped."""
    with closing(stores.open()) as store:
        stores.run(store, "UPDATE pieces SET value = substr(value, 1, length(value) - 1) WHERE number = 3")
    url = f"sqlite:{tmp_path}/copy/store"
    result = inferd("migrate", *named, "--to", url, "-o", "json")
    assert (result.exit_code, json.loads(result.stdout)["error"]["reason"]) == (1, "STORE_UNAVAILABLE")
    assert inferd("export", "--url", url).stdout == ""
    with closing(stores.open()) as store:
        stores.run(store, "DELETE FROM pieces WHERE number = 3")
    assert json.loads(inferd("migrate", *named, "--to", url, "-o", "json").stdout)["copied"] == 4


def test_an_older_file_is_copied_and_brought_up(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who only looks is told to migrate; `migrate` keeps a copy of what was, which is a whole store, and says both."""
    assert "there is nothing to do" in inferd("migrate", "--file", file).stdout
    before = inferd("export", "--file", file).stdout
    with monkeypatch.context() as patch:
        patch.setattr(
            sqlite_file, "MIGRATIONS", (*sqlite_file.MIGRATIONS, "ALTER TABLE records ADD COLUMN more INTEGER")
        )
        for command in ("check", "compact", "export"):
            assert "`inferd store migrate` brings it up" in inferd(command, "--file", file).output
        told = json.loads(inferd("migrate", "--file", file, "-o", "json").stdout)
        assert (told["schema_before"], told["schema"]) == (2, 3)
        assert inferd("export", "--file", file).stdout == before
    assert "has schema 3 and this kernel knows 2" in inferd("check", "--file", file).output
    (copy,) = sqlite_file.copies_of(file, 2)
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert inferd("export", "--file", copy).stdout == before


def test_a_migration_that_fails_leaves_the_file_as_it_was(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an error in a later statement the file has its old schema and all that it had, and may be tried again."""
    before = inferd("export", "--file", file).stdout
    wrong = ("ALTER TABLE records ADD COLUMN more INTEGER", "SELECT * FROM none")
    for _ in range(2):
        with monkeypatch.context() as patch:
            patch.setattr(sqlite_file, "MIGRATIONS", (*sqlite_file.MIGRATIONS, *wrong))
            assert "no such table" in inferd("migrate", "--file", file).output
        assert inferd("export", "--file", file).stdout == before


def test_no_password_is_told_by_a_command(stores: Stores) -> None:
    """Neither a store that opens nor one that does not is named with its password."""
    if isinstance(stores, Sqlite):
        url = f"sqlite:{stores.path}"
    else:
        url = stores.settings["url"].replace("postgres@", "postgres:s3cret@")
    with closing(stores.open()) as store:
        fill(store)
    for each in (url, url.replace("/test_", "/none_"), url.replace("host=", "hots="), url.replace(":s3c", ":%zzs3c")):
        for command in (("check", "-o", "json"), ("migrate",)):
            assert "s3cret" not in inferd(*command, "--url", each).output
    assert "s3cret" not in inferd("migrate", "--url", url, "--to", url).output


def test_a_damaged_page_costs_what_is_on_it(tmp_path: Path) -> None:
    """`export` has each task of a file that no kernel would open, but those on the page; these are told by name."""
    path = tmp_path / "s"
    with closing(opened_store(path)) as store:
        for number in range(60):
            key = f"t{number:02}"
            store.write([Put("a", Kind.TASK, key, f'{{"id":"{key}","fill":"{"x" * 900}"}}\0'.encode())])
            store.write([Put("a", Kind.PROGRESS, key, b"{}"), Append("a", Kind.TASK, key, 1, b"[]")])
    content = path.read_bytes()
    page = content.index(raw_value(path, "records", "kind = 'task' AND key = 't30'")) // 4096 * 4096
    path.write_bytes(content[:page] + bytes(4096) + content[page + 4096 :])
    assert inferd("check", "--file", str(path)).exit_code == 1
    result = inferd("export", "--file", str(path))
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    told = {
        kind: {line.get("id", line.get("key")) for line in lines if line["kind"] == kind}
        for kind in ("task", "damaged")
    }
    assert result.exit_code == 0
    assert "t30" in told["damaged"]
    assert len(told["damaged"]) < 12
    assert told["task"] | told["damaged"] == {f"t{number:02}" for number in range(60)}
    assert not any(".damaged-" in each.name for each in tmp_path.iterdir())
