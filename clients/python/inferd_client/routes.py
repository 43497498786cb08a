"""A channel of a synchronous client to several kernels: calls go to the one that leads."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest
from grpc_health.v1.health_pb2_grpc import HealthStub

from inferd_client.kernels import AGAIN_S, ASK_S, LOOK_S, SEEK_S, MovedError, read_health, why_not

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from inferd_client.kernels import Kernels


class Routes(grpc.Channel):
    """As a channel of gRPC. Its lookout is a thread, which begins with the first call.

    Args:
        kernels: What is known of them.
        dial: Opens a channel to an address; ValueError where it may not be used.
    """

    def __init__(self, kernels: Kernels, dial: Callable[[str], grpc.Channel]) -> None:
        self._kernels = kernels
        self._dial = dial
        self._changed = threading.Condition()  # of all below
        self._channels: dict[str, grpc.Channel] = {}
        self._calls: dict[Any, str] = {}  # under way, and to whom
        self._moved: set[Any] = set()  # of them those that were given up
        self._reached: set[str] = set()  # addresses to which there ever was a connection
        self._asked = self._closed = self._serves = False
        self._begun = self._done = 0  # rounds of looks
        self._looked = time.monotonic()
        self._thread: threading.Thread | None = None

    # For calls.

    def route(self, kind: str, given: tuple[Any, ...], more: dict[str, Any]) -> tuple[str, Any]:
        """To whom a call of a method goes now, and what makes it."""
        with self._changed:
            self._begin()
            address = self._kernels.current
        return address, getattr(self._channel(address), kind)(*given, **more)

    def begin(self, call: Any, address: str) -> None:
        """A call is under way."""
        with self._changed:
            self._calls[call] = address
            self._changed.notify_all()

    def end(self, call: Any) -> None:
        """It is no more."""
        with self._changed:
            self._calls.pop(call, None)
            self._moved.discard(call)

    def was_moved(self, call: Any) -> bool:
        """Whether it was given up for another kernel."""
        with self._changed:
            return call in self._moved

    def moved(self, address: str) -> MovedError:
        """What a call to an address that was given up is told."""
        with self._changed:
            return MovedError(unsent=address not in self._reached)

    def fail(self, error: grpc.RpcError) -> None:
        """A call has ended so: whoever is to lead may be another one."""
        self._kernels.hear(error)
        if error.code() is grpc.StatusCode.UNAVAILABLE:
            with self._changed:
                self._asked = True
                self._changed.notify_all()

    def seek(self, timeout_s: float) -> bool:
        """Wait until calls go to a kernel that leads; False where none answers, or none leads in time."""
        deadline = time.monotonic() + timeout_s
        time.sleep(min(AGAIN_S, timeout_s))  # one that says that it serves may refuse each try
        with self._changed:
            self._begin()
            while not self._closed:
                wanted, self._asked = self._begun + 1, True
                self._changed.notify_all()
                while self._done < wanted and not self._closed:
                    if not self._changed.wait(max(0.0, deadline - time.monotonic())):
                        return False
                if self._serves or not self._kernels.alive:
                    return self._serves
                if time.monotonic() >= deadline:
                    return False
                self._changed.wait(SEEK_S)
        return False

    # The lookout.

    def _begin(self) -> None:
        if self._thread is None and not self._closed:
            self._thread = threading.Thread(target=self._run, name="lookout for kernels", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while self._wait():
            serves = self._look()
            with self._changed:
                self._done, self._serves, self._looked = self._begun, serves, time.monotonic()
                self._changed.notify_all()

    def _wait(self) -> bool:
        """Wait until it is time for a round; False for none any more."""
        with self._changed:
            while not self._closed:
                every_s = LOOK_S if self._serves else SEEK_S
                left_s = self._looked + every_s - time.monotonic()
                if self._asked or (self._calls and left_s <= 0):
                    self._asked = False
                    self._begun += 1
                    return True
                self._changed.wait(left_s if self._calls else None)
            return False

    def _look(self) -> bool:
        """Ask who leads, those that calls go to first; whether one does."""
        first, *others = self._kernels.addresses
        if self._answers({first: self._ask(first)}):
            return True
        leader = self._answers({each: self._ask(each) for each in others})
        if leader:
            self._move(leader)
        return bool(leader)

    def _ask(self, address: str) -> Any:
        """The answer of a kernel about its health, which is under way; None where it cannot be asked."""
        try:
            return HealthStub(self._channel(address)).Check.future(HealthCheckRequest(), timeout=ASK_S)
        except ValueError as error:  # it may not be used, or the client is closed
            self._kernels.tell(address, str(error))
            return None

    def _answers(self, asked: dict[str, Any]) -> str:
        """Who serves of those that were asked, the first one; "" for nobody."""
        leader = ""
        for address, answer in asked.items():
            if answer is None:
                continue
            try:
                said = read_health(answer.result())
            except grpc.RpcError as error:
                said = why_not(error, address)
            except grpc.FutureCancelledError:
                said = "the client was closed"
            if self._kernels.tell(address, said) and not leader:
                leader = address
        return leader

    def _move(self, address: str) -> None:
        with self._changed:
            self._kernels.current = address
            moved = [call for call, other in self._calls.items() if other != address]
            self._moved.update(moved)
        for call in moved:
            call.cancel()

    def _channel(self, address: str) -> grpc.Channel:
        with self._changed:
            if self._closed:
                raise ValueError("the client was closed")
            if address not in self._channels:
                channel = self._channels[address] = self._dial(address)
                channel.subscribe(partial(self._see, address))
            return self._channels[address]

    def _see(self, address: str, state: grpc.ChannelConnectivity) -> None:
        if state is grpc.ChannelConnectivity.READY:
            with self._changed:
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

    def subscribe(self, callback: Any, try_to_connect: bool = False) -> None:  # noqa: FBT001, FBT002 - gRPC's signature
        """As of a channel: the one to the kernel that calls go to now."""
        self._channel(self._kernels.current).subscribe(callback, try_to_connect)

    def unsubscribe(self, callback: Any) -> None:
        """As of a channel."""
        for channel in tuple(self._channels.values()):
            channel.unsubscribe(callback)

    def close(self) -> None:
        """As of a channel: calls under way end."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            channels, thread = list(self._channels.values()), self._thread
        for channel in channels:
            channel.close()
        if thread is not None and thread is not threading.current_thread():
            thread.join(ASK_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Method:
    def __init__(self, routes: Routes, kind: str, given: tuple[Any, ...], more: dict[str, Any]) -> None:
        self._routes = routes
        self._kind, self._given, self._more = kind, given, more

    def _route(self) -> tuple[str, Any]:
        return self._routes.route(self._kind, self._given, self._more)


class _Unary(_Method):
    def __call__(self, request: Any, **how: Any) -> Any:
        address, method = self._route()
        call = method.future(request, **how)
        with self._under_way(call, address):
            return call.result()

    @contextmanager
    def _under_way(self, call: Any, address: str) -> Iterator[None]:
        self._routes.begin(call, address)
        try:
            yield
        except grpc.FutureCancelledError:
            raise self._routes.moved(address) from None
        except grpc.RpcError as error:
            self._routes.fail(error)
            raise
        except BaseException:
            call.cancel()
            raise
        finally:
            self._routes.end(call)


class _Streaming(_Method):
    def __call__(self, request: Any, **how: Any) -> _Stream:
        address, method = self._route()
        return _Stream(self._routes, method(request, **how), address)


class _Stream:
    """A call whose answers come one after the other."""

    def __init__(self, routes: Routes, call: Any, address: str) -> None:
        self._routes, self._call, self._address = routes, call, address
        routes.begin(call, address)
        if not call.add_callback(self._end):
            self._end()

    def _end(self) -> None:
        if not self._routes.was_moved(self._call):  # else who reads it is told before
            self._routes.end(self._call)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)

    def cancel(self) -> None:
        """As of a call."""
        self._routes.end(self._call)
        self._call.cancel()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        try:
            return next(self._call)
        except grpc.RpcError as error:
            moved = self._routes.was_moved(self._call)
            self._routes.end(self._call)
            if moved:
                raise self._routes.moved(self._address) from None
            self._routes.fail(error)
            raise
