"""A kernel that needs a login over TCP, whoever makes its keys, and calls with and without one."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from connection import Connection, reason_of

from inferd.testing.kernel import kernel_here
from inferd_api.v1 import auth_pb2 as ap
from inferd_api.v1 import auth_service_pb2 as asp
from inferd_api.v1.auth_service_pb2_grpc import AuthServiceStub

Metadata = tuple[tuple[str, str], ...]


def bearer(credential: str, tenant: str = "") -> Metadata:
    """What a call carries to be known."""
    return (("authorization", f"Bearer {credential}"), *([("inferd-tenant", tenant)] if tenant else []))


class Guarded:
    """A kernel that needs a login over TCP, and none on its socket.

    Attributes:
        kernel: It.
        owner: A connection that needs no login.
        tcp: One that does.
        made: Makes keys and rules, without a login.
        auth: The same service over TCP.
    """

    def __init__(self, kernel: Any, folder: Path) -> None:
        self.kernel = kernel
        self.owner = Connection(kernel, folder)
        self.tcp = Connection(SimpleNamespace(addresses=kernel.addresses[1:]), folder)  # type: ignore[arg-type] # of a kernel, where it listens
        self.made: Any = AuthServiceStub(self.owner.channel)
        self.auth: Any = AuthServiceStub(self.tcp.channel)

    async def key(self, principal: str = "anna", *, roles: Any = ("user",), **more: Any) -> asp.CreateKeyResponse:
        """A new key."""
        request = asp.CreateKeyRequest(key=ap.Key(principal=principal, roles=roles, **more))
        made: asp.CreateKeyResponse = await self.made.CreateKey(request)
        return made

    async def login(self, *roles: str, **more: Any) -> Metadata:
        """What the calls of a new key carry."""
        return bearer((await self.key(roles=roles, **more)).credential)

    async def rule(self, who: str, *, allow: bool = False, **more: Any) -> str:
        """The id of a new rule."""
        request = asp.CreateRuleRequest(rule=ap.Rule(who=who, deny=not allow, **more))
        rule_id: str = (await self.made.CreateRule(request)).rule.rule_id
        return rule_id

    async def close(self) -> None:
        await self.tcp.channel.close()
        await self.owner.channel.close()


@asynccontextmanager
async def guarded(folder: Path, **settings: Any) -> AsyncIterator[Guarded]:
    """A kernel that needs a login over TCP."""
    listen = (f"unix:{folder}/s", "127.0.0.1:0")
    async with kernel_here(folder, listen=listen, **settings) as kernel:
        made = Guarded(kernel, folder)
        yield made
        await made.close()


async def failing(call: Any) -> grpc.aio.AioRpcError:
    """The error of a call, whatever it gives before."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await _end(call)
    return caught.value


async def _end(call: Any) -> None:
    if hasattr(call, "read"):
        while await call.read() is not grpc.aio.EOF:
            pass
    else:
        await call


async def refused(call: Any) -> tuple[str, dict[str, str]]:
    """Reason and metadata of a call that fails."""
    return reason_of(await failing(call))


def bytes_of(error: grpc.aio.AioRpcError) -> tuple[Any, str | None, bytes]:
    """All that a client sees of an error."""
    trailing = dict(error.trailing_metadata() or ())
    return error.code(), error.details(), trailing["grpc-status-details-bin"]
