"""`inferd.agent.v1.AgentService`."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import grpc

from inferd.core.host import HostBackend, HostFacts
from inferd.core.ids import HostId
from inferd.errors import InvalidFieldError
from inferd.runtime.far.host import Facts, is_device_name
from inferd.runtime.front.exports import PIECE_BYTES
from inferd_api.agent.v1 import agent_pb2 as ap
from inferd_api.agent.v1 import agent_service_pb2 as asp

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from inferd.runtime.far.exchange import Exchange
    from inferd.runtime.far.worker import FarWorker
    from inferd.runtime.front.agents import Agents as Front
    from inferd.runtime.front.exports import ExportedFile, Exports
    from inferd.services.calls import Call

DIGEST = 32  # bytes of a SHA-256
READY = 1  # of `inferd.v1.BackendState`


class Agents:
    """Translates; see the proto for what each call means."""

    def __init__(self, agents: Front, exports: Exports) -> None:
        self._agents = agents
        self._exports = exports

    async def Join(self, request: asp.JoinRequest, call: Call) -> asp.JoinResponse:  # noqa: N802 - the wire's name
        """Make a host known."""
        credential = await self._agents.join(call.admission.login, request.name)
        return asp.JoinResponse(name=request.name, credential=credential)

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
            kernel=hosts.kernel, epoch=host.epoch, bounds=host.bounds, kernel_epoch=hosts.kernel_epoch()
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
        worker, exports = self._find(request.opening, call), self._exports
        had = frozenset(request.had_pieces[at : at + DIGEST] for at in range(0, len(request.had_pieces), DIGEST))
        most_bytes = worker.exchange.bounds.parcel_bytes
        with self._agents.fetches.place():
            async with exports.cut_short(), exports.for_host(self._agents.spec_of(worker)) as files:
                for file in files:
                    await call.write(asp.FetchModelResponse(file=_write_file(file)))
                if request.only_names:
                    return
                async with aclosing(exports.pieces(files, had)) as pieces:
                    async for piece in pieces:
                        for at in range(0, len(piece), most_bytes):
                            await call.write(asp.FetchModelResponse(chunk=piece[at : at + most_bytes]))

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
    )
