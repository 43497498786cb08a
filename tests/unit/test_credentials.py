"""Where a client takes its credential from, and who else learns of it."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from inferd.cli import main
from inferd.testing.kernel import KernelProcess, kernel_process
from inferd_client import Client, CredentialError, InferdError
from inferd_client.credentials import credential_of
from inferd_client.errors import UnauthenticatedError


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("INFERD_CREDENTIAL", "INFERD_CREDENTIAL_FILE"):
        monkeypatch.setenv(name, "")  # and so, whatever a command sets is taken back


def secret_file(path: Path, text: str = "ik_file\n", mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def test_a_credential_is_the_nearest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An argument is before a file, a file before the environment, and an empty one is none at all."""
    file = secret_file(tmp_path / "one")
    assert credential_of(None, None) == ""
    monkeypatch.setenv("INFERD_CREDENTIAL_FILE", str(secret_file(tmp_path / "two", "ik_variable_file")))
    assert credential_of(None, None) == "ik_variable_file"
    monkeypatch.setenv("INFERD_CREDENTIAL", "ik_variable")
    assert credential_of(None, None) == "ik_variable"
    assert credential_of(None, file) == "ik_file"
    assert credential_of("ik_argument", file) == "ik_argument"
    assert credential_of("", file) == ""


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o777])
def test_a_file_that_others_may_use_is_refused(tmp_path: Path, mode: int) -> None:
    """A credential is read from a file that only its owner may read; the error says what to do, and no secret."""
    file = secret_file(tmp_path / "secret", mode=mode)
    with pytest.raises(CredentialError, match=f"chmod 600 {file}") as caught:
        Client(credential_file=file)
    assert "ik_file" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "a b", "a\nb", "é", "x" * 8193])
def test_what_no_header_carries_is_no_credential(tmp_path: Path, text: str) -> None:
    """A text that cannot be sent is refused when the client is made, without being told again."""
    with pytest.raises(CredentialError) as caught:
        Client(credential_file=secret_file(tmp_path / "secret", text))
    assert not text or text not in str(caught.value)
    with pytest.raises(CredentialError, match="No such file"):
        Client(credential_file=tmp_path / "none")


def test_no_client_shows_its_credential() -> None:
    """A client's text and the text of its errors have no credential."""
    with Client("127.0.0.1:1", credential="ik_secret", timeout_s=1) as client:
        assert "ik_secret" not in repr(client)
        with pytest.raises(InferdError) as caught:
            client.whoami()
    assert "ik_secret" not in str(caught.value) + repr(caught.value)


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[KernelProcess, str]]:
    """A kernel that needs a login over TCP, and the socket where it needs none."""
    folder = tmp_path_factory.mktemp("kernel")
    socket = f"unix:{folder}/s"
    environment = {"INFERD_AUTH__REQUIRED": "true", "INFERD_BACKENDS": "[]"}
    with kernel_process(folder, environment=environment, besides=(socket,)) as process:
        yield process, socket


def run(*arguments: object, address: str) -> Result:
    return CliRunner().invoke(main.app, [*map(str, arguments), "--address", address])


@pytest.mark.e2e
def test_keys_by_commands(kernel: tuple[KernelProcess, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`inferd keys` makes, lists, rotates and revokes keys; a credential is told once, or written to a private file."""
    process, socket = kernel
    file, again = tmp_path / "anna", tmp_path / "anna-2"
    wanted = ("--role", "user", "--for-tenant", "a", "--write", file, "-o", "json")
    made = run("keys", "create", "anna", *wanted, address=socket)
    key = json.loads(made.stdout)["key"]
    said = [key[name] for name in ("principal", "roles", "tenants", "state")]
    assert said == ["anna", ["user"], ["a"], "KEY_STATE_ACTIVE"]
    credential = file.read_text().strip()
    assert file.stat().st_mode & 0o777 == 0o600
    assert credential not in made.output
    whoami = run("--credential-file", file, "keys", "whoami", address=process.address)
    assert whoami.stdout == f"anna (key {key['key_id']}), roles: user, tenants: a\n"
    monkeypatch.setenv("INFERD_CREDENTIAL_FILE", "")  # as for another process
    assert run("keys", "create", "anna", "--write", file, address=socket).exit_code == 1
    rotated = run("keys", "rotate", key["key_id"][:6], "--overlap", "0", "--write", again, address=socket)
    assert rotated.exit_code == 0, rotated.output
    monkeypatch.setenv("INFERD_CREDENTIAL", credential)
    assert json.loads(run("ps", "-o", "json", address=process.address).stdout)["error"]["reason"] == "UNAUTHENTICATED"
    monkeypatch.setenv("INFERD_CREDENTIAL", "")
    with Client(process.address, credential_file=again) as client:
        assert client.whoami().tenant == "a"
        listed = run("keys", "list", address=socket).stdout
        assert "anna" in listed
        assert credential not in listed
        keys = json.loads(run("keys", "list", "-o", "json", address=socket).stdout)["keys"]
        assert key["key_id"] in [each["key_id"] for each in keys]
        assert "revoked" in run("keys", "revoke", key["key_id"], address=socket).stdout
        with pytest.raises(UnauthenticatedError):
            client.whoami()
    shown = run("keys", "create", "bert", "--expires-in", "60", address=socket)
    with Client(process.address, credential=shown.stdout.strip()) as client:
        assert client.whoami().principal.name == "bert"


@pytest.mark.e2e
def test_no_credential_is_in_a_command_line(kernel: tuple[KernelProcess, str], tmp_path: Path) -> None:
    """While a command runs with a credential, no process of this host has it in its arguments."""
    process, socket = kernel
    with Client(socket) as client:
        made = client.create_key("anna", roles=["viewer"])
    assert made.credential not in repr(made)
    file = secret_file(tmp_path / "secret", made.credential)
    command = [sys.executable, "-m", "inferd", "--credential-file", str(file), "top", "-o", "json"]
    with subprocess.Popen([*command, "--address", process.address], stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert "error" not in json.loads(running.stdout.readline())
        lines = {path: path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline")}
        assert any(str(file).encode() in line for line in lines.values())
        assert not [path for path, line in lines.items() if made.credential.encode() in line]
        running.kill()
    with Client(socket) as client:
        client.revoke_key(made.key.key_id)
