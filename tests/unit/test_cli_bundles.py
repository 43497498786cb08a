"""`inferd models keygen`, `export` and `import` against kernels."""

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from inferd.cli.main import app
from inferd.testing.kernel import kernel_process, write_fake_model
from inferd_api.v1.sampling_pb2 import SamplingDefaults
from inferd_client import Client


def inferd(*words: object) -> dict[str, Any]:
    """What a command says as JSON; for one that fails, its error."""
    said = CliRunner().invoke(app, [*map(str, words), "-o", "json"])
    told: dict[str, Any] = json.loads(said.stdout)
    assert said.exit_code == (1 if "error" in told else 0)
    return told.get("error", told)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A kernel that keeps what it is given; its tenants have nothing of each other's blobs."""
    folder = tmp_path_factory.mktemp("kernel")
    with kernel_process(
        folder, environment={"INFERD_BACKENDS": "[]", "INFERD_STORE__URL": f"sqlite:{folder}/store"}
    ) as kernel:
        yield kernel.address


@pytest.mark.e2e
def test_a_model_goes_where_there_is_no_network_and_is_updated_there(address: str, tmp_path: Path) -> None:
    """One file has model, settings, defaults and card; it runs elsewhere; the next one of it is a rollout there."""
    key = inferd("models", "keygen", tmp_path / "mine")
    other = inferd("models", "keygen", tmp_path / "other")
    file, bundle, card = write_fake_model(tmp_path, "model"), tmp_path / "model.inferd", tmp_path / "README.md"
    card.write_text("It says la.\n")
    words = ("models", "export", "model", "--key", key["key"], "--card", card, "-f", bundle, "--address", address)
    there = ("--trust", key["public_key"], "--address", address, "--tenant", "there", "--name", "copy")
    with Client(address) as client:
        client.create_model(
            "model", str(file), settings={"context_tokens": 512}, sampling_defaults=SamplingDefaults(top_k=7)
        )
        told = inferd(*words)
        assert [each["name"] for each in told["files"]] == ["model.fake", "README.md"]
        assert inferd(*words)["reason"] == "FILE_EXISTS"
        with tarfile.open(bundle) as tar:
            assert tar.getnames() == ["manifest.json", "manifest.sig", "files/model.fake", "files/README.md"]
        file.unlink()
        made = inferd("models", "import", bundle, *there)
        assert (made["version_before"], made["model"]["version"]) == (0, 1)
        assert made["model"]["settings"] == {"context_tokens": "512"}
        assert made["model"]["sampling_defaults"]["top_k"] == 7
        assert client.generate("copy", "la", max_tokens=1).text
        write_fake_model(tmp_path, "model", step_s=0.001)
        client.update_model("model", source=str(file), settings={"context_tokens": 256})
        inferd(*words, "--replace")
        again = inferd("models", "import", bundle, *there)
        assert (again["version_before"], again["model"]["version"]) == (1, 2)
        assert again["model"]["settings"] == {"context_tokens": "256"}
    check = ("models", "import", bundle, "--check", "--trust")
    assert inferd(*check, key["public_key"])["signer"] == key["fingerprint"]
    refused = inferd(*check, other["public_key"])
    assert (refused["reason"], refused["metadata"]["signer"]) == ("BUNDLE_NOT_TRUSTED", key["fingerprint"])
    assert inferd(*check, key["key"])["reason"] == "KEY_INVALID"
