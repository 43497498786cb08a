"""How long a kernel that is away is waited for, and asked again."""

from __future__ import annotations

import math
import os
import time
from typing import TYPE_CHECKING, Final

from inferd_client.errors import KernelUnreachableError, NotLeaderError, ShuttingDownError

if TYPE_CHECKING:
    from collections.abc import Callable

    from inferd_client.errors import InferdError

PASSING: Final = (KernelUnreachableError, NotLeaderError, ShuttingDownError)
"""Ends of a call, behind which there may be another kernel."""
PAUSE_S: Final = 0.1  # between two tries
LONGEST_TIMEOUT_S: Final = 1e8  # three years; not long beyond it gRPC's own count of time overflows
PATIENCE_S: Final = 30.0  # from when it was found away, where the environment says nothing else
VARIABLE: Final = "INFERD_PATIENCE_S"


def read_patience_s() -> float:
    """How long a kernel that is away is waited for, in seconds; "inf" for as long as it takes.

    Raises:
        ValueError: The variable of the environment holds no such time.
    """
    said = os.environ.get(VARIABLE, "")
    try:
        patience_s = float(said or PATIENCE_S)
    except ValueError:
        patience_s = math.nan
    if not patience_s >= 0:
        raise ValueError(f"{VARIABLE} is {said[:40]!r}; it must be a number of seconds from 0 on, like 120, or inf")
    return patience_s


def waited(error: InferdError, patience_s: float, more: str = "") -> InferdError:
    """The same error of a kernel that was waited for in vain, with how to wait for longer."""
    if not isinstance(error, KernelUnreachableError):
        return error
    told = KernelUnreachableError(
        f"{error.message}; it was waited for {patience_s:g} s ({VARIABLE}){more}",
        metadata=error.metadata,
        retry_after_s=error.retry_after_s,
    )
    told.unsent = error.unsent
    return told


class Patience:
    """Asked after each failure whether to try again.

    Args:
        heard: Whether a kernel that says nothing from the start is waited for, too.
    """

    def __init__(self, *, heard: bool = True) -> None:
        self._waits = heard
        self._patience_s = read_patience_s()
        self._lost_at: float | None = None

    def heard(self) -> None:
        """The kernel has said something."""
        self._waits, self._lost_at = True, None

    def check(self, error: InferdError) -> None:
        """Give up where another try is no use, or they have gone on for long.

        Raises:
            InferdError: The error.
        """
        now = time.monotonic()
        self._lost_at = now if self._lost_at is None else self._lost_at
        if not self._waits or not isinstance(error, PASSING):
            raise error
        if now - self._lost_at > self._patience_s:
            raise waited(error, self._patience_s)


def bounded_s(timeout_s: float | None) -> float | None:
    """A deadline as gRPC takes it: None where it is later than anybody waits."""
    return None if timeout_s is None or timeout_s > LONGEST_TIMEOUT_S else timeout_s


def left_of(timeout_s: float | None) -> Callable[[], float | None]:
    """What tells how much is left of a deadline that begins now, over all tries of a call; None for no end."""
    bounded, began = bounded_s(timeout_s), time.monotonic()
    return lambda: None if bounded is None else max(0.0, began + bounded - time.monotonic())
