"""Where a value stands in a store, and how it is read there: the same in every store."""

from inferd.store.codec import Codec, Place
from inferd.store.sealing.data_keys import ShreddedKeyError
from inferd.store.store import DamagedError, ShreddedError

place_of = Place
"""What a value is bound to: tenant, kind, key, and the number of a piece."""


def read_value(codec: Codec, store: str, place: Place, written: bytes) -> bytes:
    """The value that was written at a place of the store, which is named to people.

    Raises:
        DamagedError: It is damaged, or of another place.
        ShreddedError: The keys of its tenant were dropped.
    """
    try:
        return codec.read(place, written)
    except ShreddedKeyError as error:
        raise ShreddedError(f"the store {store}: {place}: {error}", metadata={"cause": "shredded"}) from None
    except ValueError as error:
        raise DamagedError(f"the store {store}: {place}: {error}", metadata={"cause": str(error)}) from None
