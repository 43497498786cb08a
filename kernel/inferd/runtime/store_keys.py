"""The keys that seal what the kernel keeps, while it serves: told, and turned over."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import structlog

from inferd.errors import InferdError, StoreUnavailableError
from inferd.runtime.blob_sealing import FilesProgress
from inferd.store.sealing.turning import KeysStanding, rotate, rotate_wrapping, settle, standing_of

if TYPE_CHECKING:
    from inferd.runtime.keeper import Keeper
    from inferd.store.store import Store

__all__ = ["KeysStanding", "StoreKeys"]
RETRY_S = 60.0  # until what failed is tried again

log = structlog.get_logger()


class StoreKeys:
    """The keys of the kernel's store; all is done on the store's thread, between its writes.

    Args:
        keeper: Has it; None where nothing is kept.
        rows: How many values are sealed anew at a time.
    """

    def __init__(self, keeper: Keeper | None, rows: int) -> None:
        self._keeper = keeper
        self._rows = rows
        self._turned = asyncio.Event()
        self._values = 0  # that were looked at
        self._files = FilesProgress()

    def _kept(self) -> Keeper:
        if self._keeper is None:
            raise StoreUnavailableError(
                "this kernel keeps nothing, store.url is memory:; nothing is sealed", metadata={"cause": "no store"}
            )
        return self._keeper

    async def standing(self) -> KeysStanding:
        """How they stand.

        Raises:
            StoreUnavailableError: Nothing is kept, or sealed.
        """
        found: KeysStanding = await self._kept().read(standing_of)
        if not found.resealing:
            return found
        files = self._files
        told = {"values": self._values, "blobs": files.looked, "of_blobs": files.total, "damaged": files.damaged}
        return replace(found, progress=told)

    async def rotate(self, tenant: str | None, *, wrapping: bool, forgets: bool) -> int:
        """Have new keys seal, of one tenant or of all, or a new one wrap them; how many.

        Raises:
            InvalidFieldError: The tenant has no key.
            StoreUnavailableError: Nothing is kept or sealed, or they cannot be written.
        """

        def turn(store: Store) -> int:
            return rotate_wrapping(store, forgets=forgets) if wrapping else rotate(store, tenant)

        count: int = await self._kept().read(turn)
        self._turned.set()
        return count

    async def run(self) -> None:
        """Seal anew what older keys have sealed, now and whenever keys were turned over, until this is cancelled."""
        if self._keeper is None:
            return
        while True:
            self._turned.clear()
            try:
                if await self._keeper.read(lambda store: store.keys is not None and store.keys.resealing):
                    await self._reseal(self._keeper)
            except InferdError as error:
                log.warning("values of older keys cannot be sealed anew now", why=error.message)
                await asyncio.sleep(RETRY_S)
                continue
            await self._turned.wait()

    async def _reseal(self, keeper: Keeper) -> None:
        steps, progress = await keeper.read(lambda store: store.resealing(self._rows)), None
        while True:
            began = time.monotonic()
            step = await keeper.read(lambda _: next(steps, None))
            if step is None:
                break
            progress, self._values = step, step.looked
            await asyncio.sleep(time.monotonic() - began)  # others have the store for as long as this had it
        self._files = FilesProgress()
        left = None if keeper.blobs is None else await keeper.blobs.reseal(self._files)
        if self._turned.is_set():
            return  # anew, with the keys that are newer still
        gone = await keeper.read(lambda store: settle(store, left))
        done = progress.done if progress is not None else 0
        log.info("what older keys sealed is sealed anew", values=done, blobs=self._files.done, keys_dropped=gone)
