"""Backups of a store have the bytes of its blobs beside them."""

import shutil
from contextlib import closing
from pathlib import Path

import pytest
from connection import Connection
from stores import Stores
from test_kept_backups import made, restore
from test_kept_outputs import ARRAY, blobs_of, kernel, outputs, run
from typer.testing import CliRunner

from inferd.cli.main import app
from inferd.core.ids import DEFAULT_TENANT
from inferd.store.blob_files import BlobFiles
from inferd_client import AsyncClient
from inferd_client.errors import BlobHeldError, EventsDroppedError


@pytest.fixture(autouse=True)
def _data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands find the blobs of the kernels of this folder."""
    monkeypatch.setenv("INFERD_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("INFERD_STATE_DIR", str(tmp_path / "state"))


async def kept(connection: Connection, client: AsyncClient) -> tuple[str, str]:
    """A task whose output is in a blob, and a blob of a client."""
    await connection.create("m", tensor="identity")
    return await run(client, connection), (await client.put_blob(b"mine" * 1000)).digest


async def read(client: AsyncClient, digest: str) -> bytes:
    return b"".join([chunk async for chunk in client.read_blob(digest)])


async def test_a_backup_brings_its_blobs_back(tmp_path: Path, stores: Stores) -> None:
    """With all files of blobs gone, outputs and blobs of clients are read back from copies of what is beside it."""
    async with kernel(tmp_path, stores) as (connection, client):
        task_id, digest = await kept(connection, client)
        told = (await made(connection, tmp_path / "b")).backup
        assert (told.blobs, told.missing_blobs, told.blob_folder) == (3, 0, str(tmp_path / "b.blobs"))
        assert told.blob_bytes > 2 * ARRAY.nbytes
        await client.delete_blob(digest)
    shutil.rmtree(tmp_path / "data" / "blobs")
    answer = restore(stores, tmp_path / "b")
    assert (answer["blobs"], answer["missing_blobs"]) == (3, 0)
    assert all(each.stat().st_nlink == 1 for each in (tmp_path / "b.blobs").glob("*/*/*"))
    async with kernel(tmp_path, stores) as (connection, client):
        await blobs_of(connection).sweep()
        assert await outputs(client, task_id) == [ARRAY.tobytes()]
        assert await read(client, digest) == b"mine" * 1000


async def test_a_restored_store_shares_no_blobs_with_the_one_set_aside(tmp_path: Path, stores: Stores) -> None:
    """Files of blobs that came after the backup stay for the store that is set aside; what is there is not copied.

    Nor does it make a backup whole.
    """
    async with kernel(tmp_path, stores) as (connection, client):
        task_id, _ = await kept(connection, client)
        await made(connection, tmp_path / "b")
        later = (await client.put_blob(b"later")).digest.removeprefix("sha256:")
        files = blobs_of(connection)._files
    shutil.rmtree(tmp_path / "b.blobs")
    checked = CliRunner().invoke(app, ["store", "restore", str(tmp_path / "b"), "--check"])
    assert (checked.exit_code, "not whole" in checked.output, "3 are missing" in checked.output) == (1, True, True)
    answer = restore(stores, tmp_path / "b")
    assert (answer["blobs"], answer["missing_blobs"]) == (3, 0)
    async with kernel(tmp_path, stores) as (connection, client):
        for sweep in (blobs_of(connection)._sweep_files, blobs_of(connection)._sweep_rows, blobs_of(connection).sweep):
            await sweep()
        assert await outputs(client, task_id) == [ARRAY.tobytes()]
        assert blobs_of(connection)._files.folder != files.folder
    assert files.is_whole(DEFAULT_TENANT, later, len(b"later"))


async def test_what_is_missing_of_a_backup_is_said(tmp_path: Path, stores: Stores) -> None:
    """A damaged file is not taken for a blob, neither at the backup nor after it; a task without its output says so."""
    async with kernel(tmp_path, stores) as (connection, client):
        task_id, digest = await kept(connection, client)
        files = blobs_of(connection)._files
        files.path(DEFAULT_TENANT, digest.removeprefix("sha256:")).write_bytes(b"mine" * 999 + b"not!")
        told = (await made(connection, tmp_path / "b")).backup
        assert (told.blobs, told.missing_blobs) == (2, 1)
        (output,) = [each async for each in client.list_blobs() if each.size_bytes > ARRAY.nbytes]
    shutil.rmtree(tmp_path / "data" / "blobs")
    path = BlobFiles(tmp_path / "b.blobs", keys=files.keys).path(DEFAULT_TENANT, output.digest.removeprefix("sha256:"))
    path.write_bytes(b"x" + path.read_bytes()[1:])
    with pytest.raises(AssertionError, match="BLOBS_MISSING"):
        restore(stores, tmp_path / "b")
    assert list((tmp_path / "data" / "blobs").iterdir()) == []
    assert restore(stores, tmp_path / "b", "--missing-blobs")["missing_blobs"] == 2
    async with kernel(tmp_path, stores) as (connection, client):
        with pytest.raises(EventsDroppedError, match="its file is missing"):
            await outputs(client, task_id)


async def test_nothing_goes_while_a_backup_is_made(tmp_path: Path, stores: Stores) -> None:
    """A blob that a backup has yet to copy cannot be deleted, nor can one that comes meanwhile; after it both can."""
    async with kernel(tmp_path, stores) as (connection, client):
        _, digest = await kept(connection, client)
        blobs, path = blobs_of(connection), str(tmp_path / "b")
        with blobs.staying(f"the backup {path}"):
            more = (await client.put_blob(b"more")).digest
            for each in (digest, more):
                with pytest.raises(BlobHeldError, match="is held by the backup"):
                    await client.delete_blob(each)
        for each in (digest, more):
            await client.delete_blob(each)


def test_what_is_in_the_place_of_its_blobs_stays(tmp_path: Path, stores: Stores) -> None:
    """A folder of somebody else is no folder for blobs: nothing is made, and it is as it was."""
    with closing(stores.open()):
        pass
    (tmp_path / "b.blobs").mkdir()
    (tmp_path / "b.blobs" / "mine").touch()
    place = ["--file", str(stores.path)] if hasattr(stores, "path") else ["--url", stores.settings["url"]]
    result = CliRunner().invoke(app, ["store", "backup", str(tmp_path / "b"), *place])
    assert result.exit_code != 0
    assert "its blobs would be in" in result.output.replace("\n", " ")
    assert [each.name for each in (tmp_path / "b.blobs").iterdir()] == ["mine"]
    assert not (tmp_path / "b").exists()
