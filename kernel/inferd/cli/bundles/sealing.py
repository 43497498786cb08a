"""Sealed bundles: nobody reads them but who has the key, or the passphrase.

    "inferd sealed 1" and a line feed; X (for a key) or P (by a passphrase); 32 bytes, a public key of its own or salt;
    32 bytes that say whether a key is the right one; parts of 64 KiB, each with 16 bytes by which a change is noticed

The key of the parts is HKDF-SHA256 of what X25519 gives, or scrypt of the passphrase. The parts are a STREAM (Hoang,
Reyhanitabar, Rogaway, Vizár, 2015) of ChaCha20-Poly1305: the nonce of each is its number and whether it is the last
one, so that none can be left out, moved or cut off.
"""

from __future__ import annotations

import hmac
import secrets
from typing import TYPE_CHECKING, Final, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from inferd.cli.bundles.faults import damaged, sealed
from inferd.cli.bundles.signing import RAW
from inferd.cli.bundles.streams import read_all

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inferd.cli.bundles.streams import Source, Target

MAGIC: Final = b"inferd sealed 1\n"
FOR_KEY, BY_PASSPHRASE = b"X", b"P"
OWN_BYTES: Final = 32
HEADER_BYTES: Final = len(MAGIC) + 1 + 2 * OWN_BYTES
PART_BYTES: Final = 64 << 10
TAG_BYTES: Final = 16
SCRYPT_N: Final = 1 << 15  # 32 MiB, a tenth of a second


class Opener(NamedTuple):
    """What may open a sealed bundle: keys, and a passphrase or none."""

    keys: Sequence[X25519PrivateKey] = ()
    passphrase: bytes | None = None


class Sealer(NamedTuple):
    """What seals: the public key of who may open it, or a passphrase."""

    recipient: X25519PublicKey | None = None
    passphrase: bytes | None = None


def _derive(secret: bytes, own: bytes, recipient: bytes) -> tuple[bytes, bytes]:
    """The key of the parts, and what says whether it is that."""
    derived = HKDF(SHA256(), 2 * OWN_BYTES, salt=own + recipient, info=MAGIC).derive(secret)
    return derived[:OWN_BYTES], derived[OWN_BYTES:]


def _stretch(passphrase: bytes, salt: bytes) -> bytes:
    return Scrypt(salt=salt, length=OWN_BYTES, n=SCRYPT_N, r=8, p=1).derive(passphrase)


def _nonce(number: int, *, last: bool) -> bytes:
    return number.to_bytes(11) + bytes([last])


class SealedWriter:
    """Seals what is written to it; `end` when that is all.

    Args:
        target: Where it goes.
        sealer: For whom.
    """

    def __init__(self, target: Target, sealer: Sealer) -> None:
        self._target = target
        self._number = 0
        self._held = bytearray()
        if sealer.recipient is not None:
            one_way = X25519PrivateKey.generate()
            kind, own = FOR_KEY, one_way.public_key().public_bytes(*RAW)
            secret, whose = one_way.exchange(sealer.recipient), sealer.recipient.public_bytes(*RAW)
        else:
            kind, own, whose = BY_PASSPHRASE, secrets.token_bytes(OWN_BYTES), b""
            secret = _stretch(sealer.passphrase or b"", own)
        key, check = _derive(secret, own, whose)
        self._cipher = ChaCha20Poly1305(key)
        target.write(MAGIC + kind + own + check)

    def write(self, data: bytes) -> None:
        """More bytes."""
        self._held += data
        while len(self._held) > PART_BYTES:  # the last part is not known before the end
            self._put(PART_BYTES, last=False)

    def end(self) -> None:
        """That is all."""
        self._put(len(self._held), last=True)

    def _put(self, size: int, *, last: bool) -> None:
        part = bytes(self._held[:size])
        del self._held[:size]
        self._target.write(self._cipher.encrypt(_nonce(self._number, last=last), part, None))
        self._number += 1


class SealedReader:
    """Opens what was sealed, from behind its `MAGIC` on; nothing is given that was not checked.

    Args:
        source: Where it is.
        opener: What may open it.

    Raises:
        CommandError: It opens with nothing of that, or is damaged.
    """

    def __init__(self, source: Source, opener: Opener) -> None:
        self._source = source
        self._number = 0
        self._open = memoryview(b"")
        rest = read_all(source, HEADER_BYTES - len(MAGIC))
        if len(rest) < HEADER_BYTES - len(MAGIC):
            raise damaged(f"it ends at byte {len(MAGIC) + len(rest)}, within its seal", part="seal")
        kind, own, check = rest[:1], rest[1 : 1 + OWN_BYTES], rest[1 + OWN_BYTES :]
        self._cipher = ChaCha20Poly1305(_find_key(kind, own, check, opener))
        self._ahead = read_all(source, PART_BYTES + TAG_BYTES)

    def read(self, size: int) -> bytes:
        """At most so many of the next bytes; b"" at the end.

        Raises:
            CommandError: They are damaged, or some are missing.
        """
        if not self._open and (self._ahead or not self._number):  # there is a first part, be it empty
            self._open = memoryview(self._next())
        data = bytes(self._open[:size])
        self._open = self._open[size:]
        return data

    def _next(self) -> bytes:
        part, self._ahead = self._ahead, read_all(self._source, PART_BYTES + TAG_BYTES)
        try:
            data = self._cipher.decrypt(_nonce(self._number, last=not self._ahead), part, None)
        except InvalidTag:
            before = HEADER_BYTES + self._number * (PART_BYTES + TAG_BYTES)
            where = f"in the {len(part)} bytes from {before} on, or cut off behind them"
            raise damaged(f"it is not what was sealed, {where}", part="seal", offset_bytes=before) from None
        self._number += 1
        return data


def _find_key(kind: bytes, own: bytes, check: bytes, opener: Opener) -> bytes:
    """The key of the parts.

    Raises:
        CommandError: Nothing that was given opens it.
    """
    if kind not in (FOR_KEY, BY_PASSPHRASE):
        raise damaged(f"its seal is of a kind {kind!r} that there is not", part="seal")
    secrets_: list[tuple[bytes, bytes]] = []
    if kind == FOR_KEY:
        what, flag = "key", "--unseal KEY.pem"
        for key in opener.keys:
            try:
                shared = key.exchange(X25519PublicKey.from_public_bytes(own))
            except ValueError:  # a point of a low order: there is no such key
                raise damaged("its seal has no key", part="seal") from None
            secrets_.append((shared, key.public_key().public_bytes(*RAW)))
    else:
        what, flag = "passphrase", "--passphrase-file FILE"
        if opener.passphrase is not None:
            secrets_.append((_stretch(opener.passphrase, own), b""))
    for secret, whose in secrets_:
        found, expected = _derive(secret, own, whose)
        if hmac.compare_digest(expected, check):
            return found
    if not secrets_:
        raise sealed(f"the bundle is sealed with a {what}; give it with {flag}", needs=what)
    raise sealed(
        f"the {what} does not open the bundle: it was sealed with another one, or its seal is damaged", needs=what
    )
