"""The one thread in which a program is initialised, computes and finishes, as it does in Triton."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class Lane:
    """Calls functions in a thread of its own, one after the other. It ends with its process."""

    def __init__(self) -> None:
        self._orders: SimpleQueue[tuple[Callable[..., Any], tuple[Any, ...], Future[Any]]] = SimpleQueue()
        threading.Thread(target=self._run, name="program", daemon=True).start()

    def call(self, function: Callable[..., T], *arguments: Any) -> Future[T]:
        """Have a function called; what it gives or raises is in the future, which can be cancelled until it begins."""
        future: Future[T] = Future()
        self._orders.put((function, arguments, future))
        return future

    def _run(self) -> None:
        asyncio.set_event_loop(asyncio.new_event_loop())  # that programs find when they ask for one
        while True:
            self._do(*self._orders.get())

    @staticmethod
    def _do(function: Callable[..., Any], arguments: tuple[Any, ...], future: Future[Any]) -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            given = function(*arguments)
        except BaseException as error:  # noqa: BLE001 - whoever waits for it decides, and the thread goes on
            future.set_exception(error)
        else:
            future.set_result(given)
