"""`inferd blobs` against a kernel."""

import json
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from inferd.cli.main import app
from inferd.testing.kernel import kernel_process, write_fake_model

DATA = bytes(range(256)) * 10_000
DIGEST = f"sha256:{sha256(DATA).hexdigest()}"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A kernel that keeps what it is given."""
    folder = tmp_path_factory.mktemp("kernel")
    with kernel_process(
        folder, environment={"INFERD_BACKENDS": "[]", "INFERD_STORE__URL": f"sqlite:{folder}/store"}
    ) as kernel:
        yield kernel.address


@pytest.mark.e2e
def test_a_model_is_uploaded(address: str, tmp_path: Path) -> None:
    """`inferd models upload` gives a file under the file's name, and `inferd models` lists as before."""
    file = write_fake_model(tmp_path, "given")
    told = CliRunner().invoke(app, ["models", "upload", str(file), "--address", address, "-o", "json"])
    model = json.loads(told.stdout)
    assert (model["name"], model["source"][:12]) == ("given", "blob:sha256:")
    listed = json.loads(CliRunner().invoke(app, ["models", "--address", address, "-o", "json"]).stdout)
    assert "given" in [each["name"] for each in listed["models"]]
    (tmp_path / "inner" / "folder").mkdir(parents=True)
    refused = CliRunner().invoke(app, ["models", "upload", str(tmp_path), "--address", address, "-o", "json"])
    assert json.loads(refused.stdout)["error"]["reason"] == "USAGE"


@pytest.mark.e2e
def test_files_there_and_back(address: str, tmp_path: Path) -> None:
    """A file is given, listed, read back behind what is there of it, and removed, for people and as JSON."""

    def inferd(*words: object) -> Result:
        return CliRunner().invoke(app, ["blobs", *map(str, words), "--address", address, "--tenant", "cli"])

    file, back = tmp_path / "a file", tmp_path / "back"
    file.write_bytes(DATA)
    assert inferd("put", file).stdout == f"{DIGEST}  {file}\n"
    told = json.loads(inferd("put", file, "-o", "json").stdout)["blobs"]
    assert [(each["digest"], each["file"], each["state"]) for each in told] == [(DIGEST, str(file), "BLOB_STATE_WHOLE")]
    listed = inferd("list")
    assert DIGEST in listed.stdout
    assert "whole" in listed.stdout
    (blob,) = json.loads(inferd("list", "-o", "json").stdout)["blobs"]
    assert (blob["size_bytes"], blob["holders"]) == (str(len(DATA)), [])
    part = tmp_path / f"back.{DIGEST[7:19]}.part"
    part.write_bytes(DATA[:100_000])
    assert inferd("get", DIGEST[7:15], back).exit_code == 0
    assert back.read_bytes() == DATA
    assert not part.exists()
    part.write_bytes(b"other")
    failed = inferd("get", DIGEST, back, "-o", "json")
    assert json.loads(failed.output)["error"]["reason"] == "CHECKSUM_MISMATCH"
    assert (
        CliRunner().invoke(app, ["blobs", "get", DIGEST, "-", "--address", address, "--tenant", "cli"]).stdout_bytes
        == DATA
    )
    other = json.loads(inferd("get", "f" * 5, back, "-o", "json").output)["error"]
    assert other["reason"] == "BLOB_NOT_FOUND"
    assert "gone" in inferd("remove", DIGEST[:12]).stdout
    assert json.loads(inferd("list", "-o", "json").stdout) == {"blobs": []}
    missing = json.loads(inferd("put", tmp_path / "none", "-o", "json").output)["error"]
    assert missing["reason"] == "USAGE"
