"""What an agent is known by: an invitation at first, then a credential of its own, in a file of its own."""

from __future__ import annotations

import os
from contextlib import suppress
from hashlib import sha256
from typing import TYPE_CHECKING

from inferd_client.credentials import credential_of, write_credential

if TYPE_CHECKING:
    from pathlib import Path


class OwnCredential:
    """The credential of a host with one kernel.

    Args:
        folder: Where it is kept.
        address: Of the kernel.
        name: Of the host.

    Attributes:
        path: Of its file.
    """

    def __init__(self, folder: Path, address: str, name: str) -> None:
        digest = sha256(f"{address} {name}".encode()).hexdigest()[:16]
        self.path = folder / f"agent-{digest}.key"

    def read(self) -> str:
        """It; "" where there is none.

        Raises:
            CredentialError: It cannot be read, or others may read it.
        """
        return credential_of(None, self.path) if self.path.exists() else ""

    def write(self, credential: str) -> None:
        """Keep another one: whole, or the one before stays.

        Raises:
            OSError: It cannot be written.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        fresh = self.path.with_suffix(f".{os.getpid()}")
        with suppress(FileNotFoundError):
            fresh.unlink()
        write_credential(fresh, credential)
        descriptor = os.open(fresh, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        fresh.replace(self.path)
