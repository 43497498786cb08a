"""How fast calls may be begun: by each connection, and by each principal where connections have no names (sockets)."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from inferd.errors import LimitExceededError

if TYPE_CHECKING:
    from collections.abc import Callable

BURST_S = 2.0  # of calls that may come at once, after as long without one
ROUNDING_S = 1e-6
REMEMBERED = 10_000  # connections; of those that were silent for longest it is forgotten how fast they were


class Rates:
    """Counts the calls that are begun (the generic cell rate algorithm: an instant for each connection, no timers).

    One writer: the door of a transport.

    Args:
        per_s: Calls a second; 0 for no bound.
        now: Seconds that never fall.
    """

    def __init__(self, per_s: float, now: Callable[[], float]) -> None:
        self._per_s = per_s
        self._now = now
        self._due: OrderedDict[str, float] = OrderedDict()

    def take(self, who: str) -> None:
        """One more call is begun.

        Raises:
            LimitExceededError: Too many were, in too short a time; nothing of this one has been looked at.
        """
        if not self._per_s:
            return
        now = self._now()
        due = max(self._due.pop(who, now), now) + 1 / self._per_s
        late_s = due - now - BURST_S - ROUNDING_S
        self._due[who] = due if late_s <= 0 else due - 1 / self._per_s
        if len(self._due) > REMEMBERED:
            self._due.popitem(last=False)
        if late_s > 0:
            raise LimitExceededError(
                f"calls are begun here faster than limits.calls_per_s, {self._per_s:g} a second; send tasks on one call"
                " (RunTasks), or slower",
                metadata={"bound": "limits.calls_per_s", "limit": f"{self._per_s:g}"},
                retry_after_s=late_s,
            )
