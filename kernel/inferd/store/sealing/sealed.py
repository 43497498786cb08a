"""A store that is sealed: its keys and its codec when it is opened, and what was not sealed before."""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, Self

import structlog

from inferd.store.codec import Codec, PlainCodec
from inferd.store.sealing.data_keys import NAMES, DataKeys, Row
from inferd.store.sealing.key_source import KeyPlace, KeySource, source_of
from inferd.store.sealing.resealing import Rows, resealed
from inferd.store.sealing.sealed_codec import SealedCodec
from inferd.store.store import NO_TENANT, SealError, Write

TELL_S = 1.0  # between two lines of the log while all is sealed

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Sealing:
    """How a store is to be sealed.

    Attributes:
        source: Where the keys come from that wrap those of tenants.
        on: Whether what is written is sealed; what is sealed is read anyway.
        reads: Whether nothing is written.
    """

    source: KeySource
    on: bool
    reads: bool = False

    @classmethod
    def of(cls, place: KeyPlace, *, reads: bool = False) -> Self:
        """As the configuration says; a store that is only read seals nothing, and no key is made for it."""
        return cls(source_of(place), on=place.sealing == "on" and not reads, reads=reads)


@dataclass(slots=True, eq=False)
class Sealed:
    """The keys of a store and its codec; see `DataKeys` and `Codec`. One writer: the store."""

    codec: Codec
    keys: DataKeys | None = None

    @classmethod
    def opened(cls, name: str, sealing: Sealing | None, rows: Iterable[Row]) -> Self:
        """Those of a store, whose rows of keys are given.

        Raises:
            SealError: They are wrapped with a key that is lost, or another one.
        """
        if sealing is None:
            return cls(PlainCodec())
        keys = DataKeys(name, sealing.source, rows, makes=sealing.on)
        if sealing.on:
            _check_mark(name, keys)
            keys.find_wrapping()
            keys.current(NO_TENANT, NAMES)  # of files of blobs
        codec = SealedCodec(keys, seals=sealing.on)
        codec.lenient = not (keys.whole and (sealing.on or sealing.reads))
        return cls(codec, keys)


def _check_mark(name: str, keys: DataKeys) -> None:
    """Refuse a store that does not say whether all of it is sealed: plain rows of anybody would be taken for its own.

    Raises:
        SealError: It is one.
    """
    if keys.has_any and not keys.marked:
        raise SealError(
            f"the store {name} has keys of tenants, and what says whether all that it keeps is sealed is missing or was"
            " written by somebody without the store's key. Nothing was changed. Put a backup back; or, if you trust"
            ' what is there, start once with store.sealing = "off", and then with "on"',
            metadata={"cause": "no mark"},
        )


class SealedRows(Rows, Protocol):
    """A store, as far as it is to be sealed."""

    name: str

    def write(self, writes: Iterable[Write]) -> None:
        """As `Store.write`."""

    def compact(self) -> None:
        """As `Store.compact`."""

    def drop_unsealed(self) -> None:
        """Remove the copies from before what is kept was sealed."""


def seal_all(store: SealedRows, sealed: Sealed, sealing: Sealing | None, *, new: bool) -> None:
    """Seal what is not, and have nothing of it be left; what is cut off goes on when the store is opened again.

    Args:
        store: It.
        sealed: Its keys and codec.
        sealing: How.
        new: Whether it was made now, and so has nothing.

    Raises:
        StoreUnavailableError: It cannot be written.
    """
    keys, codec = sealed.keys, sealed.codec
    if sealing is None or sealing.reads or keys is None or not isinstance(codec, SealedCodec):
        return
    if not sealing.on:
        if keys.whole or (keys.has_any and not keys.marked):
            keys.keep_whole(whole=False)
            store.write(())
        return
    if new:
        keys.keep_whole(whole=True)  # with the first write: there is nothing before
    elif not keys.whole:
        _seal(store, codec)
        keys.keep_whole(whole=True)
        store.write(())
    if not new:
        store.drop_unsealed()  # behind that: until then they are what there is to go back to
    codec.lenient = False


def _seal(store: SealedRows, codec: SealedCodec) -> None:
    began = told = time.monotonic()
    log.info("what is kept is sealed now; the store opens when that is done", store=store.name)
    progress = None
    for progress in resealed(store, codec):
        if (now := time.monotonic()) - told >= TELL_S:
            told = now
            log.info("what is kept is sealed now", store=store.name, rows=progress.looked, seconds=round(now - began))
    store.compact()  # what was there before is in pages that nobody uses, and in the log of the database
    if progress is not None:
        log.info("what is kept is sealed", store=store.name, rows=progress.done, damaged=progress.damaged)
