"""Opening the store that is meant."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from threading import Thread

import structlog

from inferd.errors import StoreUnavailableError
from inferd.store.kernels import Roll
from inferd.store.sealing.sealed import Sealing
from inferd.store.sealing.turning import unsealed_beside
from inferd.store.store import MissingError, Store
from inferd.store.where import Where

MEMORY, SQLITE, POSTGRES = "memory:", "sqlite:", ("postgresql://", "postgres://")

CLOSE_S = 1.0  # most that is waited for a store to close, besides what its keeper has waited

AtPoint = Callable[[str], None]

log = structlog.get_logger()


def unnoticed(_: str) -> None:
    """Nothing is done at any point."""


@asynccontextmanager
async def opened(where: Where, at_point: AtPoint = unnoticed) -> AsyncIterator[Store | None]:
    """The store of a kernel until the block ends; None for none. `at_point` is told where a write is.

    Raises:
        StoreUnavailableError: It cannot be opened, or another process has it.
    """
    if where.url == MEMORY:
        yield None
        return
    if where.sealing == "off":
        log.warning('store.sealing is "off": what is kept is written as it is, and whoever has the disk reads it')
    store = await asyncio.to_thread(open_store, where, at_point=at_point)
    for path in unsealed_beside(Path(store.name)) if where.sealing == "on" else ():
        log.warning(
            "a file that was set aside before the store was sealed is not: remove it once you can", path=str(path)
        )
    try:
        yield store
    finally:
        await _close(store)


def open_roll(where: Where, *, answer_s: float) -> Roll | None:
    """Where the kernels of a store tell of themselves; None where it is one of a single kernel.

    Args:
        where: It.
        answer_s: How long its server is waited for.

    Raises:
        StoreUnavailableError: The URL cannot be read.
    """
    if not where.url.startswith(POSTGRES):
        return None
    try:
        from inferd.store.postgres_kernels import PostgresRoll  # noqa: PLC0415 - as in `open_store`
    except ImportError:
        return None  # opening the store says so
    return PostgresRoll(where, answer_s=answer_s)


async def _close(store: Store) -> None:
    """Close a store; one in which a write hangs cannot be, and its process ends without that."""
    loop, closed = asyncio.get_running_loop(), asyncio.Event()

    def close() -> None:
        store.close()
        with suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(closed.set)

    Thread(target=close, name="store close", daemon=True).start()
    with suppress(TimeoutError):
        async with asyncio.timeout(CLOSE_S):
            await closed.wait()
    if not closed.is_set():
        log.error("the store does not answer; the process ends without closing it", waited_s=CLOSE_S)


def _file(url: str) -> Path:
    """The file that a URL names.

    Raises:
        StoreUnavailableError: It names a folder, or has parameters, which there are none of.
    """
    name = url.removeprefix(SQLITE)
    path = Path(name)
    if "?" in name:
        raise StoreUnavailableError(
            f"store.url {url} has parameters, and that of a file has none: write {url.partition('?')[0]}",
            metadata={"cause": "not a URL"},
        )
    if path.is_dir():
        raise StoreUnavailableError(
            f"store.url {url} names a folder: name a file in it, {SQLITE}{path / 'kernel.sqlite'}",
            metadata={"cause": "a folder"},
        )
    return path


def open_store(
    where: Where,
    *,
    makes: bool = True,
    mends: bool = True,
    migrates: bool = True,
    reads: bool = False,
    salvages: bool = False,
    at_point: AtPoint = unnoticed,
) -> Store:
    """The store that a URL names, by its beginning.

    Args:
        where: It, and how long is waited for it.
        makes: Whether it is made where there is none.
        mends: Whether a damaged file is set aside.
        migrates: Whether an older schema is brought up.
        reads: Whether it is only read: then nothing of a file is changed, nor anything made beside it.
        salvages: Whether it is only read, and a damaged file as far as it can be.
        at_point: Told where a write is.

    Raises:
        MissingError: There is none, and none is to be made.
        OldSchemaError: It is older, and is to stay so.
        SealError: The key that it is sealed with is lost, or another one.
        StoreUnavailableError: It cannot be opened, or another process has it.
    """
    url = where.url
    if url.startswith(SQLITE):
        from inferd.store.sqlite import SqliteStore  # noqa: PLC0415 - who has no store does not load the library

        path = _file(url)
        if not makes and not path.is_file():
            raise MissingError(f"there is no store {path}; `inferd serve` makes it", metadata={"cause": "no store"})
        copies = where.schema_copies
        if salvages:
            from inferd.store.salvaging import SalvagedStore  # noqa: PLC0415 - as above

            return SalvagedStore(path, sealing=Sealing.of(where, reads=True), reads=True)
        sealing = Sealing.of(where, reads=reads)
        return SqliteStore(
            path, sealing=sealing, mends=mends, migrates=migrates, copies=copies, reads=reads, at_point=at_point
        )
    if not url.startswith(POSTGRES):
        raise StoreUnavailableError(
            "store.url names no store that there is: write sqlite:/path, postgresql://…, or memory: for none",
            metadata={"cause": "not a URL"},
        )
    try:
        from inferd.store.postgres import PostgresStore  # noqa: PLC0415 - as above, and it is not installed everywhere
    except ImportError as error:
        raise StoreUnavailableError(
            f'store.url is one of PostgreSQL, and psycopg is not installed: pip install "inferd[postgres]" ({error})',
            metadata={"cause": "psycopg is not installed"},
        ) from None
    sealing = Sealing.of(where, reads=reads or salvages)
    return PostgresStore(where, sealing=sealing, makes=makes, migrates=migrates, at_point=at_point)
