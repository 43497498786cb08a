"""XAES-256-GCM (https://c2sp.org/XAES-256-GCM): AES-256-GCM with nonces of 192 bits, which may be chosen by chance.

AES-256-GCM alone has nonces of 96 bits: chosen by chance, a key is good for 2^32 messages, and a kernel that writes ten
thousand values a second has written so many in five days. Here the first half of the nonce gives a key of its own for
the message (SP 800-108r1 with CMAC, two blocks of AES), so that a key is good for 2^80 messages at a chance of 2^-32.
"""

import secrets

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB

KEY_BYTES = 32
HEAD_BYTES = 12  # of the nonce, which give the key of a message
TAIL_BYTES = 12  # of the nonce, which are AES-GCM's
NONCE_BYTES = HEAD_BYTES + TAIL_BYTES
TAG_BYTES = 16
MORE_BYTES = NONCE_BYTES + TAG_BYTES  # of what is sealed, beyond the value
BLOCK_BYTES = 16
REDUCTION = 0x87  # of GF(2^128), as CMAC has it (SP 800-38B)
COUNTERS = b"\0\1X\0" + bytes(HEAD_BYTES) + b"\0\2X\0" + bytes(HEAD_BYTES)


class Xaes:
    """One key. Used by one thread at a time.

    Args:
        key: 32 bytes.

    Raises:
        ValueError: It is another key, as that of names, which what is damaged may ask for.
    """

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"the key that it names is not there: that one has {len(key)} bytes, not {KEY_BYTES}")
        # One block at a time under one key is what a block cipher is: this is CMAC, and seals no data.
        self._blocks = Cipher(AES(key), ECB()).encryptor()  # noqa: S305  # nosec B305
        doubled = int.from_bytes(self._blocks.update(bytes(BLOCK_BYTES))) << 1
        if doubled >> (8 * BLOCK_BYTES):
            doubled = (doubled & ((1 << 8 * BLOCK_BYTES) - 1)) ^ REDUCTION
        self._mask = int.from_bytes(doubled.to_bytes(BLOCK_BYTES) * 2) ^ int.from_bytes(COUNTERS)

    def of(self, head: bytes) -> AESGCM:
        """The cipher of all messages whose nonces begin so."""
        number = int.from_bytes(head)
        blocks = self._mask ^ (number | number << 8 * BLOCK_BYTES)
        return AESGCM(self._blocks.update(blocks.to_bytes(2 * BLOCK_BYTES)))

    def seal(self, value: bytes, bound: bytes) -> bytes:
        """A value, sealed: the nonce, then as many bytes as it has, then the tag. It opens with the same `bound`."""
        nonce = secrets.token_bytes(NONCE_BYTES)
        return nonce + self.of(nonce[:HEAD_BYTES]).encrypt(nonce[HEAD_BYTES:], value, bound)

    def open(self, sealed: bytes, bound: bytes) -> bytes:
        """The value.

        Raises:
            ValueError: It is not what was sealed with this key and this `bound`.
        """
        if len(sealed) < MORE_BYTES:
            raise ValueError(f"it is cut off: {len(sealed)} bytes of at least {MORE_BYTES}")
        try:
            cipher = self.of(sealed[:HEAD_BYTES])
            return cipher.decrypt(sealed[HEAD_BYTES:NONCE_BYTES], sealed[NONCE_BYTES:], bound)
        except InvalidTag:
            raise ValueError("it is damaged, or stands in another's place") from None


def bound(*parts: bytes) -> bytes:
    """What a value is bound to, of several parts: each with its length, so that no two lists give the same."""
    return b"".join(len(part).to_bytes(8) + part for part in parts)
