"""Stores that earlier versions have left: opened by this one with all that they have, and copied before they change."""

import json
import shutil
import stat
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from make_stores import ROOT, STORES
from postgres_server import PostgresServer
from stores import Postgres, held, usual_sealing
from typer.testing import CliRunner

from inferd.cli.main import app
from inferd.core.ids import LeaseId, TaskId, Tenant
from inferd.core.task import TaskState
from inferd.errors import StoreUnavailableError
from inferd.store import sqlite_file
from inferd.store.sqlite import SqliteStore
from inferd.testing.kernel import front_here

FILES = sorted(STORES.glob("*.sqlite"))
FIRST = """
    DROP TABLE kernels; ALTER TABLE inferd_store DROP COLUMN epoch; DROP TABLE data_keys;
    UPDATE inferd_store SET version = 1
"""
"""What makes a schema of the third version one of the first."""


@pytest.fixture(params=[pytest.param(file, id=file.stem) for file in FILES])
def left(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A store that a version has left, in a folder of its own."""
    (tmp_path / "left").mkdir()
    return Path(shutil.copyfile(request.param, tmp_path / "left/store"))


def exported(*place: object) -> list[dict[str, Any]]:
    result = CliRunner().invoke(app, ["store", "export", *map(str, place)])
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def bring_up(file: Path, **environment: str) -> None:
    result = CliRunner().invoke(app, ["store", "migrate", "--file", str(file)], env=environment)
    assert result.exit_code == 0, result.output


def version_of(file: Path) -> Path:
    """What the version that left a store said of it."""
    (name,) = [each.stem for each in FILES if each.read_bytes() == file.read_bytes()]
    return STORES / f"{name}.jsonl"


def test_each_tag_that_has_a_store_has_one_here() -> None:
    """No version is tagged without what it leaves: `python tests/reference/make_stores.py TAG` makes it."""
    git = ["/usr/bin/env", "git", "-C", str(ROOT)]
    tags = subprocess.run([*git, "tag", "--list", "v*"], stdout=subprocess.PIPE, text=True, check=True).stdout.split()
    place = "kernel/inferd/store/sqlite.py"
    kept = [
        tag for tag in tags if subprocess.run([*git, "cat-file", "-e", f"{tag}:{place}"], check=False).returncode == 0
    ]
    assert {each.stem for each in FILES} >= set(kept)
    assert FILES


def test_all_that_it_has_is_read(left: Path) -> None:
    """Every field of every record and each event is what the version that wrote it said."""
    said = [json.loads(line) for line in version_of(left).read_text().splitlines()]
    bring_up(left)
    assert exported("--file", left) == said
    assert [line["kind"] for line in said] == ["model", "lease", "task", "task", "task"]


async def test_a_kernel_goes_on_from_it(left: Path, tmp_path: Path) -> None:
    """Tasks stand where they stood, the lease is held with its token, the model is known: nothing is left out."""
    said = [json.loads(line) for line in version_of(left).read_text().splitlines()]
    long = {"limits": {"detached_s": 9e8}, "leases": {"max_ttl_s": 9e8}}
    store = {"url": f"sqlite:{left}", "retention_s": 9e8}
    async with front_here(tmp_path, store=store, **long) as front:
        views = front.tasks._driver.views
        for line in said:
            if line["kind"] == "task":
                await front.tasks._driver.archive.recall(Tenant("default"), [TaskId(line["id"])])
                task = views.task(TaskId(line["id"]), Tenant("default"))
                assert task.state is TaskState(line["progress"]["state"])
                assert task.spec.labels == line["labels"]
            elif line["kind"] == "lease":
                lease = views.lease(LeaseId(line["id"]), Tenant("default"))
                assert lease.fencing_token == line["fencing_token"] < views.fencing_token
        assert views.living_leases == 1
        assert [model.spec.name for model in views.models(size=10).records] == ["fake"]


def test_it_is_copied_before_it_is_brought_up(left: Path) -> None:
    """A copy beside, named with its version and the time, is the store as it was; a bounded number of them stays."""
    content = left.read_bytes()
    said = [json.loads(line) for line in version_of(left).read_text().splitlines()]
    unsealed = usual_sealing(on=False)  # else none stays, as what it has is not sealed
    for count in range(5):
        left.write_bytes(content)
        (left.parent / "store.schema-1-x.part").touch()  # of one that was killed
        with closing(SqliteStore(left, sealing=unsealed, copies=3)) as store:
            assert (store.opened_schema, store.schema) == (1, 2)
        assert len(sqlite_file.copies_of(left, 1)) == min(count + 1, 3)
    copies = sqlite_file.copies_of(left, 1)
    assert [stat.S_IMODE(copy.stat().st_mode) for copy in copies] == [0o600] * 3
    assert not list(left.parent.glob("*.part"))
    restored = CliRunner().invoke(app, ["store", "restore", str(copies[-1]), "--file", str(left), "-o", "json"])
    assert (restored.exit_code, json.loads(restored.stdout)["tasks"]) == (0, 3)
    assert exported("--file", left) == said


def test_nothing_changes_where_it_cannot_be_copied(left: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without room for the copy the schema stays, and no part of a copy is left."""
    before = left.read_bytes()

    def full(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(sqlite_file, "sync", full)
    with pytest.raises(StoreUnavailableError, match="No space left"):
        SqliteStore(left)
    assert left.read_bytes() == before
    assert not list(left.parent.glob("store.schema*"))


def test_a_schema_of_a_database_is_copied_before_it_is_brought_up(
    postgres: PostgresServer, database: str, left: Path
) -> None:
    """A schema beside, named with its version and the time, is a store of its own; a bounded number of them stays."""
    stores, unsealed = Postgres(postgres, database), usual_sealing(on=False)
    stores.place = stores.place.model_copy(update={"schema_copies": 2})
    with closing(SqliteStore(left, sealing=unsealed)) as file, closing(stores.open(sealing=unsealed)) as store:
        store.write(list(file.kept()))
        before = held(store)
        stores.run(store, FIRST)
    for _ in range(4):
        with closing(stores.open(sealing=unsealed)) as store:
            assert (store.opened_schema, store.schema) == (1, 3)
            stores.run(store, FIRST)
    with postgres.connect(database) as connection:
        rows = connection.execute("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'inferd\\_%'").fetchall()
    assert len(rows) == 2
    for (name,) in rows:
        assert name.startswith("inferd_schema_1_2")
        with closing(Postgres(postgres, database, name).open(sealing=unsealed)) as store:
            assert held(store) == before
