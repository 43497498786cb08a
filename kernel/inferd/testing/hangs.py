"""Ways to hang, for backends that are to be given up: each keeps its thread for ever."""

import ctypes
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from typing import Final

MUTEX_BYTES: Final = 64  # more than a pthread_mutex_t has; zeros are one that is not locked
TAKEN_BYTES, MOST_TAKEN = 1 << 20, 4096
FOREVER_S: Final = 10.0**6


def _sleep() -> None:
    """As a driver does that waits for a device which does not answer."""
    while True:
        time.sleep(FOREVER_S)


def _spin() -> None:
    """In Python: other threads get their turns."""
    while True:
        pass


def _lock() -> None:
    """A lock of Python that nobody gives back."""
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


def _deadlock(library: ctypes.CDLL) -> None:
    mutex = ctypes.create_string_buffer(MUTEX_BYTES)
    while True:
        library.pthread_mutex_lock(mutex)


def _deadlock_in_c() -> None:
    """In C, with the GIL released: other threads go on."""
    _deadlock(ctypes.CDLL(None))


def _deadlock_with_gil() -> None:
    """In C, with the GIL held: no other thread of Python goes on."""
    _deadlock(ctypes.PyDLL(None))


def _stop() -> None:
    """The whole process."""
    os.kill(os.getpid(), signal.SIGSTOP)


MANNERS: Final[Mapping[str, Callable[[], None]]] = {
    "sleep": _sleep,
    "spin": _spin,
    "lock": _lock,
    "deadlock_in_c": _deadlock_in_c,
    "deadlock_with_gil": _deadlock_with_gil,
    "stop": _stop,
}


def take(what: str) -> None:
    """Take ever more "memory" or "descriptors", up to far more than a test should let it have; "" does nothing."""
    if what == "memory":
        _ = [bytearray(TAKEN_BYTES) for _ in range(MOST_TAKEN)]
    elif what == "descriptors":
        _ = [os.open(os.devnull, os.O_RDONLY) for _ in range(MOST_TAKEN)]


def hang(manner: str) -> None:
    """Hang in one of `MANNERS`; "" does nothing."""
    if manner:
        MANNERS[manner]()
