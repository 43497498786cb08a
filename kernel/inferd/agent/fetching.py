"""Models that are not on this host: their files are fetched from the kernel, checked piece by piece, and kept."""

from __future__ import annotations

import asyncio
import random
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Final

import grpc
import structlog

from inferd.agent.arriving import Arriving
from inferd.agent.cache import CachedFile, check_files
from inferd.agent.peers import fetch_from
from inferd.errors import InferdError, ModelLoadError, words_of
from inferd_api.agent.v1 import agent_service_pb2 as service
from inferd_client.rpc_errors import from_rpc

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from inferd.agent.cache import Cache
    from inferd.agent.connection import KernelConnection
    from inferd.agent.holding import Holding

DIGEST_BYTES: Final = 32
SILENT_S: Final = 60.0
"""How long a fetch may bring nothing, and no word that others are before it."""
NAMES_S: Final = 600.0  # how long the kernel may read a model, once it is our turn, before it tells what is in it
AGAIN_S: Final = 0.5
MOST_PAUSE_S: Final = 30.0  # of one that the kernel asks for
LASTING: Final = frozenset(
    {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.DATA_LOSS}
    | {grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.NOT_FOUND}
    | {grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.INTERNAL}
)
"""Of what helps no trying again."""
MOST_FAILED: Final = 3  # other hosts, after which the kernel alone is asked
WRONG_PIECES: Final = 3  # of a fetch; then what is between here and the kernel changes them

log = structlog.get_logger()


class Fetching:
    """Fetches one model at a time. One writer: its agent.

    Args:
        cache: Where the files are kept.
        connect: Makes a new connection to the kernel.
        holding: Is told what is there.
    """

    def __init__(self, cache: Cache, connect: Callable[[], KernelConnection], holding: Holding) -> None:
        self.cache = cache
        self._holding = holding
        self._connect = connect
        self._turn = asyncio.Lock()

    async def fetch(
        self, opening: service.CarryOpening, path: str, version: str, tell: Callable[[float], None]
    ) -> tuple[Path, Path]:
        """Where a model is on this host; and what is to be left in the cache once nobody needs it.

        Args:
            opening: For which worker.
            path: Of the model on the kernel's host.
            version: What that calls its files.
            tell: Is told how much of it is there, from 0 to 1.

        Raises:
            InferdError: It cannot be fetched; says why.
        """
        async with self._turn:
            try:
                files = await self._names(opening)
                check_files(files)
                place = self.cache.place(files)
                self.cache.use(place)
                try:
                    if not await asyncio.to_thread(self.cache.is_whole, place):
                        await self._bring(opening, place, files, tell)
                    await self._holding.note(place, version)
                except BaseException:
                    self.cache.leave(place)
                    raise
            except OSError as error:
                raise _failed(f"the files cannot be written: {words_of(error)}") from None
        name = Path(path).name
        return (place / name if any(file.name == name for file in files) else place), place

    async def _names(self, opening: service.CarryOpening) -> list[CachedFile]:
        """What the model consists of, once the kernel has a moment."""
        request = service.FetchModelRequest(opening=opening, only_names=True, waits=True)
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(NAMES_S) as limit:

                def wait_on() -> None:
                    limit.reschedule(loop.time() + NAMES_S)

                while True:
                    try:
                        async with self._connect() as connection, aclosing(connection.fetch(request)) as parts:
                            return [_read(each.file) async for each in parts if not _is_queued(each, wait_on)]
                    except grpc.aio.AioRpcError as error:
                        await asyncio.sleep(_pause_s(error, wait_on))
        except TimeoutError:
            raise _failed(f"the kernel did not tell within {NAMES_S:g} s what they are") from None

    async def _bring(
        self, opening: service.CarryOpening, place: Path, files: Sequence[CachedFile], tell: Callable[[float], None]
    ) -> None:
        """Have all pieces there: those that are stay, also from a fetch that broke off."""
        try:
            await asyncio.to_thread(self.cache.make_room, place, files)
        finally:
            self._holding.changed.notify()  # others may have gone
        wrong, loop, failed = 0, asyncio.get_running_loop(), list[str]()
        heard_at = loop.time()

        def hear() -> None:
            nonlocal heard_at
            heard_at = loop.time()
            tell(len(arriving.known) / arriving.total)

        arriving = Arriving(self.cache, place, files, hear)
        await arriving.look()
        while not arriving.whole:
            pause_s, request = AGAIN_S, service.FetchModelRequest(opening=opening, waits=True, failed_hosts=failed)
            request.had_pieces, request.peers = b"".join(arriving.had()), len(failed) < MOST_FAILED
            try:
                async with self._connect() as connection:
                    wrong += not await self._receive(connection, request, arriving, hear, failed)
            except grpc.aio.AioRpcError as error:
                pause_s = _pause_s(error, hear)
            except TimeoutError:
                pass
            if wrong >= WRONG_PIECES:
                raise _failed("what comes from the kernel has not the digests that it says")
            if loop.time() - heard_at > SILENT_S:
                raise _failed(f"nothing came from the kernel for {SILENT_S:g} s")
            if not arriving.whole:
                await asyncio.sleep(pause_s)
        if not await asyncio.to_thread(self.cache.finish, place, files):
            raise _failed("a file has not the digest that the kernel says, though its pieces have theirs")
        log.info("the files of a model were fetched", folder=str(place), files=len(files), pieces=arriving.total)

    async def _receive(
        self,
        connection: KernelConnection,
        request: service.FetchModelRequest,
        arriving: Arriving,
        hear: Callable[[], None],
        failed: list[str],
    ) -> bool:
        """Take what the kernel sends, until it ends or a piece is wrong; whether none was.

        Where the kernel names another host that is asked instead; if that fails it is among the `failed`. `hear` is
        called when the kernel says that others are before us, too.
        """
        arriving.begin()
        peers = service.FilePeers()
        async with asyncio.timeout(SILENT_S) as silence, aclosing(connection.fetch(request)) as parts:
            async for each in parts:
                silence.reschedule(asyncio.get_running_loop().time() + SILENT_S)
                match each.WhichOneof("kind"):
                    case "chunk":
                        if not await arriving.take(each.chunk):
                            return False
                    case "queued":
                        hear()
                    case "peers":
                        peers = each.peers
        for peer in peers.peers:
            hear()
            if await fetch_from(peer, arriving):
                break
            failed.append(peer.host)
        hear()
        await arriving.repeat()
        return True


def _read(file: service.FetchedFile) -> CachedFile:
    digests = file.piece_digests
    pieces = tuple(digests[at : at + DIGEST_BYTES] for at in range(0, len(digests), DIGEST_BYTES))
    return CachedFile(file.name, file.sha256, file.size_bytes, file.piece_bytes, pieces)


def _is_queued(part: service.FetchModelResponse, wait_on: Callable[[], None]) -> bool:
    """Whether this is the kernel's word that others are before us; `wait_on` is called then."""
    if part.WhichOneof("kind") != "queued":
        return False
    wait_on()
    return True


def _pause_s(error: grpc.aio.AioRpcError, wait_on: Callable[[], None]) -> float:
    """When it is worth to try again. A kernel that has no time now is no silent one: `wait_on` is called then.

    Raises:
        ModelLoadError: It never is.
    """
    failure = from_rpc(error, "the kernel")
    if error.code() in LASTING:
        raise _failed(failure.message) from None
    if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED or failure.retry_after_s is None:
        return AGAIN_S
    wait_on()
    return min(MOST_PAUSE_S, failure.retry_after_s) * random.uniform(1.0, 2.0)  # noqa: S311  # nosec B311 - many wait


def _failed(cause: str) -> InferdError:
    return ModelLoadError(f"the files of the model cannot be fetched: {cause}", metadata={"cause": cause})
