"""The thread of the store: one thing after the other, writes first, and no end of the kernel waits for one that hangs.

What comes behind its end is refused: who waits for it may be a call that ends late, and would wait for ever.

What is written is waited for by all tenants, and is one write at a time; what is read, a page at a time, by one client.
"""

from __future__ import annotations

from concurrent.futures import Executor, Future
from itertools import count
from queue import PriorityQueue
from threading import Lock, Thread
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from inferd.core.ending import RETRY_AFTER_S
from inferd.errors import ShuttingDownError

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
T = TypeVar("T")
FIRST, NEXT = 0, 1
Work = tuple[Future[Any], "Callable[[], Any]"]


class StoreThread(Executor):
    """Like a pool of one thread, but a process ends without it.

    Attributes:
        first: The same thread, for what goes before all that waits there otherwise.
    """

    def __init__(self, name: str = "store") -> None:
        self._work: PriorityQueue[tuple[int, int, Work | None]] = PriorityQueue()
        self._count = count()  # breaks ties in the order of coming
        self._closing = Lock()  # nothing is put behind the end
        self._ended = False
        self.first = _First(self)
        Thread(target=self._run, name=name, daemon=True).start()

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Do this when what came before is done."""
        return self.put(NEXT, lambda: fn(*args, **kwargs))

    def put(self, order: int, do: Callable[[], T]) -> Future[T]:
        """Do this when what came before with the same order is done, and all of a lower one.

        Behind the end it fails with ShuttingDownError.
        """
        future: Future[T] = Future()
        with self._closing:
            if not self._ended:
                self._work.put((order, next(self._count), (future, do)))
                return future
        future.set_exception(ShuttingDownError("the kernel is shutting down", retry_after_s=RETRY_AFTER_S))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: ARG002, FBT001, FBT002 - the library's signature
        """End behind what there is to do; nobody waits for that."""
        with self._closing:
            self._ended = True
            self._work.put((NEXT, next(self._count), None))

    def _run(self) -> None:
        while (work := self._work.get()[2]) is not None:
            future, do = work
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(do())
            except BaseException as error:  # noqa: BLE001 - it is told to who waits
                future.set_exception(error)
            del work, future, do


class _First(Executor):
    def __init__(self, thread: StoreThread) -> None:
        self._thread = thread

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Do this when what is under way is done, and what came here before."""
        return self._thread.put(FIRST, lambda: fn(*args, **kwargs))
