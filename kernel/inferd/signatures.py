"""Signatures by Ed25519, and how keys are written in hexadecimal."""

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

RAW = serialization.Encoding.Raw, serialization.PublicFormat.Raw


def public_of(key: Ed25519PrivateKey) -> str:
    """The public half of a key."""
    return key.public_key().public_bytes(*RAW).hex()


def holds(public: str, message: bytes, signature: bytes) -> bool:
    """Whether the key of this public half has signed a message."""
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(public)).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True
