"""Connections to the kernel: one for each key and tenant that calls, closed when nobody uses it."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from inferd.http.problems import Refusal
from inferd_client import AsyncClient, CredentialError
from inferd_client.errors import PermissionDeniedError, UnauthenticatedError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from inferd.http_settings import Http

NO_KEY: Final = (
    "this needs a key of the kernel, as the header `Authorization: Bearer KEY`; who may make keys makes one with: "
    "inferd keys create NAME --role user"
)


@dataclass(slots=True)
class _Entry:
    client: AsyncClient
    users: int = 0
    used_at: float = 0.0


class Clients:
    """The connections. One writer: the gateway's loop.

    Args:
        address: Of the kernel; "" for the one that is found.
        settings: Of the gateway.
        keyless: What calls without a key are made with; "" where they are refused.
        closed: Is told of each one that is closed.
    """

    def __init__(
        self, address: str, settings: Http, *, keyless: str = "", closed: Callable[[AsyncClient], object]
    ) -> None:
        self._address = address
        self._settings = settings
        self._keyless = keyless
        self._closed = closed
        self._entries: dict[tuple[str, str], _Entry] = {}  # by credential and tenant, the one used last at the end
        self._judging = asyncio.Semaphore(settings.judged)

    @asynccontextmanager
    async def of(self, headers: Mapping[str, str]) -> AsyncIterator[AsyncClient]:
        """The client of whom a request's headers say that calls, which the kernel knows.

        Raises:
            Refusal: They have no key, or there are too many connections.
            InferdError: The kernel does not know the key, or does not answer.
        """
        credential, tenant = self._credential(headers), headers.get("inferd-tenant", "")
        if not (tenant.isascii() and tenant.isprintable()):
            raise Refusal("the header Inferd-Tenant must be the name of a tenant", param="Inferd-Tenant")
        key = credential, tenant
        entry, left = await self._entry(key)
        entry.users += 1
        try:
            for other in left:
                await self._close(other)
            yield entry.client
        except UnauthenticatedError:
            if self._entries.get(key) is entry:
                del self._entries[key]  # closed by whom uses it last
            raise
        finally:
            entry.users -= 1
            entry.used_at = time.monotonic()
            if not entry.users and self._entries.get(key) is not entry:
                await self._close(entry)

    def _credential(self, headers: Mapping[str, str]) -> str:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        given = given.strip()
        if scheme.lower() == "bearer" and given:
            if not (given.isascii() and given.isprintable()):
                raise Refusal(NO_KEY, status=401, code="UNAUTHENTICATED")
            return given
        if self._keyless:
            return self._keyless
        raise Refusal(NO_KEY, status=401, code="UNAUTHENTICATED")

    async def _entry(self, key: tuple[str, str]) -> tuple[_Entry, list[_Entry]]:
        """The connection of a key and tenant, and those to close for it. Raises as `of`."""
        left: list[_Entry] = []
        entry = self._entries.get(key)
        if entry is None:
            known = await self._judged(key)
            entry = self._entries.get(key)  # somebody else may have come first
            if entry is None:
                try:
                    left, entry = self._make_room(), known
                except Refusal:
                    await self._close(known)
                    raise
            elif entry is not known:
                left = [known]
        self._entries.pop(key, None)
        self._entries[key] = entry
        return entry, left

    async def _judged(self, key: tuple[str, str]) -> _Entry:
        """A connection whose key the kernel knows: nothing else is read of a request without one.

        Those that it does not know yet have a share of their own, and take nothing of that of others: no connection is
        closed for a key that may be none.

        Raises:
            Refusal, InferdError: As `of`, or the kernel does not say so in time.
        """
        try:
            async with asyncio.timeout(self._settings.judge_s), self._judging:
                return self._entries.get(key) or await self._known(*key)
        except TimeoutError:
            raise Refusal(
                f"the kernel did not say within {self._settings.judge_s:g} s (http.judge_s) whether it knows the key: "
                f"{self._settings.judged} are judged at once (http.judged); try again later",
                status=503,
                code="LIMIT_EXCEEDED",
                retry_after_s=1,
            ) from None

    async def _known(self, credential: str, tenant: str) -> _Entry:
        try:
            entry = _Entry(AsyncClient(self._address or None, credential=credential, tenant=tenant))
        except CredentialError:
            raise Refusal(NO_KEY, status=401, code="UNAUTHENTICATED") from None
        try:
            with suppress(PermissionDeniedError):  # it is known, and may not ask who it is
                await entry.client.whoami()
        except BaseException:
            await self._close(entry)
            raise
        return entry

    def _make_room(self) -> list[_Entry]:
        """Give up what is idle for long, and one more where there are as many as there may be."""
        now, most = time.monotonic(), self._settings.clients
        free = [key for key, entry in self._entries.items() if not entry.users]
        old = [key for key in free if now - self._entries[key].used_at > self._settings.client_idle_s]
        if len(self._entries) - len(old) >= most:
            others = [key for key in free if key not in old]
            if not others:
                raise Refusal(
                    f"{most} keys and tenants call at once, as many as may (http.clients); try again later",
                    status=503,
                    code="LIMIT_EXCEEDED",
                    retry_after_s=1,
                )
            old.append(others[0])
        return [self._entries.pop(key) for key in old]

    async def close(self) -> None:
        """Close all; what runs on them ends."""
        entries, self._entries = list(self._entries.values()), {}
        for entry in entries:
            await self._close(entry)

    async def _close(self, entry: _Entry) -> None:
        self._closed(entry.client)
        await entry.client.close()
