"""Who has his turn next of those who wait for what there is little of: by class, then by tenant."""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from inferd.engine.token.submission import NO_SHARE
from inferd.engine.token.virtual_time import VirtualTime

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from inferd.core.ids import Tenant
    from inferd.engine.token.submission import Share

MOST_PASSED: Final = 16
"""Turns in a row that a class may see given to those above it; then its next one goes first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Whose something is.

    Attributes:
        priority: Its class; the highest goes first.
        share: Its tenant, and the weight of that.
    """

    priority: int = 0
    share: Share = NO_SHARE


NO_STANDING = Standing()
"""Of what is nobody's in particular."""


class Ticket:
    """Of who waits, and then has a turn. One writer: its `Gate`.

    Args:
        standing: Whose it is.

    Attributes:
        standing: As given.
        start: The virtual start of its turn.
    """

    def __init__(self, standing: Standing) -> None:
        self.standing = standing
        self.start = 0.0


AnyTicket = TypeVar("AnyTicket", bound=Ticket)


class Gate(Generic[AnyTicket]):
    """Turns, of which there are few.

    The highest class goes first; in a class the tenant that had the fewest turns for its weight (`VirtualTime`); of a
    tenant who came first. No tenant has more than `each` turns, and the last one is for a tenant that has none: however
    much one tenant asks for, the first of another does not wait for that. A class that was passed `MOST_PASSED` times
    goes first once.

    Its user sees to it that one thread at a time uses it.

    Args:
        most: Turns at once.
        each: Turns of one tenant at once.
    """

    def __init__(self, *, most: int, each: int) -> None:
        self._most = most
        self._each = each
        self._lines: dict[tuple[int, Tenant], OrderedDict[AnyTicket, None]] = {}  # by class and tenant
        self._turns: Counter[Tenant] = Counter()
        self._taken = 0
        self._time = VirtualTime()
        self._passed: Counter[int] = Counter()

    def __len__(self) -> int:
        """How many wait."""
        return sum(map(len, self._lines.values()))

    def __iter__(self) -> Iterator[AnyTicket]:
        """Those that wait."""
        return iter([ticket for line in self._lines.values() for ticket in line])

    def wait(self, ticket: AnyTicket) -> None:
        """Have a ticket wait for its turn."""
        self._lines.setdefault(_line(ticket), OrderedDict())[ticket] = None

    def withdraw(self, ticket: AnyTicket) -> bool:
        """Let a ticket wait no longer; False when it does not."""
        line = self._lines.get(_line(ticket))
        if line is None or ticket not in line:
            return False
        del line[ticket]
        if not line:
            del self._lines[_line(ticket)]
        return True

    def next(self, fits: Callable[[AnyTicket], bool] = lambda _: True) -> AnyTicket | None:
        """Give the next one its turn; None where nobody can have one.

        Args:
            fits: Whether there is what else a ticket needs; those behind it in its line wait with it.
        """
        for line in sorted(self._lines, key=self._order):
            ticket = next(iter(self._lines[line]))
            if self._may(line[1]) and fits(ticket):
                self.withdraw(ticket)
                self._begin(ticket)
                return ticket
        return None

    def end(self, ticket: AnyTicket) -> None:
        """A turn is over."""
        tenant = ticket.standing.share.tenant
        self._taken -= 1
        self._turns[tenant] -= 1
        if not self._turns[tenant]:
            del self._turns[tenant]
        self._time.end(ticket.start)

    def _may(self, tenant: Tenant) -> bool:
        turns, free = self._turns[tenant], self._most - self._taken
        return free > 0 and (not turns or (turns < self._each and free > 1))

    def _order(self, line: tuple[int, Tenant]) -> tuple[float, float]:
        priority, tenant = line
        first = self._passed[priority] >= MOST_PASSED
        return (-math.inf if first else -priority, self._time.next_start(tenant))

    def _begin(self, ticket: AnyTicket) -> None:
        share, priority = ticket.standing.share, ticket.standing.priority
        self._taken += 1
        self._turns[share.tenant] += 1
        ticket.start = self._time.start(share.tenant, 1 / share.weight)
        waiting = {other for other, _ in self._lines if other < priority}
        self._passed = Counter({other: self._passed[other] + 1 for other in waiting} | self._kept(priority))

    def _kept(self, priority: int) -> dict[int, int]:
        """How often classes above one were passed: this turn changes nothing of that."""
        return {other: passed for other, passed in self._passed.items() if other > priority}


def _line(ticket: Ticket) -> tuple[int, Tenant]:
    return ticket.standing.priority, ticket.standing.share.tenant
