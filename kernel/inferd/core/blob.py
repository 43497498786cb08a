"""What a blob is: bytes of a tenant, under the name that their digest gives them."""

from dataclasses import dataclass
from enum import Enum


class BlobState(Enum):
    """Where a blob stands; the numbers are those of the wire."""

    PARTIAL = 1  # some of its bytes have come
    WHOLE = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Blob:
    """A blob, as it stands.

    Attributes:
        digest: SHA-256 of all its bytes, 64 hexadecimal digits.
        size_bytes: How many bytes it has, or will have.
        received_bytes: How many of them have come.
        state: Whether all have.
        created: When its first bytes were announced, in Unix time.
        used: When it was given, read or held last, in Unix time; while it is held this is not of interest.
        holders: Who holds it: it is not forgotten before they let go.
    """

    digest: str
    size_bytes: int
    received_bytes: int
    state: BlobState
    created: float
    used: float
    holders: tuple[str, ...] = ()
