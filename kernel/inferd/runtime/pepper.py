"""The secret that makes digests of credentials worthless without this host: it lies outside the store."""

from __future__ import annotations

import os
import secrets
import stat
from contextlib import suppress
from typing import TYPE_CHECKING

import structlog

from inferd.errors import InvalidFieldError, StoreUnavailableError

if TYPE_CHECKING:
    from pathlib import Path

SIZE_BYTES = 32
MODE = 0o600

log = structlog.get_logger()


def read_pepper(path: Path) -> bytes:
    """What is in a file that only its owner may read; made where it is not there.

    Raises:
        InvalidFieldError: Others may read it, or it is not what was made.
        StoreUnavailableError: It cannot be made; nothing of it is there.
        OSError: It cannot be read.
    """
    if not path.exists():
        try:
            _make(path)
        except OSError as error:
            raise StoreUnavailableError(
                f"the secret of this kernel's keys {path} cannot be made: {error.strerror}; make room there and let"
                " this user write, or name another place (auth.pepper_file)",
                metadata={"cause": f"{error.strerror}"},
            ) from None
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_mode & 0o077 or found.st_uid != os.geteuid():
            _refuse(
                f"the file {path} of auth.pepper_file has mode {found.st_mode & 0o777:04o} and owner {found.st_uid}; "
                f"others than its owner may use it: chmod 600 {path}, and make new keys should somebody have read it"
            )
        pepper = file.read(SIZE_BYTES + 1)
    if len(pepper) != SIZE_BYTES:
        _refuse(
            f"the file {path} of auth.pepper_file is not what was made: it has not {SIZE_BYTES} bytes; put back that "
            "file, or remove it and make new keys"
        )
    return pepper


def _make(path: Path) -> None:
    """Make the file, whole at once; that of another kernel that does the same at this moment is as good."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, MODE)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(SIZE_BYTES))
            file.flush()
            os.fsync(descriptor)
        with suppress(FileExistsError):
            os.link(new, path)
            log.info("made the secret of this kernel's keys; keys that were made with another one hold no longer")
    finally:
        new.unlink()


def _refuse(message: str) -> None:
    raise InvalidFieldError(message, field="auth.pepper_file")
