"""Keys of bundles: Ed25519 to sign, X25519 to seal; PEM files."""

from __future__ import annotations

import os
import re
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from inferd.cli.bundles.faults import damaged, not_trusted
from inferd.cli.output import CommandError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

SIGNED: Final = b"inferd bundle 1 manifest\n"  # before the manifest: a signature is good for nothing else
FORM: Final = re.compile(rb"ed25519 ([0-9a-f]{64}) ([0-9a-f]{128})\n")
SIGNATURE_BYTES: Final = 202
KEY_BYTES: Final = 1 << 14  # of a file with a key
RAW = serialization.Encoding.Raw, serialization.PublicFormat.Raw
PEM = serialization.Encoding.PEM
SIGNING, SEALING = "signing", "sealing"


def make_pair(path: Path, kind: str) -> tuple[Path, Path]:
    """Make a key and its public half, `PATH.pem` and `PATH.pub`; the first is its owner's alone.

    Raises:
        CommandError: One of them is there already.
    """
    private, public = path.with_name(f"{path.name}.pem"), path.with_name(f"{path.name}.pub")
    for each in (private, public):
        if each.exists():
            raise CommandError(f"{each} is there already; name another, or remove it", reason="KEY_EXISTS")
    key = Ed25519PrivateKey.generate() if kind == SIGNING else X25519PrivateKey.generate()
    secret = key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    descriptor = os.open(private, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(secret)
    public.write_bytes(key.public_key().public_bytes(PEM, serialization.PublicFormat.SubjectPublicKeyInfo))
    return private, public


def fingerprint(public: Ed25519PublicKey | X25519PublicKey) -> str:
    """By which people tell keys apart."""
    return sha256(public.public_bytes(*RAW)).hexdigest()[:16]


def read_signing(path: Path) -> Ed25519PrivateKey:
    """A key to sign with.

    Raises:
        CommandError: The file has none.
    """
    if not isinstance(key := _private(path), Ed25519PrivateKey):
        raise _no_key(path, "no private key for signing, as PATH.pem of: inferd models keygen PATH")
    return key


def read_trusted(path: Path) -> Ed25519PublicKey:
    """The public half of a key to sign with.

    Raises:
        CommandError: The file has none.
    """
    if not isinstance(key := _public(path), Ed25519PublicKey):
        raise _no_key(path, "no public key for signing, as PATH.pub of: inferd models keygen PATH")
    return key


def read_unsealing(path: Path) -> X25519PrivateKey:
    """A key that opens what was sealed.

    Raises:
        CommandError: The file has none.
    """
    if not isinstance(key := _private(path), X25519PrivateKey):
        raise _no_key(path, "no private key for sealing, as PATH.pem of: inferd models keygen PATH --sealing")
    return key


def read_sealing(path: Path) -> X25519PublicKey:
    """The public half of a key that opens what was sealed.

    Raises:
        CommandError: The file has none.
    """
    if not isinstance(key := _public(path), X25519PublicKey):
        raise _no_key(path, "no public key for sealing, as PATH.pub of: inferd models keygen PATH --sealing")
    return key


def _private(path: Path) -> object:
    try:
        return serialization.load_pem_private_key(_read(path), password=None)
    except (ValueError, TypeError):
        return None


def _public(path: Path) -> object:
    try:
        return serialization.load_pem_public_key(_read(path))
    except ValueError:
        return None


def _no_key(path: Path, why: str) -> CommandError:
    return CommandError(f"{path} has {why}", reason="KEY_INVALID", metadata={"file": str(path)})


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(KEY_BYTES)


def sign(manifest: bytes, key: Ed25519PrivateKey) -> bytes:
    """The signature of a manifest, with who made it."""
    public = key.public_key().public_bytes(*RAW).hex()
    return f"ed25519 {public} {key.sign(SIGNED + manifest).hex()}\n".encode()


def verify(manifest: bytes, signature: bytes, trusted: Sequence[Ed25519PublicKey]) -> str:
    """Who has signed a manifest, by fingerprint.

    Raises:
        CommandError: Nobody who is trusted, or the signature does not hold.
    """
    found = FORM.fullmatch(signature)
    if found is None:
        raise damaged("its signature has not the form of one", part="manifest.sig")
    signer = sha256(bytes.fromhex(found[1].decode())).hexdigest()[:16]
    for key in trusted:
        if key.public_bytes(*RAW).hex() == found[1].decode():
            try:
                key.verify(bytes.fromhex(found[2].decode()), SIGNED + manifest)
            except InvalidSignature:
                raise damaged(
                    f"its manifest is not what the key {signer} has signed", part="manifest.json", signer=signer
                ) from None
            return signer
    known = ", ".join(map(fingerprint, trusted)) or "none"
    raise not_trusted(
        f"the bundle is signed by the key {signer}, which is none of the trusted ({known}); get that key from who made"
        " it, by another way, and name it with --trust",
        signer=signer,
    )
