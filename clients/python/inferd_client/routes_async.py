"""A channel of an asynchronous client to several kernels: calls go to the one that leads."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Self

import grpc
import grpc.aio
from grpc_health.v1.health_pb2 import HealthCheckRequest
from grpc_health.v1.health_pb2_grpc import HealthStub

from inferd_client.kernels import AGAIN_S, ASK_S, LOOK_S, MOVED, SEEK_S, UNSENT, read_health, why_not

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from inferd_client.kernels import Kernels


class AsyncRoutes(grpc.aio.Channel):
    """As a channel of gRPC. Its lookout is a task of the loop, which begins with the first call.

    Args:
        kernels: What is known of them.
        dial: Opens a channel to an address; ValueError where it may not be used.
    """

    def __init__(self, kernels: Kernels, dial: Callable[[str], grpc.aio.Channel]) -> None:
        self._kernels = kernels
        self._dial = dial
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._calls: dict[Any, str] = {}  # under way, and to whom
        self._moved: set[Any] = set()  # of them those that were given up
        self._reached: set[str] = set()  # addresses to which there ever was a connection
        self._seeing: dict[str, asyncio.Task[None]] = {}  # what waits for that
        self._changed = asyncio.Event()
        self._round = asyncio.Event()  # set when the one that is waited for is over
        self._asked = self._serves = False
        self._begun = self._done = 0
        self._looked = time.monotonic()
        self._task: asyncio.Task[None] | None = None

    # For calls.

    def route(self, kind: str, given: tuple[Any, ...], more: dict[str, Any]) -> tuple[str, Any]:
        """To whom a call of a method goes now, and what makes it."""
        self._begin()
        address = self._kernels.current
        return address, getattr(self._channel(address), kind)(*given, **more)

    def begin(self, call: Any, address: str) -> None:
        """A call is under way."""
        self._calls[call] = address
        self._changed.set()

    def end(self, call: Any) -> None:
        """It is no more."""
        self._calls.pop(call, None)
        self._moved.discard(call)

    def was_moved(self, call: Any) -> bool:
        """Whether it was given up for another kernel."""
        return call in self._moved

    def check_moved(self, call: Any) -> None:
        """Tell of a call that was given up for another kernel.

        Raises:
            grpc.aio.AioRpcError: It was, and nobody has cancelled who waits for it.
        """
        task = asyncio.current_task()
        if call in self._moved and (task is None or not task.cancelling()):
            details = MOVED if self._calls.get(call) in self._reached else UNSENT
            self.end(call)
            nothing = grpc.aio.Metadata()
            raise grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, nothing, nothing, details=details)

    def fail(self, error: grpc.RpcError) -> None:
        """A call has ended so: whoever is to lead may be another one."""
        self._kernels.hear(error)
        if error.code() is grpc.StatusCode.UNAVAILABLE:
            self._asked = True
            self._changed.set()

    async def seek(self, timeout_s: float) -> bool:
        """Wait until calls go to a kernel that leads; False where none answers, or none leads in time."""
        self._begin()
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.sleep(AGAIN_S)  # one that says that it serves may refuse each try
                while True:
                    wanted, self._asked = self._begun + 1, True
                    self._changed.set()
                    while self._done < wanted:
                        await self._round.wait()
                    if self._serves or not self._kernels.alive:
                        return self._serves
                    await asyncio.sleep(SEEK_S)
        except TimeoutError:
            return False

    # The lookout.

    def _begin(self) -> None:
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="lookout for kernels")

    async def _run(self) -> None:
        while True:
            await self._wait()
            self._asked = False
            self._begun += 1
            self._serves = await self._look()
            self._done, self._looked = self._begun, time.monotonic()
            self._round.set()
            self._round = asyncio.Event()

    async def _wait(self) -> None:
        """Wait until it is time for a round."""
        while not self._asked:
            every_s = LOOK_S if self._serves else SEEK_S
            left_s = self._looked + every_s - time.monotonic()
            if self._calls and left_s <= 0:
                return
            self._changed.clear()
            try:
                async with asyncio.timeout(left_s if self._calls else None):
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def _look(self) -> bool:
        """Ask who leads, those that calls go to first; whether one does."""
        first, *others = self._kernels.addresses
        if await self._ask(first):
            return True
        answers = await asyncio.gather(*map(self._ask, others))
        leader = next((each for each, serves in zip(others, answers, strict=True) if serves), "")
        if leader:
            self._move(leader)
        return bool(leader)

    async def _ask(self, address: str) -> bool:
        """Whether a kernel says that it serves."""
        try:
            check: Any = HealthStub(self._channel(address)).Check
            said = read_health(await check(HealthCheckRequest(), timeout=ASK_S))
        except ValueError as error:  # it may not be used
            said = str(error)
        except grpc.RpcError as error:
            said = why_not(error, address)
        return self._kernels.tell(address, said)

    def _move(self, address: str) -> None:
        self._kernels.current = address
        moved = [call for call, other in self._calls.items() if other != address]
        self._moved.update(moved)
        for call in moved:
            call.cancel()

    def _channel(self, address: str) -> grpc.aio.Channel:
        if address not in self._channels:
            channel = self._channels[address] = self._dial(address)
            self._seeing[address] = asyncio.create_task(self._see(address, channel), name="connection to a kernel")
        return self._channels[address]

    async def _see(self, address: str, channel: grpc.aio.Channel) -> None:
        while (state := channel.get_state()) is not grpc.ChannelConnectivity.READY:
            await channel.wait_for_state_change(state)
        self._reached.add(address)

    # As a channel.

    def unary_unary(self, *given: Any, **more: Any) -> Any:
        """As of a channel."""
        return _Unary(self, "unary_unary", given, more)

    def unary_stream(self, *given: Any, **more: Any) -> Any:
        """As of a channel."""
        return _Streaming(self, "unary_stream", given, more)

    def stream_unary(self, *given: Any, **more: Any) -> Any:
        """As of a channel."""
        return _Unary(self, "stream_unary", given, more)

    def stream_stream(self, *given: Any, **more: Any) -> Any:
        """As of a channel."""
        return _Streaming(self, "stream_stream", given, more)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:  # noqa: FBT001, FBT002 - gRPC's signature
        """As of a channel: the one to the kernel that calls go to now."""
        return self._channel(self._kernels.current).get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """As of a channel."""
        await self._channel(self._kernels.current).wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """As of a channel."""
        await self._channel(self._kernels.current).channel_ready()

    async def close(self, grace: float | None = None) -> None:
        """As of a channel: calls under way end."""
        tasks = [*self._seeing.values(), *(() if self._task is None else (self._task,))]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for channel in self._channels.values():
            await channel.close(grace)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class _Method:
    def __init__(self, routes: AsyncRoutes, kind: str, given: tuple[Any, ...], more: dict[str, Any]) -> None:
        self._routes = routes
        self._kind, self._given, self._more = kind, given, more

    def _begin(self, given: tuple[Any, ...], how: dict[str, Any]) -> Any:
        address, method = self._routes.route(self._kind, self._given, self._more)
        call = method(*given, **how)
        self._routes.begin(call, address)
        return call


class _Unary(_Method):
    async def __call__(self, *given: Any, **how: Any) -> Any:
        call = self._begin(given, how)
        try:
            return await call
        except asyncio.CancelledError:
            self._routes.check_moved(call)
            raise
        except grpc.RpcError as error:
            self._routes.fail(error)
            raise
        finally:
            self._routes.end(call)


class _Streaming(_Method):
    def __call__(self, *given: Any, **how: Any) -> _Stream:
        return _Stream(self._routes, self._begin(given, how))


class _Stream:
    """A call whose answers come one after the other."""

    def __init__(self, routes: AsyncRoutes, call: Any) -> None:
        self._routes, self._call = routes, call
        self._answers: Any = None
        call.add_done_callback(self._end)

    def _end(self, _: object) -> None:
        if not self._routes.was_moved(self._call):  # else who reads it is told before
            self._routes.end(self._call)

    def cancel(self) -> None:
        """As of a call."""
        self._routes.end(self._call)
        self._call.cancel()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)

    def __aiter__(self) -> Self:
        self._answers = aiter(self._call)
        return self

    async def __anext__(self) -> Any:
        return await self._told(anext(self._answers))

    async def read(self) -> Any:
        """As of a call."""
        return await self._told(self._call.read())

    async def write(self, request: Any) -> None:
        """As of a call."""
        await self._told(self._call.write(request))

    async def _told(self, answer: Awaitable[Any]) -> Any:
        try:
            return await answer
        except asyncio.CancelledError:
            self._routes.check_moved(self._call)
            raise
        except grpc.RpcError as error:
            self._routes.fail(error)
            raise
