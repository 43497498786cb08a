"""What an agent is known by: an invitation at first, then a credential of its own, in a file of its own."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from hashlib import sha256
from typing import TYPE_CHECKING

from inferd.agent.connection import KernelConnection
from inferd.runtime.credential import drawn_credential
from inferd_client import CredentialError, InferdError
from inferd_client.credentials import credential_of, write_credential
from inferd_client.errors import UnauthenticatedError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

ELSEWHERE = frozenset({"KERNEL_UNREACHABLE", "NOT_LEADER", "SHUTTING_DOWN"})
"""Reasons for which another kernel is tried, where several are named."""
KEYRING = re.compile(r"[0-9a-f]{16}")
DIGITS = 16  # of a digest, in names of files


class OwnCredential:
    """The credentials of a host: one for each keyring that it has joined, whatever the addresses of its kernels are.

    Args:
        folder: Where they are kept.
        addresses: Of kernels; files of before are named by one.
        name: Of the host.
    """

    def __init__(self, folder: Path, addresses: Sequence[str], name: str) -> None:
        self._folder = folder
        self._name = name
        self._of_addresses = [folder / f"agent-{_digits(f'{address} {name}')}.key" for address in addresses]

    def all(self) -> list[Path]:
        """The files there are."""
        return [*(path for path in self._of_addresses if path.exists()), *self._named("key")]

    def begun(self) -> list[Path]:
        """Files of credentials with which it was asked to join, and no answer came."""
        return self._named("joining")

    def _named(self, suffix: str) -> list[Path]:
        form = re.compile(rf"agent-{re.escape(self._name)}-[0-9a-f]{{{DIGITS}}}\.{suffix}")
        return sorted(path for path in self._folder.glob(f"agent-*.{suffix}") if form.fullmatch(path.name))

    def begin(self, token: str) -> Path:
        """A file with a credential to join by this invitation: it is there before the kernel is asked.

        Raises:
            CredentialError: It cannot be written.
        """
        path = self._folder / f"agent-{self._name}-{_digits(token)}.joining"
        if not path.exists():
            self._write(path, drawn_credential())
        return path

    def keep(self, credential: str, keyring_id: str) -> None:
        """It has joined; what was of the same keyring gives way.

        Raises:
            CredentialError: It cannot be written.
        """
        named = bool(KEYRING.fullmatch(keyring_id))
        path = self._folder / f"agent-{self._name}-{keyring_id}.key" if named else self._of_addresses[0]
        self._write(path, credential)
        for before in (*self.begun(), *(self._of_addresses if named else ())):
            before.unlink(missing_ok=True)

    def _write(self, path: Path, credential: str) -> None:
        """Write it whole, or what was there stays."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            fresh = path.with_suffix(f".{os.getpid()}")
            with suppress(FileNotFoundError):
                fresh.unlink()
            write_credential(fresh, credential)
            descriptor = os.open(fresh, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            fresh.replace(path)
        except OSError as error:
            raise CredentialError(
                f"the credential of host {self._name!r} cannot be kept in {path}: {error.strerror}; mend that, or have "
                "another folder of state (INFERD_STATE_DIR)"
            ) from None


async def find_credential(own: OwnCredential, addresses: Sequence[str], name: str, token: str) -> str | None:
    """What this host is known by: its own credential; with a new invitation, a new one. None for that of the client.

    Raises:
        CredentialError: It cannot be read, or written.
        InferdError: It may not join.
    """
    known, begun = _read(own.all()), _read(own.begun())
    if not token and len(known) == 1 and not begun:
        return known[0]
    unsure = []
    for credential in (*known, *begun):
        match await _is_known(addresses, credential):
            case True:
                if credential in begun:
                    own.keep(credential, _digits(credential))
                return credential
            case None:
                unsure.append(credential)
    if token and not any(each in known for each in unsure):
        return await _join(own, addresses, name, token)
    return next(iter((*unsure, *known)), None)


def _read(paths: Sequence[Path]) -> list[str]:
    return [credential_of(None, path) for path in paths]


async def _join(own: OwnCredential, addresses: Sequence[str], name: str, token: str) -> str | None:
    credential = credential_of(None, own.begin(token))
    for address in addresses:
        try:
            async with KernelConnection(address, credential=token) as connection:
                made = await connection.join(name, credential.rpartition("_")[2])
        except InferdError as error:
            if address == addresses[-1] or error.reason not in ELSEWHERE:
                raise
        else:
            own.keep(made.credential, made.keyring_id)
            return made.credential
    return None


async def _is_known(addresses: Sequence[str], credential: str) -> bool | None:
    """Whether the kernel that leads knows a credential; None where none answers."""
    for address in addresses:
        async with KernelConnection(address, credential=credential) as connection:
            try:
                await connection.attach_nothing()
            except UnauthenticatedError:
                return False
            except InferdError as error:
                if error.reason not in ELSEWHERE:
                    return True if error.reason == "INVALID_FIELD" else None
    return None


def _digits(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:DIGITS]
