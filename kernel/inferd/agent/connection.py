"""Connections of an agent to its kernel."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING

import grpc

from inferd_api.agent.v1 import agent_service_pb2 as service
from inferd_api.agent.v1.agent_service_pb2_grpc import AgentServiceStub
from inferd_client.channel import AsyncConnection
from inferd_client.rpc_errors import from_rpc

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
    from typing import Any

    from inferd_api.agent.v1 import agent_pb2 as wire

JOIN_S = 30.0


class KernelConnection(AsyncConnection):
    """One connection. An attempt to attach has two: what one carries does not hold up the beats of the other."""

    @cached_property
    def _agents(self) -> Any:
        return AgentServiceStub(self._channel)

    async def join(self, name: str, secret: str = "") -> service.JoinResponse:
        """Make the host known; the credential of this agent, of a secret that it has drawn.

        Raises:
            inferd_client.InferdError: It may not join.
        """
        request = service.JoinRequest(name=name, secret=secret)
        made: service.JoinResponse = await self._wait(self._agents.Join, request, JOIN_S)
        return made

    async def attach_nothing(self) -> None:
        """Ask to be attached as nobody, which shows whether the kernel knows who calls.

        Raises:
            inferd_client.InferdError: As it refuses that.
        """
        stream = await self.attach()
        try:
            await stream.open(service.AttachRequest(opening=service.AttachOpening()))
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error, self.address) from None
        finally:
            stream.cancel()

    async def attach(self) -> KernelStream:
        """Begin the stream of the host."""
        await self._renew()
        return KernelStream(self._agents.Attach(metadata=self._metadata))

    async def fetch(self, request: service.FetchModelRequest) -> AsyncGenerator[service.FetchModelResponse]:
        """The parts of a model.

        Raises:
            grpc.aio.AioRpcError: It cannot be read, or the connection broke.
        """
        await self._renew()
        call = self._agents.FetchModel(request, metadata=self._metadata)
        try:
            async for each in call:
                yield each
        finally:
            call.cancel()

    async def carry(self) -> KernelStream:
        """Begin the stream of a worker."""
        await self._renew()
        return KernelStream(self._agents.Carry(metadata=self._metadata))


class Kernels:
    """Where a kernel may be: one of several with the same store leads, and takes agents.

    Args:
        addresses: Of them; at least one.
        credential: What the host is known by; None for that of the environment.
    """

    def __init__(self, addresses: Sequence[str], credential: str | None = None) -> None:
        self._addresses = tuple(addresses)
        self._credential = credential
        self._at = 0

    @property
    def address(self) -> str:
        """Of the one that is tried now."""
        return self._addresses[self._at]

    def connect(self) -> KernelConnection:
        """A new connection to the one that is tried now."""
        return KernelConnection(self.address, credential=self._credential, timeout_s=None)

    def turn(self) -> None:
        """Try the next one."""
        self._at = (self._at + 1) % len(self._addresses)


class KernelStream:
    """One stream."""

    def __init__(self, call: Any) -> None:
        self._call = call

    async def open(self, opening: Any) -> Any:
        """Send the first message; the first one of the kernel, None where it ended the stream instead.

        Raises:
            grpc.aio.AioRpcError: It refused.
        """
        await self._write(opening)
        return await self._read()

    async def _write(self, message: Any) -> None:
        """Send one; lost where the kernel has ended the stream, which whoever reads is told."""
        with suppress(asyncio.InvalidStateError):
            await self._call.write(message)

    async def _read(self) -> Any:
        message = await self._call.read()
        if message is not grpc.aio.EOF:
            return message
        if await self._call.code() is not grpc.StatusCode.OK:
            await self._call.read()  # raises
        return None

    async def read(self) -> wire.Parcels | None:
        """What comes next; None at the end.

        Raises:
            grpc.aio.AioRpcError: It broke.
        """
        message = await self._read()
        return None if message is None else message.parcels

    def writer(self, made: Callable[..., Any]) -> Callable[[wire.Parcels], Awaitable[None]]:
        """What sends parcels, in messages of a kind."""

        async def write(parcels: wire.Parcels) -> None:
            await self._write(made(parcels=parcels))

        return write

    def cancel(self) -> None:
        """End it."""
        self._call.cancel()
