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
    failed: dict[str, Any] = told.get("error", told)
    return failed


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A kernel that keeps what it is given; its tenants have nothing of each other's blobs."""
    folder = tmp_path_factory.mktemp("kernel")
    with kernel_process(
        folder, environment={"INFERD_BACKENDS": "[]", "INFERD_STORE__URL": f"sqlite:{folder}/store"}
    ) as kernel:
        yield kernel.address


def bundle_of_changes(address: str, tmp_path: Path, key: dict[str, Any], base: Path) -> None:
    """What follows has what the base has not, and nobody reads it without the key."""
    seal, passphrase, changes = (
        inferd("models", "keygen", tmp_path / "seal", "--sealing"),
        tmp_path / "p",
        tmp_path / "c",
    )
    passphrase.write_text("a b c\n")
    words = ("models", "export", "model", "--key", key["key"], "--since", base, "--replace", "--address", address)
    there = ("--trust", key["public_key"], "--address", address, "--tenant")
    told = inferd(*words, "-f", changes, "--seal-to", seal["public_key"])
    assert (told["given_bytes"], told["base"]["name"]) == ("0", "model")
    assert changes.read_bytes().startswith(b"inferd sealed 1\n")
    assert inferd("models", "import", changes, *there, "there")["reason"] == "BUNDLE_SEALED"
    assert inferd("models", "import", changes, *there, "there", "--unseal", key["key"])["reason"] == "KEY_INVALID"
    lacking = inferd("models", "import", changes, *there, "elsewhere", "--unseal", seal["key"])
    assert (lacking["reason"], lacking["metadata"]["file"]) == ("BUNDLE_BASE_MISSING", "model.fake")
    probe = tmp_path / "probe.toml"
    probe.write_text('[[prompts]]\nprompt = "la"\nmost_tokens = 1\ncontains = ["zz"]\n')
    proving = ("there", "--name", "copy", "--unseal", seal["key"], "--probe", probe)
    assert inferd("models", "import", changes, *there, *proving)["reason"] == "PROBE_FAILED"
    inferd(*words, "-f", changes, "--passphrase-file", passphrase)
    made = inferd("models", "import", changes, *there, "there", "--name", "copy", "--passphrase-file", passphrase)
    assert (made.get("version_before"), made.get("message")) == (1, None)
    assert made["model"]["version"] == 3
    assert made["model"]["settings"] == {"context_tokens": "256"}


@pytest.mark.e2e
def test_a_model_goes_where_there_is_no_network_and_is_updated_there(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One file has model, settings, adapter and card; it runs elsewhere; the next one of it is a rollout there."""
    monkeypatch.setenv("INFERD_DATA_DIR", str(tmp_path / "there"))
    (tmp_path / "lora").mkdir()
    (tmp_path / "lora" / "adapter_config.json").write_text("{}")
    (tmp_path / "lora" / "adapter_model.safetensors").write_text("thin")
    key = inferd("models", "keygen", tmp_path / "mine")
    file, bundle, card = write_fake_model(tmp_path, "model"), tmp_path / "model.inferd", tmp_path / "README.md"
    card.write_text("It says la.\n")
    words = ("models", "export", "model", "--key", key["key"], "--card", card, "-f", bundle, "--address", address)
    there = ("--trust", key["public_key"], "--address", address, "--tenant", "there", "--name", "copy")
    with Client(address) as client:
        defaults = SamplingDefaults(top_k=7)
        settings: dict[str, str | int] = {"context_tokens": 512, "adapter": str(tmp_path / "lora")}
        client.create_model("model", str(file), settings=settings, sampling_defaults=defaults)
        told = inferd(*words)
        names = ["adapter_config.json", "adapter_model.safetensors"]
        assert [each["name"] for each in told["files"]] == ["model.fake", "README.md", *names]
        assert inferd(*words)["reason"] == "FILE_EXISTS"
        with tarfile.open(bundle) as tar:
            adapter = [f"files/adapter/{name}" for name in names]
            signed = ["manifest.json", "manifest.sig"]
            assert tar.getnames() == [*signed, "files/model.fake", "files/README.md", *adapter]
        made = inferd("models", "import", bundle, *there)
        assert (made["version_before"], made["model"]["settings"]["context_tokens"]) == (0, "512")
        unpacked = Path(made["model"]["settings"]["adapter"])
        assert unpacked.parent == tmp_path / "there" / "adapters"
        assert (unpacked / "adapter_model.safetensors").read_text() == "thin"
        assert made["model"]["sampling_defaults"]["top_k"] == 7
        client.delete_model("model")
        client.create_model("model", str(file), settings={"context_tokens": 256})
        bundle_of_changes(address, tmp_path, key, bundle)
        file.unlink()
        assert client.generate("copy", "la", max_tokens=1).text


@pytest.mark.e2e
def test_an_alias_is_replaced_by_no_bundle(address: str, tmp_path: Path) -> None:
    """A bundle whose name is an alias here is refused, with the model that it stands for, and gives nothing."""
    key, bundle = inferd("models", "keygen", tmp_path / "mine"), tmp_path / "bundle"
    with Client(address) as client:
        client.create_model("given", str(write_fake_model(tmp_path, "given")))
        inferd("models", "export", "given", "--key", key["key"], "-f", bundle, "--address", address)
        client.create_model("other", str(write_fake_model(tmp_path, "other")), aliases=["best"])
        words = ("models", "import", bundle, "--trust", key["public_key"], "--address", address, "--name", "best")
        told = inferd(*words)
        assert (told["reason"], told["metadata"]) == ("MODEL_EXISTS", {"model": "other"})
        assert "'best' is an alias of model 'other'" in told["message"]
        assert client.get_model("other").version == 1
    assert "must not begin with '.'" in inferd(*words[:-1], "../../pwn")["message"]


@pytest.mark.e2e
def test_an_older_bundle_is_imported_where_it_is_asked_for(address: str, tmp_path: Path) -> None:
    """What was imported last is known; one of before needs a word more. Settings that stay are told."""
    key, bundles = inferd("models", "keygen", tmp_path / "mine"), [tmp_path / "first", tmp_path / "second"]
    there = ("--trust", key["public_key"], "--address", address, "--name", "newest")
    exporting = ("models", "export", "aged", "--key", key["key"], "--address", address, "-f")
    older = ("models", "import", bundles[0], *there)
    with Client(address) as client:
        client.create_model("aged", str(write_fake_model(tmp_path, "aged")), settings={"context_tokens": 256})
        inferd(*exporting, bundles[0])
        client.update_model("aged", settings={"context_tokens": 512})
        inferd(*exporting, bundles[1])
        made = inferd("models", "import", bundles[1], *there, "--set", "draft_tokens=2")
        assert (made["model"]["labels"]["bundle"][:2], made["kept_settings"]) == ("2 ", {})
        told = inferd(*older)
        numbers = {name: told["metadata"][name] for name in ("version", "imported_version")}
        assert (told["reason"], numbers) == ("BUNDLE_OLDER", {"version": "1", "imported_version": "2"})
        said = CliRunner().invoke(app, [*map(str, older), "--allow-older"]).stderr
        assert "keeps draft_tokens=2 of version 1;" in said
        model = client.get_model("newest")
        assert (model.version, dict(model.settings)) == (2, {"context_tokens": "256", "draft_tokens": "2"})
        assert model.labels["bundle"].startswith("1 ")


def test_what_is_not_trusted_is_told(tmp_path: Path) -> None:
    """A file that is no bundle, and a key that is none, are refused by reason; no key is replaced."""
    key = inferd("models", "keygen", tmp_path / "mine")
    assert inferd("models", "keygen", tmp_path / "mine")["reason"] == "KEY_EXISTS"
    assert (tmp_path / "mine.pem").stat().st_mode & 0o777 == 0o600
    check = ("models", "import", key["key"], "--check", "--trust")
    assert inferd(*check, key["public_key"])["reason"] == "BUNDLE_UNKNOWN"
    assert inferd(*check, key["key"])["reason"] == "KEY_INVALID"
    for path, why in (("/dev/null", "/dev/null is no regular file"), (tmp_path / "none", "there is no file")):
        assert why in inferd("models", "import", path, "--check", "--trust", key["public_key"])["message"]
