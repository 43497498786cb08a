"""`inferd certs`: an authority of one's own, and commands with TLS."""

import json
import re
import ssl
import stat
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from typer.testing import CliRunner, Result

from inferd.cli import cert_authority, main
from inferd.cli.cert_authority import CertAuthority

Certs = Callable[..., Result]


@pytest.fixture
def certs(tmp_path: Path) -> Certs:
    """Run `inferd certs` on an authority in a folder."""

    def run(*words: str, code: int = 0) -> Result:
        done = CliRunner().invoke(main.app, ["certs", *words, "--dir", str(tmp_path / "ca")])
        assert done.exit_code == code, done.output
        return done

    return run


def said(done: Result) -> Any:
    return json.loads(done.stdout)


def test_certificates_are_issued_listed_and_revoked(certs: Certs, tmp_path: Path) -> None:
    """A server has hosts and a client a URI; both are listed with what became of them; a list has who is revoked."""
    assert re.search(r"ends \d{4}-\d\d-\d\d \d\d:\d\d UTC", certs("init").stdout)
    hosts = ("--host", "k.example.org", "--host", "::1")
    server = said(certs("issue", "kernel", *hosts, "--out", str(tmp_path), "-o", "json"))
    client = said(certs("issue", "anna", "--out", str(tmp_path), "--days", "2", "-o", "json"))
    assert (server["kind"], server["names"]) == ("server", ["k.example.org", "::1"])
    assert (client["kind"], client["names"]) == ("client", ["inferd:anna"])
    assert "is revoked" in certs("revoke", client["serial"][:8]).stdout
    assert "nothing of anna holds" in certs("revoke", "anna").stdout
    assert {(each["name"], each["state"]) for each in said(certs("list", "-o", "json"))["certificates"]} == {
        ("kernel", "active"),
        ("anna", "revoked"),
    }
    crl = x509.load_pem_x509_crl((tmp_path / "ca/crl.pem").read_bytes())
    assert [f"{each.serial_number:040x}" for each in crl] == [client["serial"]]


def test_keys_are_their_owner_s_alone(certs: Certs, tmp_path: Path) -> None:
    """No key of an authority, nor one that it hands out, can be read by others, whatever the umask."""
    certs("init")
    certs("issue", "anna", "--out", str(tmp_path))
    for path in (tmp_path / "ca/ca.key", tmp_path / "anna.key"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "ca").stat().st_mode) == 0o700


def test_nothing_is_overwritten_unless_it_is_said(certs: Certs, tmp_path: Path) -> None:
    """An authority, and files of a certificate, are replaced by none other; with --replace a pair is, and both fit."""
    certs("init")
    root = (tmp_path / "ca/ca.pem").read_bytes()
    assert "already" in certs("init", code=1).stderr
    assert (tmp_path / "ca/ca.pem").read_bytes() == root
    certs("issue", "anna", "--out", str(tmp_path))
    before = (tmp_path / "anna.pem").read_bytes()
    assert "--replace" in certs("issue", "anna", "--out", str(tmp_path), code=1).stderr
    certs("issue", "anna", "--out", str(tmp_path), "--replace")
    assert (tmp_path / "anna.pem").read_bytes() != before


def test_what_cannot_be_is_one_line(certs: Certs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an authority, with names that are none, or with a key that is gone, an error says what to do.

    What could not be written was not issued; it is not listed.
    """
    assert f"inferd certs init --dir {tmp_path / 'ca'}" in certs("issue", "anna", code=1).stderr.replace("\n", "")
    certs("init")
    for words, why in (
        (("issue", "a/b"), "is no name"),
        (("issue", "anna", "--host", "a b"), "is no host"),
        (("issue", "anna", "--uri", "anna"), "is no URI"),
        (("issue", "anna", "--uri", "x:y", "--host", "z"), "one for each"),
        (("revoke", "nobody"), "certs list"),
    ):
        assert why in certs(*words, code=1).stderr
    assert "is no folder" in certs("issue", "anna", "--out", str(tmp_path / "none"), code=1).stderr
    monkeypatch.setattr(cert_authority, "_pem", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    certs("issue", "anna", "--out", str(tmp_path), code=1)
    monkeypatch.undo()
    assert said(certs("list", "-o", "json")) == {"certificates": []}
    assert " UTC" in certs("issue", "bob", "--out", str(tmp_path), "--days", "0.1").stdout
    assert [each["name"] for each in said(certs("revoke", "bob", "-o", "json"))["certificates"]] == ["bob"]
    (tmp_path / "ca/ca.key").unlink()
    assert "ca.key is not there" in certs("issue", "anna", "--out", str(tmp_path), code=1).stderr


def test_others_can_check_what_is_made(certs: Certs, tmp_path: Path) -> None:
    """OpenSSL takes a certificate of the authority, and none that is on its list."""
    certs("init")
    for name in ("anna", "bob"):
        certs("issue", name, "--out", str(tmp_path))
    certs("issue", "kernel", "--host", "localhost", "--out", str(tmp_path))
    certs("revoke", "bob")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(tmp_path / "kernel.pem", tmp_path / "kernel.key")
    server.load_verify_locations(tmp_path / "ca/ca.pem")
    server.load_verify_locations(tmp_path / "ca/crl.pem")
    server.verify_mode, server.verify_flags = ssl.CERT_REQUIRED, ssl.VERIFY_CRL_CHECK_LEAF
    assert handshake(server, tmp_path, "anna") == "TLSv1.3"
    with pytest.raises(ssl.SSLCertVerificationError, match="revoked"):
        handshake(server, tmp_path, "bob")


def handshake(server: ssl.SSLContext, folder: Path, name: str) -> str | None:
    """The version of a connection that a client makes."""
    context = ssl.create_default_context(cafile=folder / "ca/ca.pem")
    context.load_cert_chain(folder / f"{name}.pem", folder / f"{name}.key")
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    client_end = context.wrap_bio(back, there, server_hostname="localhost")
    server_end = server.wrap_bio(there, back, server_side=True)
    for end in (client_end, server_end, client_end, server_end):
        with suppress(ssl.SSLWantReadError):
            end.do_handshake()
    return server_end.version()


def test_without_the_library_the_command_that_brings_it_is_told(certs: Certs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where cryptography is not installed, `inferd certs` says how it is."""
    monkeypatch.delattr("inferd.cli.cert_authority", raising=False)
    monkeypatch.setitem(sys.modules, "inferd.cli.cert_authority", None)
    assert 'pip install "inferd[auth]"' in certs("init", code=1).stderr


def test_no_private_kernel_takes_the_place_of_one_with_tls(tmp_path: Path) -> None:
    """A command that names a kernel with TLS is told when that does not answer; none is started in its place."""
    CertAuthority.create(tmp_path / "ca", name="test", days=1)
    words = ["--ca-file", str(tmp_path / "ca/ca.pem"), "run", "m", "x", "--address", "tls:127.0.0.1:1", "-o", "json"]
    done = CliRunner().invoke(main.app, words, env={"INFERD_CA_FILE": None})
    assert (done.exit_code, said(done)["error"]["reason"]) == (1, "KERNEL_UNREACHABLE")
    assert "tls:127.0.0.1:1" in said(done)["error"]["message"]
