"""Connections to a kernel: addresses, channel options, and calls whose failures are typed errors."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import aclosing
from typing import TYPE_CHECKING, Protocol, Self, TypeVar

import grpc
import grpc.aio

from inferd_client.addresses import split_addresses
from inferd_client.addresses import target as target  # noqa: PLC0414 - for who checks types
from inferd_client.credentials import bearer, credential_of
from inferd_client.errors import InferdError
from inferd_client.holding import lease_id_of
from inferd_client.kernels import Kernels, limit_of, may_repeat
from inferd_client.options import strict
from inferd_client.patience import PAUSE_S, Patience, left_of, read_patience_s
from inferd_client.patience import bounded_s as bounded_s  # noqa: PLC0414 - as above
from inferd_client.places import find_address, path_of
from inferd_client.returning import is_back, is_back_async
from inferd_client.routes import Routes
from inferd_client.routes_async import AsyncRoutes
from inferd_client.rpc_errors import from_rpc
from inferd_client.tickets import Tickets
from inferd_client.tls import check_plaintext, secure_credentials
from inferd_client.versions import is_lacking, is_newer, too_old, version_of, version_of_async

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator, Mapping

    from inferd_client.holding import LeaseRef

CALL_TIMEOUT_S = 30.0
OFTEN = {"grpc.max_reconnect_backoff_ms": 500}
OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_send_message_length", 64 << 20),
    ("grpc.max_receive_message_length", 64 << 20),
    # A server that states no rule of its own takes one ping in five minutes on a silent stream, and ends
    # connections that ping more.
    ("grpc.keepalive_time_ms", 310_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.use_local_subchannel_pool", 1),  # one client, one connection
    ("grpc.enable_http_proxy", 0),  # a proxy for the web has no way to the loopback interface
)


class PagedRequest(Protocol):
    """A request for a page."""

    page_token: str


class Page(Protocol):
    """A page."""

    next_page_token: str


Req = TypeVar("Req")
Res = TypeVar("Res")
PagedReq = TypeVar("PagedReq", bound=PagedRequest)
PageRes = TypeVar("PageRes", bound=Page)


class _Settings:
    """What both kinds of connection keep: the address, who calls as metadata, the deadline of short calls."""

    def __init__(
        self,
        address: str | None,
        *,
        tenant: str,
        timeout_s: float | None,
        credential: str | None,
        credential_file: str | os.PathLike[str] | None,
        files: Mapping[str, str | os.PathLike[str] | None],
    ) -> None:
        addresses = split_addresses(address or os.environ.get("INFERD_ADDRESS") or find_address())
        self._kernels = Kernels(addresses)
        self._files = files
        secret = credential_of(credential, credential_file)
        self._login = bearer(secret)
        self._of_address: dict[str, tuple[grpc.ChannelCredentials | None, Tickets | None]] = {}
        for each in addresses:
            self._check(each)
        self._of_tenant = (("inferd-tenant", tenant),) if tenant else ()
        self._timeout_s = bounded_s(timeout_s)
        self._closed = False
        read_patience_s()  # one that is none is told here, and not when a kernel is away

    @property
    def _options(self) -> tuple[tuple[str, int], ...]:
        """Of a channel: to one of several kernels the next try follows soon, as calls wait for it."""
        return OPTIONS if len(self.addresses) == 1 else tuple({**dict(OPTIONS), **OFTEN}.items())

    @property
    def address(self) -> str:
        """Of the kernel that calls go to."""
        return self._kernels.current

    @property
    def addresses(self) -> tuple[str, ...]:
        """Of all kernels that they may go to, that one first."""
        return self._kernels.addresses

    def _check(self, address: str) -> grpc.ChannelCredentials | None:
        """What an address is used with.

        Raises:
            ValueError: It is none, or one that may not be used.
        """
        if address not in self._of_address:
            secure, path = secure_credentials(address, **self._files), path_of(address)
            if self._login:
                check_plaintext(address)
            self._of_address[address] = secure, None if self._login or path is None else Tickets(path)
        return self._of_address[address][0]

    @property
    def _tickets(self) -> Tickets | None:
        return self._of_address[self.address][1]

    @property
    def _metadata(self) -> tuple[tuple[str, str], ...]:
        """Who calls, and for whom.

        Raises:
            UnauthenticatedError: The kernel of a shared socket does not tell who that is.
        """
        if (tickets := self._tickets) is None:
            return (*self._login, *self._of_tenant)
        return (*bearer(tickets.current()), *self._of_tenant)

    def _told(self, error: grpc.RpcError) -> InferdError:
        """What is said of a call that failed: of several kernels, what each of them said."""
        if len(self.addresses) > 1 and may_repeat(error):
            return self._kernels.failure()
        return from_rpc(error, self.address)

    def _limit(self, timeout_s: float | None) -> float | None:
        """The deadline of a call that has the client's unless it says otherwise."""
        return self._timeout_s if timeout_s is None else bounded_s(timeout_s)

    def _check_open(self) -> None:
        """Refuse to work when the client is closed; gRPC's own stubs of a closed channel crash the process.

        Raises:
            RuntimeError: It is.
        """
        if self._closed:
            raise RuntimeError(f"this client of {self.address} is closed; open another one")

    def _metadata_of(self, lease: LeaseRef | None) -> tuple[tuple[str, str], ...]:
        """What each call carries.

        Raises:
            RuntimeError: The client is closed.
            LeaseLostError: The lease does not hold any more.
        """
        self._check_open()
        return self._metadata if lease is None else (*self._metadata, ("inferd-lease", lease_id_of(lease)))


@strict
class Connection(_Settings):
    """A connection of a synchronous client; safe to use from several threads.

    Args:
        address: `host:port`, `tls:host:port` or `unix:/path`, or several with commas between them, of kernels of which
            one leads; default `$INFERD_ADDRESS`, else the socket of this user's kernel, or of this host's.
        tenant: Whose tasks are meant; default the kernel's default tenant.
        timeout_s: Deadline of the calls that answer at once, in seconds; None or infinite: none.
        credential: By which the kernel knows who calls, "" for none; default: that of `credential_file`, else
            `$INFERD_CREDENTIAL`, else that of the file `$INFERD_CREDENTIAL_FILE`.
        credential_file: Where it is, alone, in a file that only its owner may read; read once.
        ca_file: Authorities that certificates of kernels are checked by; default `$INFERD_CA_FILE`, else public ones.
        cert_file: Certificate by which a kernel with TLS knows who calls; default `$INFERD_CERT_FILE`, else none.
        key_file: Its private key, mode 0600; default `$INFERD_KEY_FILE`.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        tenant: str = "",
        timeout_s: float | None = CALL_TIMEOUT_S,
        credential: str | None = None,
        credential_file: str | os.PathLike[str] | None = None,
        ca_file: str | os.PathLike[str] | None = None,
        cert_file: str | os.PathLike[str] | None = None,
        key_file: str | os.PathLike[str] | None = None,
    ) -> None:
        super().__init__(
            address,
            tenant=tenant,
            timeout_s=timeout_s,
            credential=credential,
            credential_file=credential_file,
            files={"ca_file": ca_file, "cert_file": cert_file, "key_file": key_file},
        )
        several = len(self.addresses) > 1
        self._routes = Routes(self._kernels, self._dial) if several else None
        self._wire = self._dial(self.address) if self._routes is None else self._routes

    def _dial(self, address: str) -> grpc.Channel:
        secure = self._check(address)
        if secure is None:
            return grpc.insecure_channel(target(address), options=self._options)
        return grpc.secure_channel(target(address), secure, options=self._options)

    @property
    def _channel(self) -> grpc.Channel:
        self._check_open()
        return self._wire

    def close(self) -> None:
        """Close the connection; calls under way end."""
        self._closed = True
        self._wire.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _call(self, method: grpc.UnaryUnaryMultiCallable[Req, Res], request: Req) -> Res:
        return self._wait(method, request, self._timeout_s)

    def _wait(
        self,
        method: grpc.UnaryUnaryMultiCallable[Req, Res],
        request: Req,
        timeout_s: float | None,
        lease: LeaseRef | None = None,
    ) -> Res:
        left_s = left_of(timeout_s)
        while True:
            try:
                return method(request, metadata=self._metadata_of(lease), timeout=left_s())
            except grpc.RpcError as error:
                if not self._is_back(error, left_s(), request):
                    raise self._failure(error, request) from None

    def _failure(self, error: grpc.RpcError, request: object) -> InferdError:
        """What a call that failed raises."""
        if is_newer(request) and is_lacking(error):
            return too_old(request, version_of(self._channel, self._metadata), self.address)
        return self._told(error)

    def _is_back(self, error: grpc.RpcError, timeout_s: float | None = None, request: object = None) -> bool:
        if self._routes is None:
            return is_back(self._channel, self.address, error, timeout_s)
        return may_repeat(error, request) and self._routes.seek(limit_of(timeout_s))

    def _pages(self, method: grpc.UnaryUnaryMultiCallable[PagedReq, PageRes], request: PagedReq) -> Generator[PageRes]:
        while True:
            page = self._call(method, request)
            yield page
            request.page_token = page.next_page_token
            if not request.page_token:
                return

    def _stream(
        self,
        method: grpc.UnaryStreamMultiCallable[Req, Res],
        request: Req,
        timeout_s: float | None = None,
        lease: LeaseRef | None = None,
    ) -> Generator[Res]:
        left_s = left_of(timeout_s)
        while True:
            call = method(request, metadata=self._metadata_of(lease), timeout=left_s())
            try:
                yield from call
            except grpc.RpcError as error:
                if not self._is_back(error, left_s()):
                    raise self._failure(error, request) from None
            else:
                return
            finally:
                call.cancel()

    def _watched(self, method: grpc.UnaryStreamMultiCallable[Req, Res], request: Req) -> Generator[Res]:
        """As `_stream`, of what a kernel that is started again tells anew: its end is waited out for `PATIENCE_S`."""
        patience = Patience(heard=False)
        while True:
            try:
                for response in self._stream(method, request):
                    patience.heard()
                    yield response
            except InferdError as error:
                patience.check(error)
                time.sleep(PAUSE_S)
            else:
                return


@strict
class AsyncConnection(_Settings):
    """A connection of an asynchronous client; belongs to the event loop that runs when it is made.

    Args:
        address: `host:port`, `tls:host:port` or `unix:/path`, or several with commas between them, of kernels of which
            one leads; default `$INFERD_ADDRESS`, else the socket of this user's kernel, or of this host's.
        tenant: Whose tasks are meant; default the kernel's default tenant.
        timeout_s: Deadline of the calls that answer at once, in seconds; None or infinite: none.
        credential: By which the kernel knows who calls, "" for none; default: that of `credential_file`, else
            `$INFERD_CREDENTIAL`, else that of the file `$INFERD_CREDENTIAL_FILE`.
        credential_file: Where it is, alone, in a file that only its owner may read; read once.
        ca_file: Authorities that certificates of kernels are checked by; default `$INFERD_CA_FILE`, else public ones.
        cert_file: Certificate by which a kernel with TLS knows who calls; default `$INFERD_CERT_FILE`, else none.
        key_file: Its private key, mode 0600; default `$INFERD_KEY_FILE`.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        tenant: str = "",
        timeout_s: float | None = CALL_TIMEOUT_S,
        credential: str | None = None,
        credential_file: str | os.PathLike[str] | None = None,
        ca_file: str | os.PathLike[str] | None = None,
        cert_file: str | os.PathLike[str] | None = None,
        key_file: str | os.PathLike[str] | None = None,
    ) -> None:
        super().__init__(
            address,
            tenant=tenant,
            timeout_s=timeout_s,
            credential=credential,
            credential_file=credential_file,
            files={"ca_file": ca_file, "cert_file": cert_file, "key_file": key_file},
        )
        several = len(self.addresses) > 1
        self._routes = AsyncRoutes(self._kernels, self._dial) if several else None
        self._wire = self._dial(self.address) if self._routes is None else self._routes

    def _dial(self, address: str) -> grpc.aio.Channel:
        secure = self._check(address)
        if secure is None:
            return grpc.aio.insecure_channel(target(address), options=self._options)
        return grpc.aio.secure_channel(target(address), secure, options=self._options)

    @property
    def _channel(self) -> grpc.aio.Channel:
        self._check_open()
        return self._wire

    async def close(self) -> None:
        """Close the connection; calls under way end."""
        self._closed = True
        await self._wire.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _renew(self) -> None:
        """Take a new ticket if one is due, in a thread: the kernel may take its time."""
        if (tickets := self._tickets) is not None and tickets.is_due:
            await asyncio.to_thread(tickets.renew)

    async def _call(self, method: grpc.aio.UnaryUnaryMultiCallable[Req, Res], request: Req) -> Res:
        return await self._wait(method, request, self._timeout_s)

    async def _wait(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[Req, Res],
        request: Req,
        timeout_s: float | None,
        lease: LeaseRef | None = None,
    ) -> Res:
        left_s = left_of(timeout_s)
        while True:
            await self._renew()
            try:
                return await method(request, metadata=self._metadata_of(lease), timeout=left_s())
            except grpc.RpcError as error:
                if not await self._is_back(error, left_s(), request):
                    raise await self._failure(error, request) from None

    async def _failure(self, error: grpc.RpcError, request: object) -> InferdError:
        """What a call that failed raises."""
        if is_newer(request) and is_lacking(error):
            return too_old(request, await version_of_async(self._channel, self._metadata), self.address)
        return self._told(error)

    async def _is_back(self, error: grpc.RpcError, timeout_s: float | None = None, request: object = None) -> bool:
        if self._routes is None:
            return await is_back_async(self._channel, self.address, error, timeout_s)
        return may_repeat(error, request) and await self._routes.seek(limit_of(timeout_s))

    async def _pages(
        self, method: grpc.aio.UnaryUnaryMultiCallable[PagedReq, PageRes], request: PagedReq
    ) -> AsyncGenerator[PageRes]:
        while True:
            page = await self._call(method, request)
            yield page
            request.page_token = page.next_page_token
            if not request.page_token:
                return

    async def _stream(
        self,
        method: grpc.aio.UnaryStreamMultiCallable[Req, Res],
        request: Req,
        timeout_s: float | None = None,
        lease: LeaseRef | None = None,
    ) -> AsyncGenerator[Res]:
        left_s = left_of(timeout_s)
        while True:
            await self._renew()
            call = method(request, metadata=self._metadata_of(lease), timeout=left_s())
            try:
                async for response in call:
                    yield response
            except grpc.RpcError as error:
                if not await self._is_back(error, left_s()):
                    raise await self._failure(error, request) from None
            else:
                return
            finally:
                call.cancel()

    async def _watched(self, method: grpc.aio.UnaryStreamMultiCallable[Req, Res], request: Req) -> AsyncGenerator[Res]:
        """As `_watched` of `Connection`."""
        patience = Patience(heard=False)
        while True:
            try:
                async with aclosing(self._stream(method, request)) as responses:
                    async for response in responses:
                        patience.heard()
                        yield response
            except InferdError as error:
                patience.check(error)
                await asyncio.sleep(PAUSE_S)
            else:
                return
