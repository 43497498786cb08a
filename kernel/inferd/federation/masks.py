"""Keys that two clients agree on (X25519, RFC 7748), what masks are made of them (ChaCha20), and sealed shares."""

from __future__ import annotations

from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from inferd.federation.words import WORD

KEY_BYTES: Final = 32
"""Of a secret key, a public one, and a seed."""
_ANY: Final = b"\x01" * KEY_BYTES  # a secret key of nobody
_NONCE: Final = bytes(16)  # of a key that masks one vector and nothing else
_SEAL_NONCE: Final = bytes(12)  # likewise: a key of one round, one sender and one recipient seals once


class NotOpenedError(ValueError):
    """Sealed shares are not from whom they are said to be, or not for this client and round."""


def public_of(secret: bytes) -> bytes:
    """The public key of a secret one, 32 bytes each."""
    return X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()


def agree(secret: bytes, public: bytes, purpose: bytes) -> bytes:
    """32 bytes that only the owners of both keys can know, for a purpose.

    Raises:
        ValueError: The public key is none, or one that gives the same to everybody.
    """
    shared = X25519PrivateKey.from_private_bytes(secret).exchange(X25519PublicKey.from_public_bytes(public))
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=purpose).derive(shared)


def is_public(key: bytes) -> bool:
    """Whether it is a public key with which owners of others can agree on a secret."""
    try:
        agree(_ANY, key, b"")
    except ValueError:
        return False
    return True


def mask_of(seed: bytes, count: int) -> bytes:
    """So many random words of a seed, which masks one vector only."""
    return Cipher(ChaCha20(seed, _NONCE), mode=None).encryptor().update(bytes(count * WORD))


def seal(key: bytes, content: bytes, bound: bytes) -> bytes:
    """Content that only who has the key can read; `bound` must be the same there. A key seals once."""
    return ChaCha20Poly1305(key).encrypt(_SEAL_NONCE, content, bound)


def unseal(key: bytes, sealed: bytes, bound: bytes) -> bytes:
    """What was sealed.

    Raises:
        NotOpenedError: It was not sealed with this key and bound.
    """
    try:
        return ChaCha20Poly1305(key).decrypt(_SEAL_NONCE, sealed, bound)
    except (InvalidTag, ValueError):
        raise NotOpenedError("sealed shares cannot be opened: they are of another round or client") from None
