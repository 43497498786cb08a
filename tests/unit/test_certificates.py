"""The files of TLS, what is refused of them, and where a kernel may listen."""

import asyncio
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import NameOID
from pydantic import ValidationError
from time_limits import LONG_S

from inferd.auth_settings import Auth
from inferd.cli.cert_authority import CertAuthority
from inferd.config import Settings
from inferd.core.principal import Principal
from inferd.doors import opened_doors
from inferd.errors import InvalidFieldError, UnauthenticatedError, present
from inferd.listeners import check_listeners
from inferd.runtime.certificates import Certificates
from inferd.runtime.front.authority import Authority
from inferd.runtime.login import Login
from inferd.runtime.tls_files import read_certificate, read_material
from inferd.tls_settings import Identity, Tls

SOON_S = 3600.0
OPEN = {"auth": {"required": False}}


@pytest.fixture
def tls(tmp_path: Path) -> Tls:
    """Files that can be used, and the authority that made them."""
    authority = CertAuthority.create(tmp_path / "ca", name="test", days=30)
    authority.issue("kernel", hosts=["localhost"], uris=(), days=1, out=tmp_path, replace=False)
    authority.issue("anna", hosts=(), uris=(), days=1, out=tmp_path, replace=False)
    return Tls(
        cert_file=tmp_path / "kernel.pem",
        key_file=tmp_path / "kernel.key",
        client_ca_file=tmp_path / "ca/ca.pem",
        crl_file=tmp_path / "ca/crl.pem",
        identities=(Identity(name="inferd:*", tenants=("lab",)),),
    )


def test_what_is_made_can_be_used(tls: Tls) -> None:
    """What `inferd certs` makes is taken as it is; nothing of the key is in what is shown of it."""
    material = read_material(tls, time.time())
    assert (len(material.authorities), material.revoked) == (1, frozenset())
    assert "PRIVATE" not in repr(material)


def loose(folder: Path) -> None:
    (folder / "kernel.key").chmod(0o640 if (folder / "kernel.key").stat().st_uid else 0o644)


def other_key(folder: Path) -> None:
    (folder / "kernel.key").write_bytes((folder / "anna.key").read_bytes())


def for_clients(folder: Path) -> None:
    (folder / "kernel.pem").write_bytes((folder / "anna.pem").read_bytes())


def expired(folder: Path) -> None:
    authority = CertAuthority(folder / "ca")
    authority.issue("kernel", hosts=["localhost"], uris=(), days=-0.001, out=folder, replace=True)


def with_passphrase(folder: Path) -> None:
    key = serialization.load_pem_private_key((folder / "kernel.key").read_bytes(), None)
    form, lock = serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"x")
    (folder / "kernel.key").write_bytes(key.private_bytes(serialization.Encoding.PEM, form, lock))


def own(folder: Path, key: Any, names: list[x509.GeneralName]) -> None:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "own")])
    root = x509.load_pem_x509_certificate((folder / "ca/ca.pem").read_bytes())
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(subject).serial_number(1)
    builder = builder.not_valid_before(root.not_valid_before_utc).not_valid_after(root.not_valid_after_utc)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    made = builder.public_key(key.public_key()).sign(key, algorithm)
    (folder / "kernel.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))


def ed25519_key(folder: Path) -> None:
    own(folder, ed25519.Ed25519PrivateKey.generate(), [x509.DNSName("localhost")])


def nameless(folder: Path) -> None:
    own(folder, ec.generate_private_key(ec.SECP256R1()), [])


def foreign_list(folder: Path) -> None:
    CertAuthority.create(folder / "other", name="test", days=1)
    (folder / "ca/crl.pem").write_bytes((folder / "other/crl.pem").read_bytes())


def no_list(folder: Path) -> None:
    (folder / "ca/crl.pem").write_text("nothing")


def no_file(folder: Path) -> None:
    (folder / "kernel.pem").unlink()


@pytest.mark.parametrize(
    ("spoil", "field", "why"),
    [
        (loose, "key_file", "chmod 600"),
        (other_key, "key_file", "does not belong to the certificate"),
        (with_passphrase, "key_file", "without a passphrase"),
        (for_clients, "cert_file", "for clients, not for servers"),
        (expired, "cert_file", "ended at"),
        (ed25519_key, "cert_file", "Ed25519; it takes ECDSA"),
        (nameless, "cert_file", "subjectAltName"),
        (no_file, "cert_file", "No such file"),
        (foreign_list, "crl_file", "no authority of tls.client_ca_file has signed"),
        (no_list, "crl_file", "X509 CRL"),
    ],
)
def test_files_that_cannot_be_used_are_named(
    tls: Tls, tmp_path: Path, spoil: Callable[[Path], None], field: str, why: str
) -> None:
    """A file that is broken, expired, another's or open to others is refused by setting and path, with the fix."""
    spoil(tmp_path)
    with pytest.raises(InvalidFieldError, match=why) as caught:
        read_material(tls, time.time())
    assert caught.value.field == f"tls.{field}"
    assert str(tmp_path) in caught.value.message


async def test_a_login_ends_with_its_certificate(tls: Tls, tmp_path: Path) -> None:
    """A login holds no longer than the certificate of its connection, nor longer than by itself."""
    certificates = Certificates(tls, used=True)
    await certificates.read()
    pem = (tmp_path / "anna.pem").read_bytes()
    certified = certificates.certified(pem, b"")
    assert certified.principal == Principal(name="cert:inferd:anna", tenants=("lab",))
    ends = certified.certificate.expires
    login = Login(principal=Principal(name="anna"))
    assert certified.bind(login).expires == ends
    assert certified.bind(Login(principal=login.principal, expires=ends - SOON_S)).expires == ends - SOON_S
    assert certified.bind(Login(principal=login.principal, expires=ends + SOON_S)).expires == ends
    late = Certificates(tls, used=True, wall=lambda: ends)
    late.material = certificates.material
    with pytest.raises(UnauthenticatedError, match="expired"):
        late.certified(pem, b"")


def signed(subject: str, issuer: str, key: Any, signer: Any) -> x509.Certificate:
    """A certificate of a chain."""
    now = datetime.now(UTC)
    names = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]) for name in (subject, issuer)]
    builder = x509.CertificateBuilder().subject_name(names[0]).issuer_name(names[1])
    builder = builder.serial_number(x509.random_serial_number()).public_key(key.public_key())
    builder = builder.not_valid_before(now).not_valid_after(now + timedelta(days=1))
    return builder.sign(signer, hashes.SHA256())


def test_a_chain_holds_as_a_whole(tls: Tls) -> None:
    """A certificate of an authority between it and one that is trusted holds, unless either of both was revoked."""
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(3)]
    root = signed("root", "root", keys[0], keys[0])
    between = signed("between", "root", keys[1], keys[0])
    leaf = signed("leaf", "between", keys[2], keys[1])
    pem = [each.public_bytes(serialization.Encoding.PEM) for each in (leaf, between)]
    material = replace(read_material(tls, time.time()), authorities=(root,))
    certificate = read_certificate(pem[0], pem[1])
    assert certificate.holds(material)
    for gone in (leaf, between):
        revoked = frozenset({(gone.issuer.public_bytes(), gone.serial_number)})
        assert not certificate.holds(replace(material, revoked=revoked))
    assert not read_certificate(pem[0], b"").holds(material)
    assert not certificate.holds(read_material(tls, time.time()))


def test_an_authority_that_was_revoked_lets_nobody_in(tls: Tls) -> None:
    """That `client_ca_file` has an authority does not help it when one above it there has revoked it, or it itself."""
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(3)]
    root = signed("root", "root", keys[0], keys[0])
    between = signed("between", "root", keys[1], keys[0])
    leaf = signed("leaf", "between", keys[2], keys[1])
    pem = [each.public_bytes(serialization.Encoding.PEM) for each in (leaf, between)]
    read = read_material(tls, time.time())
    for shown in (pem[1], b""):
        certificate = read_certificate(pem[0], shown)
        for trusted in ((root, between), (between, root), (between,)):
            material = replace(read, authorities=trusted)
            assert certificate.holds(material)
            for gone in (leaf, *trusted):
                revoked = frozenset({(gone.issuer.public_bytes(), gone.serial_number)})
                assert not certificate.holds(replace(material, revoked=revoked))


async def test_without_the_library_no_kernel_has_tls(tls: Tls, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel with TLS where cryptography is not installed does not start, and says how it is."""
    monkeypatch.setitem(sys.modules, "inferd.runtime.tls_files", None)
    with pytest.raises(InvalidFieldError, match="pip install"):
        await Certificates(tls, used=True).read()


async def test_certificates_are_read_anew_from_when_a_kernel_listens(tls: Tls, tmp_path: Path) -> None:
    """Also by one that stands by, or reads what is kept: nobody leads yet, and connections come."""
    settings = Settings(listen=("tls:127.0.0.1:0",), tls=tls, auth=Auth(required=True))
    async with opened_doors(settings, grpc.aio.server()) as doors:
        before, read = present(doors.certificates.material), asyncio.Event()
        with doors.certificates.telling(read.set):
            authority = CertAuthority(tmp_path / "ca")
            authority.issue("kernel", hosts=["localhost"], uris=(), days=9, out=tmp_path, replace=True)
            async with asyncio.timeout(LONG_S):
                await read.wait()
        assert present(doors.certificates.material).expires > before.expires


async def test_certificates_are_a_way_in(tls: Tls, tmp_path: Path) -> None:
    """A kernel without keys starts where certificates of clients stand for somebody, and nowhere else."""
    auth, pepper = Auth(required=True), tmp_path / "pepper"
    authority = await Authority.made(auth, None, Certificates(tls, used=True), pepper_path=pepper)
    authority.check_entry(auth, ["mtls:127.0.0.1:1"])
    with pytest.raises(InvalidFieldError, match="nobody in"):
        authority.check_entry(auth, ["tls:127.0.0.1:1"])
    nobody = Certificates(tls.model_copy(update={"identities": ()}), used=True)
    authority = await Authority.made(auth, None, nobody, pepper_path=pepper)
    with pytest.raises(InvalidFieldError, match="no certificate stands for anybody"):
        authority.check_entry(auth, ["mtls:127.0.0.1:1"])


def test_no_issuer_has_the_names_of_certificates() -> None:
    """An issuer whose principals would be called as those of certificates is refused."""
    issuer = {"issuer": "x", "audience": "y", "jwks_file": "z"}
    with pytest.raises(ValidationError, match="no issuer is named 'cert'"):
        Auth.model_validate({"issuers": {"cert": issuer}})


@pytest.mark.parametrize(
    ("listen", "more", "why", "field"),
    [
        ("0.0.0.0:7411", {}, "tls:0.0.0.0:7411", "listen"),
        ("tls:127.0.0.1:7411", {"tls": {}}, "needs a certificate", "tls.cert_file"),
        ("tls:0.0.0.0:7411", OPEN, "auth.required is false", "auth.required"),
        ("tls:kernel.example.org:7411", OPEN, "auth.required is false", "auth.required"),
        ("mtls:0.0.0.0:7411", OPEN, "auth.required is false", "auth.required"),
        ("mtls:127.0.0.1:7411", {"tls": {"cert_file": "a", "key_file": "b"}}, "client_ca_file", "tls.client_ca_file"),
        ("tls:unix:/x", {}, "host:port", "listen"),
        ("tls:7411", {}, "host:port", "listen"),
    ],
)
def test_others_than_the_host_get_in_by_tls_and_a_login_alone(
    listen: str, more: dict[str, Any], why: str, field: str
) -> None:
    """An address off the loopback has TLS and needs a login, or it is refused with what is to be set."""
    tls = {"cert_file": "a", "key_file": "b", "client_ca_file": "c"}
    with pytest.raises(InvalidFieldError, match=why) as caught:
        check_listeners(Settings(**{"listen": (listen,), "tls": tls, **more}))
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("listen", "required"), [("tls:0.0.0.0:1", True), ("mtls:[::]:1", True), ("tls:localhost:1", False)]
)
def test_what_has_both_is_listened_on(listen: str, required: bool) -> None:  # noqa: FBT001 - a case
    """With TLS and logins any address is accepted, and on the loopback TLS alone is enough."""
    tls = {"cert_file": "a", "key_file": "b", "client_ca_file": "c"}
    check_listeners(Settings(listen=(listen,), tls=tls, auth={"required": required}))
