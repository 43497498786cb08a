"""A socket that others may use than the kernel's user: each call says whose it is, by a ticket of the one beside it."""

import asyncio
import os
import socket
import stat
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from connection import Connection
from guarded import bearer, failing

from inferd.addresses import LONGEST_PATH
from inferd.errors import InvalidFieldError
from inferd.runtime import ticket_door
from inferd.testing.kernel import kernel_here
from inferd_api.v1 import auth_service_pb2 as asp
from inferd_api.v1.auth_service_pb2_grpc import AuthServiceStub
from inferd_client import AsyncClient, Client
from inferd_client.errors import PermissionDeniedError

ME = asp.WhoAmIRequest()
OTHER = os.geteuid() + 4711
MANY = 300


def shared(folder: Path, **more: Any) -> dict[str, Any]:
    return {"listen": (f"unix:{folder}/s", "127.0.0.1:0"), "socket_mode": "0660", **more}


async def ticket_at(path: Path) -> str:
    """What whoever connects is told."""
    reader, writer = await asyncio.open_unix_connection(str(path))
    said = (await reader.read()).decode()
    writer.close()
    return said


async def test_the_kernels_own_user_is_known_by_its_ticket(tmp_path: Path) -> None:
    """Clients take tickets by themselves and may name any tenant; a bare call is refused, and told how to do it."""
    async with kernel_here(tmp_path, **shared(tmp_path)) as kernel:
        assert (
            stat.S_IMODE((tmp_path / "s").stat().st_mode) == stat.S_IMODE((tmp_path / "s.id").stat().st_mode) == 0o660
        )
        bare = Connection(kernel, tmp_path)
        stub: Any = AuthServiceStub(bare.channel)
        error = await failing(stub.WhoAmI(ME))
        assert error.code() is grpc.StatusCode.UNAUTHENTICATED
        assert ".id, see docs/security.md" in str(error.details())
        with Client(kernel.addresses[0], tenant="any") as client:
            said = await asyncio.to_thread(client.whoami)
            assert (said.principal.name, said.tenant) == ("local", "any")
        async with AsyncClient(kernel.addresses[0]) as client_:
            assert (await client_.whoami()).principal.name == "local"
            key = await client_.create_key("anna", roles=["user"])
        assert (await stub.WhoAmI(ME, metadata=bearer(key.credential))).principal.name == "anna"
        ticket, holds_s, end = (await ticket_at(tmp_path / "s.id")).split("\n")
        assert (len(ticket), holds_s, end) == (67, "300", "")
        assert (await stub.WhoAmI(ME, metadata=bearer(ticket))).principal.name == "local"
        async with grpc.aio.insecure_channel(kernel.addresses[1]) as channel:
            away: Any = AuthServiceStub(channel)
            assert (await failing(away.WhoAmI(ME, metadata=bearer(ticket)))).code() is grpc.StatusCode.UNAUTHENTICATED
        await bare.channel.close()
    assert not (tmp_path / "s.id").exists()


async def test_another_user_has_its_own_tenant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is not the kernel's user has the role and the tenant that it is given, and no other."""
    monkeypatch.setattr(ticket_door, "uid_of", lambda _: OTHER)
    async with kernel_here(tmp_path, **shared(tmp_path)) as kernel, AsyncClient(kernel.addresses[0]) as client:
        said = await client.whoami()
        assert (said.principal.name, list(said.principal.roles)) == (f"uid:{OTHER}", ["user"])
        assert said.tenant == f"uid-{OTHER}"
        async with AsyncClient(kernel.addresses[0], tenant="other") as stranger:
            with pytest.raises(PermissionDeniedError):
                await stranger.whoami()
        with pytest.raises(PermissionDeniedError):
            await client.create_key("anna", roles=["user"])


async def test_many_that_ask_wait_and_cost_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds may wait for tickets at once, and the name of their user is looked up once."""
    looked_up: list[int] = []
    monkeypatch.setattr(ticket_door, "uid_of", lambda _: OTHER)
    monkeypatch.setattr(ticket_door, "name_of", lambda uid: looked_up.append(uid) or "anna")
    async with asyncio.timeout(60), kernel_here(tmp_path, **shared(tmp_path)):
        with ExitStack() as open_:
            asking = [open_.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(MANY)]
            for each in asking:  # without a pause: the kernel takes none meanwhile
                each.setblocking(False)
                each.connect(str(tmp_path / "s.id"))
            loop = asyncio.get_running_loop()
            said = [await loop.sock_recv(each, 256) for each in asking]
    assert all(each.startswith(b"it_") for each in said)
    assert looked_up == [OTHER]


async def test_a_user_without_a_name_here_gets_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Users of another namespace, whom the system calls by one number, are told apart by keys alone."""
    monkeypatch.setattr(ticket_door, "uid_of", lambda _: ticket_door._overflow_uid())
    async with kernel_here(tmp_path, **shared(tmp_path)):
        assert (await ticket_at(tmp_path / "s.id")).startswith("error: uid ")


async def test_a_client_goes_on_with_the_next_kernel(tmp_path: Path) -> None:
    """Tickets end with their kernel, and a client takes one of the next; of one that died the socket is replaced."""
    async with kernel_here(tmp_path / "a", **shared(tmp_path)) as kernel:
        client, sync = AsyncClient(kernel.addresses[0]), Client(kernel.addresses[0])
        await client.whoami()
        await asyncio.to_thread(sync.whoami)
    async with asyncio.timeout(60), kernel_here(tmp_path / "b", **shared(tmp_path)):
        assert (await client.whoami()).principal.name == "local"
        assert (await asyncio.to_thread(sync.whoami)).principal.name == "local"
    await client.close()
    sync.close()
    async with kernel_here(tmp_path / "c", **shared(tmp_path)):
        left = (tmp_path / "s.id").stat()
        os.link(tmp_path / "s.id", tmp_path / "left")
    (tmp_path / "left").rename(tmp_path / "s.id")
    assert (tmp_path / "s.id").stat().st_ino == left.st_ino
    async with kernel_here(tmp_path / "d", **shared(tmp_path, socket_mode="0600")) as kernel:
        assert not (tmp_path / "s.id").exists()
        async with AsyncClient(kernel.addresses[0]) as client:
            assert (await client.whoami()).principal.name == "local"


async def test_a_path_that_leaves_no_room_is_told(tmp_path: Path) -> None:
    """The socket beside a shared one must have a path that can be, too."""
    folder = tmp_path / ("d" * (LONGEST_PATH - len(str(tmp_path)) - len("//k")))
    folder.mkdir()
    with pytest.raises(InvalidFieldError, match=f"{LONGEST_PATH + 3} bytes; at most {LONGEST_PATH}"):
        async with kernel_here(tmp_path, listen=(f"unix:{folder}/k",), socket_mode="0660"):
            pass
