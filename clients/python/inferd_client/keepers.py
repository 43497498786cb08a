"""Who keeps the leases of a client alive: all of them on one stream. `Keeper` is a thread, `AsyncKeeper` a task."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
from typing import TYPE_CHECKING, Protocol, TypeAlias

from inferd_api.v1.lease_service_pb2 import KeepAliveLeasesRequest, KeepAliveLeasesResponse
from inferd_client.holding import PAUSE_S, Holdings, confirm, patience_s

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import grpc.aio

    from inferd_client.holding import HeldLease

    AsyncCall: TypeAlias = "grpc.aio.StreamStreamCall[KeepAliveLeasesRequest, KeepAliveLeasesResponse]"


class Call(Protocol):
    """A stream of answers."""

    def __next__(self) -> KeepAliveLeasesResponse: ...

    def cancel(self) -> object:
        """End it."""


class AsyncKeeper:
    """Keeps the leases of an asynchronous client alive, by a task that runs while there are any.

    Whatever goes wrong is tried again on another stream until a lease's time is over; its holder notices that itself.

    Args:
        dial: Opens the stream.
    """

    def __init__(self, dial: Callable[[], AsyncCall]) -> None:
        self._dial = dial
        self._holdings = Holdings()
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._listeners: dict[str, Callable[[], None]] = {}

    def add(self, held: HeldLease, listener: Callable[[], None]) -> None:
        """Keep a lease alive from now on, and call `listener` with each answer about it."""
        self._holdings.add(held)
        self._listeners[held.lease_id] = listener
        self._changed.set()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="keeper of leases")

    def remove(self, held: HeldLease) -> None:
        """Keep a lease alive no longer."""
        self._holdings.remove(held)
        self._listeners.pop(held.lease_id, None)
        self._changed.set()

    async def close(self) -> None:
        """Keep nothing alive any more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while self._holdings:
            try:
                await self._serve()
            except Exception as error:  # noqa: BLE001 - whatever it was: a keeper that gives up loses leases
                self._holdings.note(error)
            if self._holdings:
                await asyncio.sleep(PAUSE_S)

    async def _serve(self) -> None:
        """Keep leases alive on one stream, for as long as there are any and it holds."""
        call = self._dial()
        try:
            while self._holdings:
                self._changed.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._holdings.wait_s()):
                        await self._changed.wait()
                batch = self._holdings.due()
                if batch:
                    async with asyncio.timeout(patience_s(batch)):
                        await self._renew(call, batch)
        finally:
            call.cancel()

    async def _renew(self, call: AsyncCall, batch: list[HeldLease]) -> None:
        sent = time.monotonic()
        await call.write(KeepAliveLeasesRequest(lease_ids=[held.lease_id for held in batch]))
        answer = await call.read()
        if not isinstance(answer, KeepAliveLeasesResponse):  # the stream has ended: by its status, or in order
            raise TimeoutError("the stream of keep-alives has ended")
        confirm(batch, answer.renewals, sent)
        for held in batch:
            if (listener := self._listeners.get(held.lease_id)) is not None:
                listener()


class Keeper:
    """Keeps the leases of a synchronous client alive, by a thread that runs while there are any.

    Whatever goes wrong is tried again on another stream until a lease's time is over; its holder notices that itself.

    Args:
        dial: Opens the stream that sends what the iterator gives.
    """

    def __init__(self, dial: Callable[[Iterator[KeepAliveLeasesRequest]], Call]) -> None:
        self._dial = dial
        self._holdings = Holdings()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._call: Call | None = None
        self._closed = False

    def add(self, held: HeldLease) -> None:
        """Keep a lease alive from now on."""
        with self._changed:
            self._holdings.add(held)
            self._changed.notify()
            if self._thread is None or not self._thread.is_alive():
                thread = threading.Thread(target=self._run, name="keeper of leases", daemon=True)
                thread.start()
                self._thread = thread

    def remove(self, held: HeldLease) -> None:
        """Keep a lease alive no longer."""
        with self._changed:
            self._holdings.remove(held)
            self._changed.notify()

    def close(self) -> None:
        """Keep nothing alive any more."""
        with self._changed:
            self._closed = True
            thread = self._thread
            self._changed.notify()
            if self._call is not None:
                self._call.cancel()
        if thread is not None:
            thread.join()

    def _goes_on(self) -> bool:
        return bool(self._holdings) and not self._closed

    def _run(self) -> None:
        while True:
            try:
                self._serve()
            except Exception as error:  # noqa: BLE001 - whatever it was: a keeper that gives up loses leases
                self._holdings.note(error)
            with self._changed:
                self._changed.wait_for(lambda: not self._goes_on(), PAUSE_S)
                if not self._goes_on():
                    self._thread = None
                    return

    def _serve(self) -> None:
        """Keep leases alive on one stream, for as long as there are any and it holds."""
        requests: queue.SimpleQueue[KeepAliveLeasesRequest | None] = queue.SimpleQueue()
        with self._changed:
            if not self._goes_on():
                return
            call = self._call = self._dial(iter(requests.get, None))
        try:
            while batch := self._next():
                self._renew(call, requests, batch)
        finally:
            requests.put(None)
            call.cancel()

    def _next(self) -> list[HeldLease]:
        """Wait until leases are due; none when there is nothing to keep alive any more."""
        with self._changed:
            while self._goes_on():
                if batch := self._holdings.due():
                    return batch
                self._changed.wait(self._holdings.wait_s())
            return []

    def _renew(
        self, call: Call, requests: queue.SimpleQueue[KeepAliveLeasesRequest | None], batch: list[HeldLease]
    ) -> None:
        sent = time.monotonic()
        watchdog = threading.Timer(patience_s(batch), call.cancel)
        watchdog.start()
        try:
            requests.put(KeepAliveLeasesRequest(lease_ids=[held.lease_id for held in batch]))
            confirm(batch, next(call).renewals, sent)
        finally:
            watchdog.cancel()
