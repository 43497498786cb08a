"""Credentials, and what is kept of them."""

import hmac
import re
import secrets
from hashlib import sha256

FORM = re.compile(r"ik_([0-9a-f]{16})_([0-9a-f]{64})")
"""`ik_<id>_<secret>`: 64 bits by which the key is found, and 256 by which its holder is known."""
ID_BYTES, SECRET_BYTES = 8, 32
ID = slice(3, 3 + 2 * ID_BYTES)
"""Where the id stands in a credential."""


def new_id() -> str:
    """An id that no other key has."""
    return secrets.token_hex(ID_BYTES)


def new_credential(key_id: str) -> str:
    """What the holder of a key sends."""
    return f"ik_{key_id}_{secrets.token_hex(SECRET_BYTES)}"


def drawn_credential(secret: str = "") -> str:  # nosec B107 - empty: one is drawn
    """What the holder of a key sends who draws its secret, 64 hexadecimal digits, of which the id is made."""
    secret = secret or secrets.token_hex(SECRET_BYTES)
    return f"ik_{sha256(secret.encode()).hexdigest()[: 2 * ID_BYTES]}_{secret}"


def digest_of(pepper: bytes, credential: str) -> bytes:
    """What is kept of a credential."""
    return hmac.digest(pepper, credential.encode(), "sha256")
