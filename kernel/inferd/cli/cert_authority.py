"""A small authority: a folder with a root, what it has issued, and the list of what it has revoked.

    ca.pem, ca.key      the root; the key is its owner's alone
    crl.pem             what is revoked, for `tls.crl_file`
    issued/SERIAL.pem   each certificate that was issued

Keys are ECDSA on P-256: gRPC's TLS takes no Ed25519. Nothing but these files is kept; what a certificate is, and for
whom, stands in it.
"""

from __future__ import annotations

import fcntl
import ipaddress
import os
import re
import secrets
import shlex
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from inferd.cli.output import CommandError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

ROOT, ROOT_KEY, LIST, ISSUED = "ca.pem", "ca.key", "crl.pem", "issued"
SLACK = timedelta(minutes=5)  # by which the clocks of others may be behind
NAME_FORM = re.compile(r"[A-Za-z0-9._-]{1,64}")
URI_FORM = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[A-Za-z0-9._:@/#-]{1,120}")
HOST_FORM = re.compile(r"[A-Za-z0-9*]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """A certificate that an authority has issued.

    Attributes:
        certificate: It.
        revoked: When it was revoked; None for never.
    """

    certificate: x509.Certificate
    revoked: datetime | None

    @property
    def serial(self) -> str:
        """Its number, in hexadecimal."""
        return _serial(self.certificate)

    @property
    def name(self) -> str:
        """For whom it was issued."""
        return str(self.certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)

    @property
    def names(self) -> list[str]:
        """What it stands for: hosts of a server, URIs of a client."""
        said = self.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        kinds = (x509.DNSName, x509.IPAddress, x509.UniformResourceIdentifier)
        return [str(name) for kind in kinds for name in said.get_values_for_type(kind)]

    @property
    def server(self) -> bool:
        """Whether it is a server's; else a client's."""
        usages = self.certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        return ExtendedKeyUsageOID.SERVER_AUTH in usages

    def state(self, now: datetime) -> str:
        """Whether it holds: "active", "expired" or "revoked"."""
        if self.revoked is not None:
            return "revoked"
        return "active" if now < self.certificate.not_valid_after_utc else "expired"


class CertAuthority:
    """An authority that is there.

    Args:
        folder: Where it is.

    Raises:
        CommandError: There is none, or its files are broken.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            self._root = x509.load_pem_x509_certificate((folder / ROOT).read_bytes())
        except FileNotFoundError:
            message = (
                f"there is no authority in {folder}; make one with: inferd certs init --dir {shlex.quote(str(folder))}"
            )
            raise CommandError(message, reason="AUTHORITY_NOT_FOUND") from None
        except ValueError:
            raise _broken(folder / ROOT) from None

    @classmethod
    def create(cls, folder: Path, *, name: str, days: float) -> CertAuthority:
        """Make an authority in a folder that has none.

        Raises:
            CommandError: There is one, or the name is none.
        """
        _check_name(name)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if (folder / ROOT_KEY).exists():
            message = f"there is an authority in {folder} already; name another folder with --dir"
            raise CommandError(message, reason="AUTHORITY_EXISTS")
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _subject(name)
        now = datetime.now(UTC)
        root = (
            _builder(subject, subject, key.public_key(), now, now + timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .sign(key, hashes.SHA256())
        )
        (folder / ISSUED).mkdir(mode=0o700, exist_ok=True)
        _write(folder / ROOT_KEY, _pem(key), mode=0o600, replace=False)
        _write(folder / ROOT, root.public_bytes(serialization.Encoding.PEM), mode=0o644, replace=True)
        made = cls(folder)
        made._write_list(())
        return made

    @property
    def root(self) -> x509.Certificate:
        """Its own certificate."""
        return self._root

    def issue(
        self, name: str, *, hosts: Sequence[str], uris: Sequence[str], days: float, out: Path, replace: bool
    ) -> tuple[Issued, Path, Path]:
        """A new certificate and its key, in the files NAME.pem and NAME.key of a folder.

        Args:
            name: For whom.
            hosts: Of a server: DNS names and addresses by which clients reach it.
            uris: Of a client: what it stands for; default: "inferd:" and its name.
            days: How long it holds, no longer than the authority.
            out: The folder.
            replace: Whether files that are there give way.

        Raises:
            CommandError: A name is none, files are there, or the key of the authority cannot be read.
        """
        _check_name(name)
        cert_file, key_file = out / f"{name}.pem", out / f"{name}.key"
        if not out.is_dir():
            raise CommandError(f"{out} is no folder that is there; make it, or name another: --out", reason="USAGE")
        for path in (cert_file, key_file):
            if path.exists() and not replace:
                raise CommandError(f"{path} is there already; replace it with --replace", reason="USAGE")
        names = [*map(_host, hosts), *map(_uri, uris)] or [_uri(f"inferd:{name}")]
        usage = ExtendedKeyUsageOID.SERVER_AUTH if hosts else ExtendedKeyUsageOID.CLIENT_AUTH
        key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
        ends = min(now + timedelta(days=days), self._root.not_valid_after_utc)
        signs = self._key()
        certificate = (
            _builder(_subject(name), self._root.subject, key.public_key(), now, ends)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signs.public_key()), critical=False)
            .sign(signs, hashes.SHA256())
        )
        pem = certificate.public_bytes(serialization.Encoding.PEM)
        record = self.folder / ISSUED / f"{_serial(certificate)}.pem"
        _write(record, pem, mode=0o644, replace=False)  # first: what is handed out can be revoked
        try:
            _write(key_file, _pem(key), mode=0o600, replace=replace)
            _write(cert_file, pem, mode=0o644, replace=replace)
        except OSError:
            record.unlink()  # nobody got it
            raise
        return Issued(certificate=certificate, revoked=None), cert_file, key_file

    def issued(self) -> list[Issued]:
        """All that was issued, newest first.

        Raises:
            CommandError: A file is broken.
        """
        revoked = self._revoked()
        found = []
        for path in (self.folder / ISSUED).glob("*.pem"):
            try:
                certificate = x509.load_pem_x509_certificate(path.read_bytes())
            except ValueError:
                raise _broken(path) from None
            found.append(Issued(certificate=certificate, revoked=revoked.get(certificate.serial_number)))
        return sorted(found, key=lambda each: each.certificate.not_valid_before_utc, reverse=True)

    def revoke(self, which: str) -> list[Issued]:
        """Revoke all certificates of a name that hold, or the one whose number begins so; what was revoked now.

        Raises:
            CommandError: There is none, or several begin so, or the key of the authority cannot be read.
        """
        with self._changing():
            now = datetime.now(UTC)
            every = self.issued()
            meant = [each for each in every if each.name == which]
            if not meant and which:
                meant = [each for each in every if each.serial.startswith(which.lower())]
                if len(meant) > 1:
                    message = f"{len(meant)} certificates have a number that begins with {which!r}; write more of it"
                    raise CommandError(message, reason="USAGE")
            if not meant:
                message = f"no certificate of {which!r}; see inferd certs list"
                raise CommandError(message, reason="CERTIFICATE_NOT_FOUND")
            gone = [each for each in meant if each.state(now) == "active"]
            self._write_list([each for each in every if each.revoked is not None], also=gone, now=now)
            return [Issued(certificate=each.certificate, revoked=now) for each in gone]

    def _revoked(self) -> dict[int, datetime]:
        path = self.folder / LIST
        try:
            crl = x509.load_pem_x509_crl(path.read_bytes())
        except (FileNotFoundError, ValueError):
            raise _broken(path) from None
        return {each.serial_number: each.revocation_date_utc for each in crl}

    def _write_list(self, before: Sequence[Issued], also: Sequence[Issued] = (), now: datetime | None = None) -> None:
        now = now or datetime.now(UTC)
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self._root.subject)
            .last_update(now)
            .next_update(self._root.not_valid_after_utc)
        )
        for each in (*before, *also):
            gone = x509.RevokedCertificateBuilder().serial_number(each.certificate.serial_number)
            builder = builder.add_revoked_certificate(gone.revocation_date(each.revoked or now).build())
        crl = builder.sign(self._key(), hashes.SHA256())
        _write(self.folder / LIST, crl.public_bytes(serialization.Encoding.PEM), mode=0o644, replace=True)

    def _key(self) -> ec.EllipticCurvePrivateKey:
        path = self.folder / ROOT_KEY
        try:
            key = serialization.load_pem_private_key(path.read_bytes(), password=None)
        except (FileNotFoundError, ValueError, TypeError):
            raise _broken(path) from None
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != self._root.public_key():
            raise _broken(path)
        return key

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Nobody else changes the list as long as the block."""
        descriptor = os.open(self.folder / ROOT, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, ends: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SLACK)
        .not_valid_after(ends)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _serial(certificate: x509.Certificate) -> str:
    return f"{certificate.serial_number:040x}"


def _check_name(name: str) -> None:
    if not NAME_FORM.fullmatch(name):
        message = f"{name!r} is no name: it must be 1 to 64 of letters, digits, '.', '_' and '-'"
        raise CommandError(message, reason="USAGE")


def _host(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text.strip("[]")))
    except ValueError:
        pass
    if not HOST_FORM.fullmatch(text):
        message = f"{text!r} is no host: write a DNS name or an address, without a port"
        raise CommandError(message, reason="USAGE")
    return x509.DNSName(text)


def _uri(text: str) -> x509.GeneralName:
    if not URI_FORM.fullmatch(text):
        message = f"{text!r} is no URI that a rule can name, as spiffe://example.org/web"
        raise CommandError(message, reason="USAGE")
    return x509.UniformResourceIdentifier(text)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write(path: Path, data: bytes, *, mode: int, replace: bool) -> None:
    """Write a file whole or not at all; never readable for more than its mode says."""
    new = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        if replace:
            new.replace(path)
        else:
            os.link(new, path)
    finally:
        with suppress(FileNotFoundError):
            new.unlink()


def _broken(path: Path) -> CommandError:
    message = f"{path} is not there, or not what inferd certs has made; put it back, or make a new authority"
    return CommandError(message, reason="AUTHORITY_BROKEN")
