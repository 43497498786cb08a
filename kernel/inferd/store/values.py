"""Where a value stands in a store, and how it is read there: the same in every store."""

from inferd.store.codec import Codec
from inferd.store.store import DamagedError


def place_of(*parts: object) -> bytes:
    """What a value is bound to: tenant, kind, key, and the number of a piece."""
    return "\0".join(map(str, parts)).encode()


def read_value(codec: Codec, store: str, place: bytes, written: bytes) -> bytes:
    """The value that was written at a place of the store, which is named to people.

    Raises:
        DamagedError: It is damaged, or of another place.
    """
    try:
        return codec.read(place, written)
    except ValueError as error:
        cause = f"{place.decode(errors='replace')!r}: {error}"
        raise DamagedError(f"the store {store}: {cause}", metadata={"cause": str(error)}) from None
