"""The files of TLS: each read whole, checked, and checked against the others, before a connection depends on them."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NoReturn

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID

from inferd.errors import InvalidFieldError, present

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from inferd.tls_settings import Tls

MOST_BYTES = 16 << 20
LEAST_RSA_BITS = 2048
LONGEST_CHAIN = 8
CRL_END = b"-----END X509 CRL-----"
ISSUE = "inferd certs issue"


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """What the files hold.

    Attributes:
        key: The private key, PEM.
        chain: The certificate of the kernel and those above it, PEM.
        expires: When the first of those ends, in Unix time.
        clients: The authorities of clients, PEM; None for none.
        authorities: The same, read.
        revoked: Issuers, and the serial numbers of what they have revoked.
        next_lists: When the next list of an authority was to be there, in Unix time; None for no lists.
    """

    key: bytes = field(repr=False)
    chain: bytes
    expires: float
    clients: bytes | None
    authorities: tuple[x509.Certificate, ...]
    revoked: frozenset[tuple[bytes, int]]
    next_lists: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """A certificate that a client has shown.

    Attributes:
        names: Its URI and DNS names, in this order.
        expires: When it ends, in Unix time.
        chain: It, and what the client has shown between it and an authority.
    """

    names: tuple[str, ...]
    expires: float
    chain: tuple[x509.Certificate, ...] = field(repr=False)

    def holds(self, material: Material) -> bool:
        """Whether authorities that are trusted now stand behind it, none of which has revoked it or one between.

        That an authority is trusted does not end the way up: those above it may have revoked it. The way ends at one
        that has signed itself, or that none of the others has issued.
        """
        trusted, seen = material.authorities, set[x509.Certificate]()  # each is looked at once, whatever a client shows
        due = [self.chain[0]]
        while due:
            at = due.pop()
            if at in seen or (at.issuer.public_bytes(), at.serial_number) in material.revoked:
                continue
            seen.add(at)
            is_trusted = at in trusted
            known = trusted if is_trusted else (*trusted, *self.chain)
            above = [by for by in known if by != at and _issued(at, by)]
            if is_trusted and (not above or _issued(at, at)):
                return True
            due += above
        return False


def read_certificate(pem: bytes, chain: bytes) -> Certificate:
    """A certificate that gRPC has checked, with those that came with it.

    Raises:
        ValueError: It cannot be read.
    """
    leaf = x509.load_pem_x509_certificate(pem)
    above = x509.load_pem_x509_certificates(chain)[:LONGEST_CHAIN] if chain else ()
    try:
        said = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        names: list[str] = []
    except (x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise ValueError(str(error)) from None
    else:
        names = [
            *said.get_values_for_type(x509.UniformResourceIdentifier),
            *said.get_values_for_type(x509.DNSName),
        ]
    expires = leaf.not_valid_after_utc.timestamp()
    return Certificate(names=tuple(names), expires=expires, chain=(leaf, *(each for each in above if each != leaf)))


def read_material(tls: Tls, now: float) -> Material:
    """All files of TLS.

    Args:
        tls: Which they are; `cert_file` and `key_file` at least.
        now: Unix time.

    Raises:
        InvalidFieldError: One cannot be read or used, or does not belong to the others; says which, and why.
    """
    cert_file, key_file = present(tls.cert_file), present(tls.key_file)
    chain = _read(cert_file, "cert_file")
    certificates = _certificates(chain, cert_file, "cert_file")
    _check_server(certificates[0], cert_file, now)
    key = _read(key_file, "key_file", secret=True)
    _check_key(key, certificates[0], key_file)
    clients: bytes | None = None
    authorities: tuple[x509.Certificate, ...] = ()
    if tls.client_ca_file is not None:
        clients = _read(tls.client_ca_file, "client_ca_file")
        authorities = _certificates(clients, tls.client_ca_file, "client_ca_file")
    lists = () if tls.crl_file is None else _lists(_read(tls.crl_file, "crl_file"), tls.crl_file, authorities)
    nexts = [each.next_update_utc.timestamp() for each in lists if each.next_update_utc is not None]
    return Material(
        key=key,
        chain=chain,
        expires=min(each.not_valid_after_utc.timestamp() for each in certificates),
        clients=clients,
        authorities=authorities,
        revoked=frozenset((each.issuer.public_bytes(), gone.serial_number) for each in lists for gone in each),
        next_lists=min(nexts, default=None),
    )


def _read(path: Path, name: str, *, secret: bool = False) -> bytes:
    try:
        with path.open("rb") as file:
            if secret:
                _check_private(os.fstat(file.fileno()), path)
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        _refuse(path, name, f"cannot be read: {error.strerror}")
    if len(data) > MOST_BYTES:
        _refuse(path, name, f"has more than {MOST_BYTES} bytes")
    return data


def _check_private(found: os.stat_result, path: Path) -> None:
    """As PostgreSQL has it: a key is its user's alone, or root's and readable by a group."""
    mode, owner = stat.S_IMODE(found.st_mode), found.st_uid
    allowed = 0o740 if owner == 0 else 0o700
    if not stat.S_ISREG(found.st_mode) or mode & ~allowed or owner not in (0, os.geteuid()):
        _refuse(
            path,
            "key_file",
            f"has mode {mode:04o} and owner {owner}, so that others could use it: chmod 600 {path}, and issue a "
            f"new certificate should somebody have read it ({ISSUE})",
        )


def _certificates(data: bytes, path: Path, name: str) -> tuple[x509.Certificate, ...]:
    try:
        return tuple(x509.load_pem_x509_certificates(data))
    except ValueError:
        _refuse(path, name, "holds no certificates in PEM (-----BEGIN CERTIFICATE-----)")


def _check_server(certificate: x509.Certificate, path: Path, now: float) -> None:
    ends, begins = certificate.not_valid_after_utc, certificate.not_valid_before_utc
    if ends.timestamp() <= now:
        _refuse(path, "cert_file", f"has a certificate that ended at {ends:%Y-%m-%d %H:%M} UTC; issue a new one")
    if begins.timestamp() > now:
        _refuse(path, "cert_file", f"has a certificate that begins at {begins:%Y-%m-%d %H:%M} UTC; is the clock right?")
    if not _has(certificate, x509.SubjectAlternativeName):
        _refuse(path, "cert_file", f"names no host in subjectAltName: clients refuse it ({ISSUE} NAME --host HOST)")
    if _has(certificate, x509.ExtendedKeyUsage):
        usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        if not {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE} & set(usages):
            _refuse(path, "cert_file", f"has a certificate for clients, not for servers ({ISSUE} NAME --host HOST)")
    key = certificate.public_key()
    if isinstance(key, ec.EllipticCurvePublicKey) or (
        isinstance(key, rsa.RSAPublicKey) and key.key_size >= LEAST_RSA_BITS
    ):
        return
    _refuse(
        path,
        "cert_file",
        f"has a key that gRPC's TLS does not take: {type(key).__name__.removesuffix('PublicKey')}; it takes ECDSA "
        f"(P-256, P-384) and RSA of {LEAST_RSA_BITS} bits or more",
    )


def _has(certificate: x509.Certificate, kind: type[x509.ExtensionType]) -> bool:
    return any(isinstance(each.value, kind) for each in certificate.extensions)


def _check_key(key: bytes, certificate: x509.Certificate, path: Path) -> None:
    try:
        read = load_pem_private_key(key, password=None)
    except TypeError:
        _refuse(path, "key_file", "is encrypted, and a kernel has nobody to ask: write it without a passphrase")
    except ValueError:
        _refuse(path, "key_file", "holds no private key in PEM (-----BEGIN PRIVATE KEY-----)")
    if read.public_key() != certificate.public_key():
        _refuse(path, "key_file", "does not belong to the certificate of tls.cert_file; name those of one pair")


def _lists(
    data: bytes, path: Path, authorities: Sequence[x509.Certificate]
) -> tuple[x509.CertificateRevocationList, ...]:
    blocks = [block.lstrip() + CRL_END for block in data.split(CRL_END)[:-1]]
    try:
        lists = tuple(map(x509.load_pem_x509_crl, blocks))
    except ValueError:
        lists = ()
    if not lists:
        _refuse(path, "crl_file", "holds no list of revoked certificates in PEM (-----BEGIN X509 CRL-----)")
    for each in lists:
        if not any(by.subject == each.issuer and _signed(each, by) for by in authorities):
            issuer = each.issuer.rfc4514_string()[:80]
            _refuse(path, "crl_file", f"has a list of {issuer!r}, which no authority of tls.client_ca_file has signed")
    return lists


def _signed(crl: x509.CertificateRevocationList, by: x509.Certificate) -> bool:
    try:
        return crl.is_signature_valid(by.public_key())  # type: ignore[arg-type] # of another kind: TypeError
    except TypeError:
        return False


def _issued(certificate: x509.Certificate, by: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(by)
    except (InvalidSignature, TypeError, ValueError):
        return False
    return True


def _refuse(path: Path, name: str, why: str) -> NoReturn:
    raise InvalidFieldError(f"the file {path} of tls.{name} {why}", field=f"tls.{name}")
