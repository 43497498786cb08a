"""`inferd.agent.v1.AgentService`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc

from inferd.core.ids import DeviceId, HostId
from inferd.errors import InvalidFieldError
from inferd.runtime.far.host import Facts, is_device_name
from inferd_api.agent.v1 import agent_pb2 as ap
from inferd_api.agent.v1 import agent_service_pb2 as asp

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from inferd.runtime.far.exchange import Exchange
    from inferd.runtime.front.agents import Agents as Front
    from inferd.services.calls import Call

READY = 1  # of `inferd.v1.BackendState`


class Agents:
    """Translates; see the proto for what each call means."""

    def __init__(self, agents: Front) -> None:
        self._agents = agents

    async def Join(self, request: asp.JoinRequest, call: Call) -> asp.JoinResponse:  # noqa: N802 - the wire's name
        """Make a host known."""
        credential = await self._agents.join(call.admission.login, request.name)
        return asp.JoinResponse(name=request.name, credential=credential)

    async def Attach(self, _: Any, call: Call) -> None:  # noqa: N802 - the wire's name
        """The stream of a host."""
        first = await _first(call)
        opening = first.opening
        host = self._agents.attach(
            call.admission.login,
            _read_facts(opening.facts),
            incarnation=opening.incarnation,
            kernel=opening.kernel,
            epoch=opening.epoch,
        )
        welcome = asp.AttachWelcome(kernel=self._agents.hosts.kernel, epoch=host.epoch, bounds=host.bounds)
        await call.write(asp.AttachResponse(welcome=welcome, parcels=ap.Parcels(received=host.control.received)))
        await _carry(host.control, call, first.parcels, asp.AttachResponse, beat_s=host.bounds.beat_s)

    async def Carry(self, _: Any, call: Call) -> None:  # noqa: N802 - the wire's name
        """The frames of a worker."""
        first = await _first(call)
        opening = first.opening
        host = self._agents.hosts.find(
            HostId(opening.host),
            incarnation=opening.incarnation,
            epoch=opening.epoch,
            principal=call.caller.principal.name,
        )
        worker = host.find(opening.launch_id)
        await worker.given.wait()
        await call.write(asp.CarryResponse(parcels=ap.Parcels(received=worker.exchange.received)))
        await _carry(worker.exchange, call, first.parcels, asp.CarryResponse)


async def _first(call: Call) -> Any:
    """The opening of a stream.

    Raises:
        InvalidFieldError: There is none.
    """
    first = await call.read()
    if first is grpc.aio.EOF or not first.HasField("opening"):
        raise InvalidFieldError("the first message of the stream has no opening", field="opening")
    call.take(first)
    return first


async def _carry(
    exchange: Exchange,
    call: Call,
    first: ap.Parcels,
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

    await exchange.run(first.received, read, write, beat_s=beat_s)


def _read_facts(facts: ap.HostFacts) -> Facts:
    return Facts(
        name=HostId(facts.name),
        version=facts.version,
        system=facts.os,
        labels=dict(facts.labels),
        backends={
            each.name: tuple(DeviceId(name) for name in each.device_ids if is_device_name(name))
            for each in facts.backends
            if each.state == READY
        },
        pid=facts.pid,
        log_folder=facts.log_folder,
    )
