"""`inferd store` on files that a kernel has left."""

import json
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from inferd.cli.main import app
from inferd.store.sqlite import SqliteStore
from inferd.store.store import NO_TENANT, Append, Drop, Kind, Put


def inferd(*words: object) -> Result:
    return CliRunner().invoke(app, ["store", *map(str, words)])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A store with a model and a task."""
    path = tmp_path / "s"
    with closing(SqliteStore(path)) as store:
        store.write(
            [
                Put(NO_TENANT, Kind.MODEL, "m", b'{"name":"m"}'),
                Put("a", Kind.TASK, "t", b'{"id":"t"}\0\xff\x00work'),
                Put("a", Kind.PROGRESS, "t", b'{"state":3}'),
                Append("a", Kind.TASK, "t", 1, b'[[1,"queued",0,null]]'),
                Append("a", Kind.TASK, "t", 3, b'[[3,"run",["x"],[1],[7]]]'),
            ]
        )
    return path


def test_check_tells_what_there_is(file: Path) -> None:
    """A whole store is counted, for people and as JSON."""
    assert "1 tasks and 1 models, nothing is damaged" in inferd("check", "--file", file).stdout
    told = json.loads(inferd("check", "--file", file, "-o", "json").stdout)
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


def test_compact_gives_room_back(file: Path) -> None:
    """What was dropped takes no room afterwards, and the rest is still there."""
    with closing(SqliteStore(file)) as store:
        store.write([Append("a", Kind.TASK, "large", number, bytes(1 << 16)) for number in range(20)])
        store.write([Drop("a", Kind.TASK, "large")])
    told = json.loads(inferd("compact", "--file", file, "-o", "json").stdout)
    assert told["before_bytes"] - told["after_bytes"] > 1 << 20
    assert "1 tasks" in inferd("check", "--file", file).stdout


def test_export_writes_a_line_for_each(file: Path) -> None:
    """Models and tasks come as JSON lines, a task with where it stands and its events."""
    model, task = map(json.loads, inferd("export", "--file", file).stdout.splitlines())
    assert model == {"kind": "model", "name": "m"}
    events = [[1, "queued", 0, None], [3, "run", ["x"], [1], [7]]]
    assert task == {"kind": "task", "id": "t", "work": "/wB3b3Jr", "progress": {"state": 3}, "events": events}


def test_what_is_damaged_or_missing_is_told_and_the_rest_exported(file: Path) -> None:
    """A changed event and a task of which nobody knows where it stands are told by `check`; `export` has the rest."""
    with closing(SqliteStore(file)) as store:
        store.write([Put("a", Kind.TASK, "lost", b'{"id":"lost"}\0'), Put("a", Kind.TASK, "u", b'{"id":"u"}\0')])
        store.write([Put("a", Kind.PROGRESS, "u", b"{}")])
    result = inferd("check", "--file", file, "-o", "json")
    assert (result.exit_code, "task lost of 'a': where it stands is not kept" in result.stdout) == (1, True)
    content = file.read_bytes()
    file.write_bytes(content.replace(b'"run"', b'"run!'))
    assert "the value is damaged" in inferd("check", "--file", file, "-o", "json").stdout
    result = inferd("export", "--file", file)
    told = [(line["kind"], line.get("id", line.get("key"))) for line in map(json.loads, result.stdout.splitlines())]
    assert (result.exit_code, told) == (0, [("model", None), ("damaged", "lost"), ("damaged", "t"), ("task", "u")])


def test_a_store_that_a_kernel_has_is_left_alone(file: Path) -> None:
    """While a process has the store the commands are refused, with its id."""
    with closing(SqliteStore(file)):
        result = inferd("export", "--file", file, "-o", "json")
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
