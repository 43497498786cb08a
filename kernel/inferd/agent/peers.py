"""Files of models from other hosts, which the kernel names: whatever they give is checked as if they were hostile."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import grpc
import structlog

from inferd.agent.giving import MOST_PARTS, PATH, SERVER_NAME
from inferd.errors import words_of
from inferd_api.agent.v1 import agent_pb2 as wire

if TYPE_CHECKING:
    from inferd.agent.arriving import Arriving

SILENT_S: Final = 10.0  # how long a host may give nothing
PACE_S: Final = 30.0
LEAST_BYTES_S: Final = 1 << 20
"""A host that gives less than this on average, over so much time that was waited for it, is given up: the fetch of a
model has the turn of all others, and the kernel may be quicker."""
TRIES, AGAIN_S = 5, 0.3
"""Of a host that does not know the ticket yet: the kernel has told it so at the same time."""
MESSAGE_BYTES: Final = 2 << 20

log = structlog.get_logger()


async def fetch_from(peer: wire.FilePeer, arriving: Arriving) -> bool:
    """Take what is missing from a host, as much as it gives; whether all that was asked for has come, and was right."""
    for _ in range(TRIES):
        try:
            if not await _fetch(peer, arriving):
                log.warning("what a host gave of a model is not what it has to be", host=peer.host)
                return False
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAUTHENTICATED:
                log.info("a host did not give a model", host=peer.host, why=str(error.details())[:200])
                return False
            await asyncio.sleep(AGAIN_S)
        except (TimeoutError, OSError, ValueError) as error:
            log.info("a host did not give a model", host=peer.host, why=words_of(error) or "it was silent")
            return False
        else:
            return True
    return False


async def _fetch(peer: wire.FilePeer, arriving: Arriving) -> bool:
    credentials = grpc.ssl_channel_credentials(root_certificates=peer.server.certificate)
    options = (
        ("grpc.ssl_target_name_override", SERVER_NAME),
        ("grpc.max_receive_message_length", MESSAGE_BYTES),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_http_proxy", 0),
    )
    target = f"dns:///{peer.server.address}"  # a host and a port, and none of what gRPC takes besides
    async with grpc.aio.secure_channel(target, credentials, options=options) as channel:
        call: Any = channel.unary_stream(
            PATH, request_serializer=wire.ReadParts.SerializeToString, response_deserializer=wire.PartBytes.FromString
        )
        pace = _Pace()
        while wanted := arriving.begin(each_once=True)[:MOST_PARTS]:
            parts = [
                wire.FilePart(name=file.name, offset_bytes=number * file.piece_bytes, size_bytes=file.size_of(number))
                for file, number in wanted
            ]
            before = len(arriving.known)
            stream = call(wire.ReadParts(ticket=peer.ticket, parts=parts))
            try:
                while True:
                    part = await pace.next(stream)
                    if part is grpc.aio.EOF:
                        break
                    if not part.data or not await arriving.take(part.data):
                        return False
            finally:
                stream.cancel()
            await arriving.repeat()
            if len(arriving.known) - before < len(wanted):
                return False  # it gave less than it was asked for
    return True


class _Pace:
    """Waits for what a host gives, and gives up one that is silent or too slow: by now and then a byte it stays."""

    def __init__(self) -> None:
        self._waited_s = 0.0
        self._came_bytes = 0

    async def next(self, stream: Any) -> Any:
        """The next part, or EOF.

        Raises:
            TimeoutError: The host is silent, or gives too little.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        async with asyncio.timeout(SILENT_S):
            part = await stream.read()
        if part is grpc.aio.EOF:
            return part
        self._waited_s += loop.time() - began
        self._came_bytes += len(part.data)
        if self._waited_s >= PACE_S:
            if self._came_bytes < self._waited_s * LEAST_BYTES_S:
                came = f"it gave {self._came_bytes} bytes in {self._waited_s:.0f} s"
                raise TimeoutError(f"{came}, and has to give {LEAST_BYTES_S} a second")
            self._waited_s, self._came_bytes = 0.0, 0
        return part
