"""The key that signs checkpoints of the audit trail: it lies apart from the store, like the pepper."""

from __future__ import annotations

import glob
import os
import secrets
import stat
from contextlib import suppress
from hashlib import sha256
from typing import TYPE_CHECKING, NoReturn

import structlog
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from inferd.errors import InvalidFieldError, StoreUnavailableError

if TYPE_CHECKING:
    from pathlib import Path

PEM = serialization.Encoding.PEM
MODE, PUBLIC_MODE = 0o600, 0o644
KEY_BYTES = 1 << 14  # of a file with a key
MOST_HALVES = 64  # public ones that are looked at

log = structlog.get_logger()


def read_audit_key(path: Path, *, any_owner: bool = False) -> Ed25519PrivateKey:
    """The key in a file that only its owner may read; made where it is not there, with its public half beside it.

    Args:
        path: The file.
        any_owner: Whether that may be another user than this one, as for a command of root.

    Raises:
        InvalidFieldError: Others may read it, or it is no key.
        StoreUnavailableError: It cannot be made; nothing of it is there.
        OSError: It cannot be read.
    """
    public = path.with_suffix(".pub")
    if not path.exists():
        try:
            _make(path)
        except OSError as error:
            raise StoreUnavailableError(
                f"the key of the audit trail {path} cannot be made: {error.strerror}; make room there and let this user"
                " write, or name another place (audit.key_file)",
                metadata={"cause": f"{error.strerror}"},
            ) from None
    key = _read(path, any_owner=any_owner)
    try:
        _keep_public(public, key.public_key().public_bytes(PEM, _PUBLIC_FORMAT))
    except OSError as error:  # whoever checks the trail can ask the kernel for it
        log.warning("the public half of the audit trail's key cannot be written", why=error.strerror)
    return key


def public_halves(path: Path) -> list[Path]:
    """The files with the public half of a key, and with those of the keys before it, as far as they are there."""
    public = path.with_suffix(".pub")
    before = sorted(public.parent.glob(f"{glob.escape(public.stem)}-*.pub"))
    return [each for each in (public, *before) if each.exists()][:MOST_HALVES]


def keep_half(path: Path, half: str) -> None:
    """Have the public half of another kernel's key, in hexadecimal, stand beside a key; what is there stays."""
    data = Ed25519PublicKey.from_public_bytes(bytes.fromhex(half)).public_bytes(PEM, _PUBLIC_FORMAT)
    kept = _named(path.with_suffix(".pub"), data)
    if kept.exists() or len(public_halves(path)) >= MOST_HALVES:
        return
    try:
        put_file(kept, data, mode=PUBLIC_MODE)
    except OSError as error:  # as that of this kernel's own key
        log.warning("the public half of another kernel's key cannot be written", why=error.strerror)


def _named(public: Path, data: bytes) -> Path:
    """Where the public half of another key stands beside one."""
    return public.with_name(f"{public.stem}-{sha256(data).hexdigest()[:16]}.pub")


def _keep_public(public: Path, data: bytes) -> None:
    """Have the public half stand beside the key; that of another key is kept, as what it signed is still there."""
    if public.exists():
        with public.open("rb") as file:
            before = file.read(KEY_BYTES)
        if before == data:
            return
        kept = _named(public, before)
        public.replace(kept)
        log.warning("the audit trail has another key now; the public half of the one before is kept", kept=kept.name)
    put_file(public, data, mode=PUBLIC_MODE)


_PUBLIC_FORMAT = serialization.PublicFormat.SubjectPublicKeyInfo


def _read(path: Path, *, any_owner: bool) -> Ed25519PrivateKey:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        owned = any_owner or found.st_uid == os.geteuid()
        if not stat.S_ISREG(found.st_mode) or found.st_mode & 0o077 or not owned:
            _refuse(
                f"the file {path} of audit.key_file has mode {found.st_mode & 0o777:04o} and owner {found.st_uid}; "
                f"others than its owner may use it: chmod 600 {path}, or remove it, should somebody have read it"
            )
        data = file.read(KEY_BYTES)
    try:
        key = serialization.load_pem_private_key(data, password=None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        _refuse(
            f"the file {path} of audit.key_file holds no Ed25519 key in PEM; put back that file, or remove it: another"
            " key is made then, which whoever checks the trail has to trust, too"
        )
    return key


def _make(path: Path) -> None:
    """Make the file, whole at once; that of another kernel that does the same at this moment is as good."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    key = Ed25519PrivateKey.generate()
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, MODE)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
            file.flush()
            os.fsync(descriptor)
        with suppress(FileExistsError):
            os.link(new, path)
            log.info(
                "made the key that signs the audit trail; keep its public half elsewhere", public=f"{path.stem}.pub"
            )
    finally:
        new.unlink()


def put_file(path: Path, data: bytes, *, mode: int) -> None:
    """Have a file hold this, whole at once, in place of what it held.

    Raises:
        OSError: It cannot.
    """
    new = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        new.replace(path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise


def _refuse(message: str) -> NoReturn:
    raise InvalidFieldError(message, field="audit.key_file")
