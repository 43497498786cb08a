"""How long a kernel that is away is waited for, and asked again."""

from __future__ import annotations

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
PATIENCE_S: Final = 30.0  # from when it was found away


class Patience:
    """Asked after each failure whether to try again.

    Args:
        heard: Whether a kernel that says nothing from the start is waited for, too.
    """

    def __init__(self, *, heard: bool = True) -> None:
        self._waits = heard
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
        if not self._waits or not isinstance(error, PASSING) or now - self._lost_at > PATIENCE_S:
            raise error


def bounded_s(timeout_s: float | None) -> float | None:
    """A deadline as gRPC takes it: None where it is later than anybody waits."""
    return None if timeout_s is None or timeout_s > LONGEST_TIMEOUT_S else timeout_s


def left_of(timeout_s: float | None) -> Callable[[], float | None]:
    """What tells how much is left of a deadline that begins now, over all tries of a call; None for no end."""
    bounded, began = bounded_s(timeout_s), time.monotonic()
    return lambda: None if bounded is None else max(0.0, began + bounded - time.monotonic())
