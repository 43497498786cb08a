"""What the client refuses of addresses, credentials and files of TLS before it connects."""

from pathlib import Path
from typing import Any

import pytest

from inferd.cli.cert_authority import CertAuthority
from inferd_client import Client, CredentialError

CREDENTIAL = "ik_abc_def"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Certificates of two clients."""
    for name in ("CA_FILE", "CERT_FILE", "KEY_FILE", "CREDENTIAL", "CREDENTIAL_FILE"):
        monkeypatch.delenv(f"INFERD_{name}", raising=False)
    authority = CertAuthority.create(tmp_path / "ca", name="test", days=1)
    for name in ("anna", "bob"):
        authority.issue(name, hosts=(), uris=(), days=1, out=tmp_path, replace=False)
    return tmp_path


@pytest.mark.parametrize("address", ["10.0.0.1:7411", "kernel.example.org:7411", "[2001:db8::1]:7411"])
def test_no_credential_goes_over_a_network_in_plaintext(folder: Path, address: str) -> None:
    """A credential is not sent to another host without TLS, whoever gives it; the error names the one with TLS."""
    secret = folder / "secret"
    secret.write_text(CREDENTIAL)
    secret.chmod(0o600)
    for given in ({"credential": CREDENTIAL}, {"credential_file": secret}):
        with pytest.raises(CredentialError, match="tls:") as caught:
            Client(address, **given)  # type: ignore[arg-type] # of both kinds
        assert CREDENTIAL not in str(caught.value)
    Client(f"tls:{address}", credential=CREDENTIAL).close()
    Client(address, credential="").close()


@pytest.mark.parametrize("address", ["127.0.0.1:1", "localhost:1", "[::1]:1", "unix:/tmp/x"])
def test_on_this_host_a_credential_needs_no_tls(folder: Path, address: str) -> None:
    """On the loopback and on sockets a credential is sent as it is."""
    assert folder
    Client(address, credential=CREDENTIAL).close()


def test_files_that_cannot_be_used_are_named(folder: Path) -> None:
    """A file that is missing, another's, open to others, or of no use at the address is refused, with the fix."""
    anna: dict[str, Any] = {"cert_file": folder / "anna.pem", "key_file": folder / "anna.key"}
    Client("mtls:localhost:1", ca_file=folder / "ca/ca.pem", **anna).close()
    cases: list[tuple[str, dict[str, Any], str]] = [
        ("localhost:1", {"ca_file": folder / "ca/ca.pem"}, "write tls:localhost:1"),
        ("unix:/tmp/x", {"ca_file": folder / "ca/ca.pem"}, "leave ca_file out"),
        ("mtls:localhost:1", {}, "--cert-file, INFERD_CERT_FILE"),
        ("tls:localhost:1", {"cert_file": folder / "anna.pem"}, "--key-file, INFERD_KEY_FILE"),
        ("tls:localhost:1", {**anna, "key_file": folder / "bob.key"}, "do not belong together"),
        ("tls:localhost:1", {**anna, "cert_file": folder / "anna.key"}, "no certificate and key"),
        ("tls:localhost:1", {"ca_file": folder / "anna.key"}, "no certificates in PEM"),
        ("tls:localhost:1", {"ca_file": folder / "none"}, "No such file"),
    ]
    for address, given, why in cases:
        with pytest.raises(CredentialError, match=why):
            Client(address, **given)
    (folder / "anna.key").chmod(0o640)
    with pytest.raises(CredentialError, match="chmod 600"):
        Client("tls:localhost:1", **anna)
