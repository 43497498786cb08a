"""Where the keys come from that wrap those of tenants: a file apart from what is kept, a credential, or a command.

It gives lines, each `inferd-store-key-1` and 32 bytes in base64. The first one wraps; the others open what was wrapped
with them, until all is wrapped anew. Empty lines, and those that begin with #, are passed over.
"""

import os
import secrets
import stat
import subprocess
from base64 import b64decode, b64encode
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import NoReturn, Protocol

import structlog

from inferd.store.sealing.xaes import KEY_BYTES, Xaes
from inferd.store.store import SealError

MARK = "inferd-store-key-1"
MOST_BYTES = 64 << 10
MOST_KEYS = 16
MODE = 0o600
ID_BYTES = 8
CREDENTIAL = "inferd-store-key"  # its name for systemd: LoadCredential=inferd-store-key:/path
KEEP_IT = "keep a copy elsewhere, and out of backups of the store: without it nothing that is kept can be read"

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Kek:
    """A key that wraps keys.

    Attributes:
        key: 32 bytes.
        id: Which one it is; says nothing of it.
    """

    key: bytes = field(repr=False)

    @property
    def id(self) -> bytes:
        """As above."""
        return sha256(b"inferd store key id\0" + self.key).digest()[:ID_BYTES]

    @property
    def cipher(self) -> Xaes:
        """What wraps with it."""
        return Xaes(self.key)

    @classmethod
    def made(cls) -> "Kek":
        """A new one."""
        return cls(secrets.token_bytes(KEY_BYTES))


class KeySource(Protocol):
    """Where the keys come from.

    Attributes:
        name: What it is called to people.
        path: Its file, where the kernel may write it; None where others do.
    """

    name: str
    path: Path | None

    def read(self) -> list[Kek]:
        """The keys, the first one of which wraps; none where there is none yet, and it can be made.

        Raises:
            SealError: They cannot be had, or are none.
        """


class KeyFile:
    """As `KeySource`; a file, by default one that the first start makes.

    Args:
        path: It.
        owned: Whether it is the kernel's own: then nobody else may read it.
    """

    def __init__(self, path: Path, *, owned: bool = True) -> None:
        self.name = f"the file {path}"
        self.path: Path | None = path if owned else None
        self._file = path
        self._owned = owned

    def read(self) -> list[Kek]:
        """As `KeySource.read`."""
        try:
            descriptor = os.open(self._file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            if self._owned:
                return []
            raise SealError(f"{self.name} is not there", metadata={"cause": "no key"}) from None
        except OSError as error:
            raise self._failed("be read", error) from None
        with os.fdopen(descriptor, "rb") as file:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise SealError(f"{self.name} is no file", metadata={"cause": "no key"})
            if found.st_mode & (0o077 if self._owned else 0o007):
                raise SealError(
                    f"{self.name} has mode {found.st_mode & 0o777:04o}: others than its owner may read the key; chmod"
                    f" 600 {self._file}, and if somebody has read it, inferd store keys rotate --wrapping --forget",
                    metadata={"cause": "mode", "file": str(self._file)},
                )
            return keys_of(file.read(MOST_BYTES + 1), self.name)

    def make(self, keks: Sequence[Kek], *, replaces: bool = False) -> None:
        """Write the file, whole at once and on the disk; one that is there stays unless this `replaces` it.

        Raises:
            SealError: It cannot be.
        """
        new = self._file.with_name(f".{self._file.name}.{secrets.token_hex(8)}")
        text = f"# Opens the store of inferd: {KEEP_IT}.\n" + "".join(
            f"{MARK} {b64encode(kek.key).decode()}\n" for kek in keks
        )
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            try:
                descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, MODE)
                with os.fdopen(descriptor, "w", encoding="ascii") as file:
                    file.write(text)
                    file.flush()
                    os.fsync(descriptor)
                if replaces:
                    new.replace(self._file)
                else:
                    with suppress(FileExistsError):  # that of another kernel, which does the same at this moment
                        os.link(new, self._file)
            finally:
                new.unlink(missing_ok=True)
            folder = os.open(self._file.parent, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise self._failed("be written", error) from None

    def _failed(self, what: str, error: OSError) -> SealError:
        return SealError(
            f"{self.name} of the store's key cannot {what}: {error.strerror}; let this user do that, name another"
            ' place (store.key_file), or let the store be unsealed (store.sealing = "off")',
            metadata={"cause": f"{error.strerror}", "file": str(self._file)},
        )


class KeyCommand:
    """As `KeySource`; what a command writes. No shell is asked.

    Args:
        words: The command.
        timeout_s: How long it may take.
    """

    path: Path | None = None

    def __init__(self, words: Sequence[str], timeout_s: float) -> None:
        self.name = f"the command {words[0]} (store.key_command)"
        self._words = list(words)
        self._timeout_s = timeout_s

    def read(self) -> list[Kek]:
        """As `KeySource.read`; of what it says about a failure nothing is told, as it may hold the key."""
        try:
            with subprocess.Popen(
                self._words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            ) as process:
                try:
                    said, _ = process.communicate(timeout=self._timeout_s)
                except BaseException:
                    process.kill()
                    raise
        except subprocess.TimeoutExpired:
            self._refuse(f"gave no key within store.key_timeout_s = {self._timeout_s:g} s")
        except OSError as error:
            self._refuse(f"cannot be run: {error.strerror}")
        if process.returncode:
            self._refuse(f"ended with {process.returncode}")
        return keys_of(said, self.name)

    def _refuse(self, why: str) -> NoReturn:
        raise SealError(f"{self.name} {why}; run it by hand to see why", metadata={"cause": why})


def keys_of(data: bytes, name: str) -> list[Kek]:
    """The keys that are written so; `name` says where, to people.

    Raises:
        SealError: There are none, or too many, or something else is there.
    """
    lines = [line.split() for line in data[: MOST_BYTES + 1].decode("ascii", "replace").splitlines()]
    keks = []
    for number, words in enumerate(lines, start=1):
        if not words or words[0].startswith("#"):
            continue
        try:
            mark, written = words
            key = b64decode(written, validate=True)
        except ValueError:
            mark, key = "", b""
        if mark != MARK or len(key) != KEY_BYTES:
            raise SealError(
                f"{name}: line {number} is no key; each is {MARK} and {KEY_BYTES} bytes in base64: put back what was"
                " there",
                metadata={"cause": "no key", "line": str(number)},
            )
        keks.append(Kek(key))
    if not 1 <= len(keks) <= MOST_KEYS or len(data) > MOST_BYTES:
        raise SealError(
            f"{name} has {len(keks)} keys in {len(data)} bytes and may have 1 to {MOST_KEYS} in {MOST_BYTES}: put back"
            " what was there",
            metadata={"cause": "no key"},
        )
    return keks


class KeyPlace(Protocol):
    """What the configuration says of keys (`inferd.config.Store`)."""

    @property
    def sealing(self) -> str:
        """`on` or `off`."""

    @property
    def key_file(self) -> Path | None:
        """The file, with its default."""

    @property
    def key_command(self) -> tuple[str, ...]:
        """The command, or nothing."""

    @property
    def key_timeout_s(self) -> float:
        """How long that may take, in seconds."""


def source_of(place: KeyPlace) -> KeySource:
    """Where the keys come from: the command, else a credential of systemd's with the name, else the file."""
    if place.key_command:
        return KeyCommand(place.key_command, place.key_timeout_s)
    folder = os.environ.get("CREDENTIALS_DIRECTORY", "")
    if folder and (credential := Path(folder, CREDENTIAL)).exists():
        return KeyFile(credential, owned=False)
    if place.key_file is None:
        raise SealError("no store.key_file is named", metadata={"cause": "no key"})
    return KeyFile(place.key_file)
