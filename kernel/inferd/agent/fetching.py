"""Models that are not on this host: their files are fetched from the kernel, checked piece by piece, and kept."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Final

import grpc
import structlog

from inferd.agent.cache import CachedFile, check_files
from inferd.errors import InferdError, ModelLoadError, words_of
from inferd_api.agent.v1 import agent_service_pb2 as service
from inferd_client.rpc_errors import from_rpc

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from inferd.agent.cache import Cache
    from inferd.agent.connection import KernelConnection

DIGEST_BYTES: Final = 32
SILENT_S: Final = 60.0
"""How long a fetch may bring nothing: the kernel has one wait for as long as others are under way."""
NAMES_S: Final = 600.0  # how long the kernel may read a model before it tells what is in it
AGAIN_S: Final = 0.5
LASTING: Final = frozenset(
    {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.DATA_LOSS}
    | {grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.NOT_FOUND}
    | {grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.INTERNAL}
)
"""Of what helps no trying again."""
WRONG_PIECES: Final = 3  # of a fetch; then what is between here and the kernel changes them

log = structlog.get_logger()


class Fetching:
    """Fetches one model at a time. One writer: its agent.

    Args:
        cache: Where the files are kept.
        connect: Makes a new connection to the kernel.
    """

    def __init__(self, cache: Cache, connect: Callable[[], KernelConnection]) -> None:
        self.cache = cache
        self._connect = connect
        self._turn = asyncio.Lock()

    async def fetch(self, opening: service.CarryOpening, path: str, tell: Callable[[float], None]) -> tuple[Path, Path]:
        """Where a model is on this host; and what is to be left in the cache once nobody needs it.

        Args:
            opening: For which worker.
            path: Of the model on the kernel's host.
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
                except BaseException:
                    self.cache.leave(place)
                    raise
            except OSError as error:
                raise _failed(f"the files cannot be written: {words_of(error)}") from None
        name = Path(path).name
        return (place / name if any(file.name == name for file in files) else place), place

    async def _names(self, opening: service.CarryOpening) -> list[CachedFile]:
        """What the model consists of, once the kernel has a moment."""
        request = service.FetchModelRequest(opening=opening, only_names=True)
        async with asyncio.timeout(NAMES_S):
            while True:
                try:
                    async with self._connect() as connection, aclosing(connection.fetch(request)) as parts:
                        return [_read(each.file) async for each in parts]
                except grpc.aio.AioRpcError as error:
                    _check_passing(error)
                await asyncio.sleep(AGAIN_S)

    async def _bring(
        self, opening: service.CarryOpening, place: Path, files: Sequence[CachedFile], tell: Callable[[float], None]
    ) -> None:
        """Have all pieces there: those that are stay, also from a fetch that broke off."""
        await asyncio.to_thread(self.cache.make_room, place, files)
        known = set[tuple[str, int]]()
        for file in files:
            await asyncio.to_thread(self.cache.had, place, file, known)
        wrong, loop = 0, asyncio.get_running_loop()
        total = sum(len(file.pieces) for file in files)
        brought_at, before = loop.time(), len(known)
        while len(known) < total:
            try:
                async with self._connect() as connection:
                    wrong += not await self._receive(
                        connection, opening, place, files, known, lambda: tell(len(known) / total)
                    )
            except grpc.aio.AioRpcError as error:
                _check_passing(error)
            except TimeoutError:
                pass
            if len(known) > before:
                brought_at, before = loop.time(), len(known)
            if wrong >= WRONG_PIECES:
                raise _failed("what comes from the kernel has not the digests that it says")
            if loop.time() - brought_at > SILENT_S:
                raise _failed(f"nothing came from the kernel for {SILENT_S:g} s")
            if len(known) < total:
                await asyncio.sleep(AGAIN_S)
        if not await asyncio.to_thread(self.cache.finish, place, files):
            raise _failed("a file has not the digest that the kernel says, though its pieces have theirs")
        log.info("the files of a model were fetched", folder=str(place), files=len(files), pieces=total)

    async def _receive(  # noqa: PLR0917 - of one stream
        self,
        connection: KernelConnection,
        opening: service.CarryOpening,
        place: Path,
        files: Sequence[CachedFile],
        known: set[tuple[str, int]],
        tell: Callable[[], None],
    ) -> bool:
        """Take what the kernel sends, until it ends or a piece is wrong; whether none was."""
        had = {
            file.pieces[number] for file in files for number in range(len(file.pieces)) if (file.name, number) in known
        }
        wanted = ((file, number) for file in files for number, digest in enumerate(file.pieces) if digest not in had)
        request = service.FetchModelRequest(opening=opening, had_pieces=b"".join(had))
        held = bytearray()
        async with asyncio.timeout(SILENT_S) as silence, aclosing(connection.fetch(request)) as parts:
            async for each in parts:
                silence.reschedule(asyncio.get_running_loop().time() + SILENT_S)
                if each.WhichOneof("kind") == "file":
                    continue
                if not held:
                    file, number = next(wanted, (files[0], -1))
                held += each.chunk
                if number < 0 or len(held) > file.size_of(number):
                    return False
                if len(held) == file.size_of(number):
                    if not await asyncio.to_thread(self.cache.write, place, file, number, bytes(held)):
                        return False
                    known.add((file.name, number))
                    held.clear()
                    tell()
        for file in files:  # equal pieces come once where one of them was there
            for number, digest in enumerate(file.pieces):
                if digest in had and (file.name, number) not in known:
                    await asyncio.to_thread(self._copy, place, files, known, file, number)
        return True

    def _copy(
        self,
        place: Path,
        files: Sequence[CachedFile],
        known: set[tuple[str, int]],
        file: CachedFile,
        number: int,
    ) -> None:
        """Put a piece in a second place of which a first one is there."""
        for other in files:
            for at, digest in enumerate(other.pieces):
                if digest == file.pieces[number] and (other.name, at) in known:
                    with (place / other.name).open("rb") as opened:
                        opened.seek(at * other.piece_bytes)
                        if self.cache.write(place, file, number, opened.read(other.size_of(at))):
                            known.add((file.name, number))
                    return


def _read(file: service.FetchedFile) -> CachedFile:
    digests = file.piece_digests
    pieces = tuple(digests[at : at + DIGEST_BYTES] for at in range(0, len(digests), DIGEST_BYTES))
    return CachedFile(file.name, file.sha256, file.size_bytes, file.piece_bytes, pieces)


def _check_passing(error: grpc.aio.AioRpcError) -> None:
    """Whether to try again.

    Raises:
        ModelLoadError: That helps nothing.
    """
    if error.code() in LASTING:
        raise _failed(from_rpc(error, "the kernel").message) from None


def _failed(cause: str) -> InferdError:
    return ModelLoadError(f"the files of the model cannot be fetched: {cause}", metadata={"cause": cause})
