"""`inferd.agent.v1.AgentService`."""

from __future__ import annotations

import asyncio
import math
import random
from contextlib import AsyncExitStack, aclosing
from typing import TYPE_CHECKING, Any

import grpc
import structlog

from inferd.core.host import HostBackend, HostFacts
from inferd.core.ids import HostId
from inferd.errors import InvalidFieldError
from inferd.runtime.far.folders import folder_of
from inferd.runtime.far.host import Facts, is_device_name
from inferd.runtime.front.exports import PIECE_BYTES
from inferd.skew import ADOPT
from inferd_api.agent.v1 import agent_pb2 as ap
from inferd_api.agent.v1 import agent_service_pb2 as asp

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from inferd.core.model import ModelSpec
    from inferd.runtime.far.exchange import Exchange
    from inferd.runtime.far.host import FarHost
    from inferd.runtime.far.worker import FarWorker
    from inferd.runtime.front.agents import Agents as Front
    from inferd.runtime.front.exports import ExportedFile, Exports
    from inferd.services.calls import Call

DIGEST = 32  # bytes of a SHA-256
READY = 1  # of `inferd.v1.BackendState`
MOST_FAILED = 64  # hosts that gave a host nothing, as it says
PEER_LOOK_S, PEER_MOST_LOOK_S, SLOWER = 0.25, 4.0, 1.5
"""Between two looks at who can give a model: at first, later, and how much later with each: thousands may wait."""
QUEUED_S = 5.0  # between two words to a host in the line for files that it is in it

log = structlog.get_logger()


class Agents:
    """Translates; see the proto for what each call means."""

    def __init__(self, agents: Front, exports: Exports) -> None:
        self._agents = agents
        self._exports = exports

    async def Join(self, request: asp.JoinRequest, call: Call) -> asp.JoinResponse:  # noqa: N802 - the wire's name
        """Make a host known."""
        credential = await self._agents.join(call.admission.login, request.name, request.secret)
        return asp.JoinResponse(name=request.name, credential=credential, keyring_id=self._agents.keyring_id)

    async def Attach(self, _: Any, call: Call) -> None:  # noqa: N802 - the wire's name
        """The stream of a host."""
        first = await _first(call, self._agents.hosts.answer_s)
        opening = first.opening
        if not self._agents.is_host(call.admission.login):
            call.admission.check_all_tenants("a host computes for all of them")
        host = self._agents.attach(
            call.admission.login,
            _read_facts(opening.facts),
            incarnation=opening.incarnation,
            kernel=opening.kernel,
            epoch=opening.epoch,
        )
        hosts = self._agents.hosts
        welcome = asp.AttachWelcome(
            kernel=hosts.kernel,
            epoch=host.epoch,
            bounds=host.bounds,
            kernel_epoch=hosts.kernel_epoch(),
            features=[ADOPT],
        )
        await call.write(asp.AttachResponse(welcome=welcome, parcels=ap.Parcels(received=host.control.received)))
        resumed = (opening.kernel, opening.epoch) == (hosts.kernel, host.epoch)
        heard = first.parcels.received if resumed else 0  # what it had received before was of another exchange
        await _carry(host.control, call, heard, asp.AttachResponse, beat_s=host.bounds.beat_s)

    async def Carry(self, _: Any, call: Call) -> None:  # noqa: N802 - the wire's name
        """The frames of a worker."""
        first = await _first(call, self._agents.hosts.answer_s)
        worker = self._find(first.opening, call)
        await worker.given.wait()
        await call.write(asp.CarryResponse(parcels=ap.Parcels(received=worker.exchange.received)))
        await _carry(worker.exchange, call, first.parcels.received, asp.CarryResponse)

    async def FetchModel(self, request: asp.FetchModelRequest, call: Call) -> None:  # noqa: N802 - the wire's name
        """The files of the model that a worker is to load."""
        worker, exports, front = self._find(request.opening, call), self._exports, self._agents
        had = frozenset(request.had_pieces[at : at + DIGEST] for at in range(0, len(request.had_pieces), DIGEST))
        most_bytes = worker.exchange.bounds.parcel_bytes
        host, spec, peers = front.hosts.attached[HostId(request.opening.host)], front.spec_of(worker), front.hosts.peers
        async with exports.cut_short(), AsyncExitStack() as stack:
            if not request.only_names:
                if request.peers and await self._tell_peer(request, call, host, spec):
                    return
                peers.done(host.name)
                stack.enter_context(peers.coming(spec.file_version, host))
            turn = await stack.enter_async_context(front.fetches.turn(host.name, waits=request.waits))
            while not await turn.wait(QUEUED_S):
                await self._say_queued(request, call, turn.ahead)
            files = await stack.enter_async_context(exports.for_host(spec))
            for file in files:
                await self._give(call, asp.FetchModelResponse(file=_write_file(file)))
            if request.only_names:
                return
            async with aclosing(exports.pieces(files, had)) as pieces:
                async for piece in pieces:
                    for at in range(0, len(piece), most_bytes):
                        await self._give(call, asp.FetchModelResponse(chunk=piece[at : at + most_bytes]))

    async def _tell_peer(self, request: asp.FetchModelRequest, call: Call, host: FarHost, spec: ModelSpec) -> bool:
        """Name another host that gives the model, once one can; False where none will in time."""
        peers, failed, loop = self._agents.hosts.peers, request.failed_hosts[:MOST_FAILED], asyncio.get_running_loop()
        if not peers.expects(spec.file_version, host, failed):
            return False
        async with self._exports.for_host(spec) as files:
            folder = folder_of((file.name, file.digest) for file in files)
        until, told_at, look_s = loop.time() + self._agents.peer_wait_s, -math.inf, PEER_LOOK_S
        with peers.waiting(host) as may_wait:
            while may_wait and peers.expects(spec.file_version, host, failed) and loop.time() < until:
                if (peer := peers.find(spec.file_version, folder, host, failed)) is not None:
                    await self._give(call, asp.FetchModelResponse(peers=asp.FilePeers(peers=[peer])))
                    return True
                if loop.time() - told_at >= QUEUED_S:
                    await self._say_queued(request, call, 1)
                    told_at = loop.time()
                await asyncio.sleep(look_s * random.uniform(0.5, 1.0))  # noqa: S311  # nosec B311 - many look
                look_s = min(PEER_MOST_LOOK_S, look_s * SLOWER)
        return False

    async def _say_queued(self, request: asp.FetchModelRequest, call: Call, ahead: int) -> None:
        self._find(request.opening, call)  # or it has been given up meanwhile
        await self._give(call, asp.FetchModelResponse(queued=asp.FetchQueued(ahead=ahead)))

    async def _give(self, call: Call, part: asp.FetchModelResponse) -> None:
        """Send a part of a model; an agent that takes nothing of it for too long loses its turn, and asks again."""
        idle_s = self._agents.fetch_idle_s
        try:
            async with asyncio.timeout(idle_s) as limit:
                await call.write(part)
        except TimeoutError:
            if not limit.expired():
                raise
            log.warning("a host takes nothing of a model", principal=call.caller.principal.name, idle_s=idle_s)
            raise asyncio.CancelledError from None  # what it was sent is still under way: no status goes behind that

    def _find(self, opening: asp.CarryOpening, call: Call) -> FarWorker:
        """The worker of a stream.

        Raises:
            InvalidFieldError: The kernel has given it up.
        """
        host = self._agents.hosts.find(
            HostId(opening.host),
            incarnation=opening.incarnation,
            epoch=opening.epoch,
            principal=call.caller.principal.name,
        )
        return host.find(opening.launch_id)


def _write_file(file: ExportedFile) -> asp.FetchedFile:
    return asp.FetchedFile(
        name=file.name,
        sha256=file.digest,
        size_bytes=file.size_bytes,
        piece_bytes=PIECE_BYTES,
        piece_digests=b"".join(file.pieces),
    )


async def _first(call: Call, limit_s: float) -> Any:
    """The opening of a stream.

    Raises:
        InvalidFieldError: There is none, or none within `limit_s`: who opens streams and says nothing holds no places.
    """
    try:
        async with asyncio.timeout(limit_s):
            first = await call.read()
    except TimeoutError:
        why = f"no opening came within {limit_s:g} s (hosts.answer_s); send it first"
        raise InvalidFieldError(why, field="opening") from None
    if first is grpc.aio.EOF or not first.HasField("opening"):
        raise InvalidFieldError("the first message of the stream has no opening", field="opening")
    call.take(first)
    return first


async def _carry(
    exchange: Exchange,
    call: Call,
    heard: int,
    made: Callable[..., Any],
    *,
    beat_s: float | None = None,
) -> None:
    """Let an exchange go on over a stream."""

    async def read() -> ap.Parcels | None:
        message: Any = await call.read()
        return None if message is grpc.aio.EOF else message.parcels

    def write(parcels: ap.Parcels) -> Awaitable[None]:
        return call.write(made(parcels=parcels))

    await exchange.run(heard, read, write, beat_s=beat_s)


def _read_facts(facts: ap.HostFacts) -> Facts:
    backends = (
        HostBackend(name=each.name, devices=tuple(name for name in each.device_ids if is_device_name(name)))
        for each in facts.backends
        if each.state == READY
    )
    return Facts(
        name=HostId(facts.name),
        told=HostFacts(labels=dict(facts.labels), version=facts.version, backends=tuple(backends)),
        pid=facts.pid,
        log_folder=facts.log_folder,
        packages={each.name: each.package for each in facts.backends if each.state == READY},
        files=facts.files,
    )
