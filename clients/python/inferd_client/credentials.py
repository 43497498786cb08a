"""The credential that a client sends: from an argument, a file that only its owner may read, or the environment."""

from __future__ import annotations

import os
import re
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

VARIABLE, FILE_VARIABLE = "INFERD_CREDENTIAL", "INFERD_CREDENTIAL_FILE"
FORM = re.compile(r"[\x21-\x7e]{1,8192}")
"""What a header can carry of it."""
MOST_BYTES = 8192


class CredentialError(ValueError):
    """A credential cannot be read, or is none; says where it was to come from, never what it is."""


def credential_of(credential: str | None, file: str | os.PathLike[str] | None) -> str:
    """The credential that is meant; "" for none.

    Args:
        credential: Itself; "" for none, whatever the environment says.
        file: Where it is, alone.

    Raises:
        CredentialError: It cannot be read, others may read it, or it is none.
    """
    if credential is not None:
        return _checked(credential, "credential") if credential else ""
    if file is not None:
        return _read(file)
    if said := os.environ.get(VARIABLE):
        return _checked(said, f"${VARIABLE}")
    return _read(path) if (path := os.environ.get(FILE_VARIABLE)) else ""


def bearer(secret: str) -> tuple[tuple[str, str], ...]:
    """The metadata that carries a secret; none for ""."""
    return (("authorization", f"Bearer {secret}"),) if secret else ()


def _read(file: str | os.PathLike[str]) -> str:
    try:
        with open(file, "rb") as opened:  # noqa: PTH123 - of whatever kind the path is
            check_own(os.fstat(opened.fileno()), "credential", file)
            text = opened.read(MOST_BYTES + 1).decode("ascii", errors="replace")
    except OSError as error:
        raise CredentialError(f"the credential file {file} cannot be read: {error.strerror}") from None
    return _checked(text.strip(), f"the credential file {file}")


def check_own(found: os.stat_result, what: str, file: str | os.PathLike[str]) -> None:
    """Refuse a file with a secret that others could read.

    Raises:
        CredentialError: They could.
    """
    if not stat.S_ISREG(found.st_mode) or found.st_mode & 0o077 or found.st_uid not in (0, os.geteuid()):
        mode, owner = found.st_mode & 0o777, found.st_uid
        raise CredentialError(
            f"the {what} file {file} has mode {mode:04o} and owner {owner}, so that others could use it; it must be a "
            f"file of yours with mode 0600: chmod 600 {file}"
        )


def _checked(text: str, where: str) -> str:
    if not FORM.fullmatch(text):
        raise CredentialError(f"{where} holds no credential: it must be 1 to {MOST_BYTES} visible letters of ASCII")
    return text


def write_credential(file: Path, credential: str) -> None:
    """Write a credential to a new file that only its owner may read.

    Raises:
        OSError: There is such a file, or it cannot be made.
    """
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as opened:
        opened.write(f"{credential}\n")
