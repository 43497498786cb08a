"""A bounded line in which one waits for a turn."""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from inferd.errors import LimitExceededError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

MOST_OF_ONE = 2  # turns that one has or waits for: one that broke off may not be over yet


class Turns:
    """Gives so many turns at once; who comes meanwhile waits in a line, in the order of coming. One writer: the loop.

    Args:
        name: Of the bound of turns, for example "hosts.fetches".
        limit: Most turns at once.
        line_name: Of the bound of the line.
        line_limit: Most that wait; more are told to come again.
        what: What is counted, in words.
        retry_after_s: When those are to come again.
    """

    def __init__(
        self, name: str, limit: int, *, line_name: str, line_limit: int, what: str, retry_after_s: float
    ) -> None:
        self._name = name
        self._limit = limit
        self._line_name = line_name
        self._line_limit = line_limit
        self._what = what
        self._retry_after_s = retry_after_s
        self._open = 0
        self._line: OrderedDict[asyncio.Future[None], None] = OrderedDict()
        self._of = Counter[str]()

    @asynccontextmanager
    async def turn(self, who: str, *, waits: bool = True) -> AsyncIterator[Turn]:
        """A turn, which may have to be waited for, until the block ends.

        Args:
            who: Whose it is.
            waits: Whether to be in the line; else one that is not free at once is refused.

        Raises:
            LimitExceededError: There is none, and no place in the line.
        """
        if self._of[who] >= MOST_OF_ONE:
            raise self._refused(f"{who!r} has {self._of[who]} {self._what}, of which one may have {MOST_OF_ONE}")
        if self._open >= self._limit and (not waits or len(self._line) >= self._line_limit):
            raise self._refused(
                f"{self._open} {self._what} are open and {self._name} is {self._limit}; {len(self._line)} wait, and"
                f" {self._line_name} is {self._line_limit}"
            )
        given: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._of[who] += 1
        if self._open < self._limit:
            self._open += 1
            given.set_result(None)
        else:
            self._line[given] = None
        try:
            yield Turn(given, self._line)
        finally:
            self._of[who] -= 1
            if not self._of[who]:
                del self._of[who]
            if given in self._line:
                del self._line[given]
            else:
                self._open -= 1
                self._give()

    def _give(self) -> None:
        if self._line:
            following, _ = self._line.popitem(last=False)
            self._open += 1
            following.set_result(None)

    def _refused(self, why: str) -> LimitExceededError:
        facts = {"bound": self._name, "value": str(self._open), "limit": str(self._limit)}
        return LimitExceededError(f"{why}; come again", metadata=facts, retry_after_s=self._retry_after_s)


class Turn:
    """One that was given, or is waited for."""

    def __init__(self, given: asyncio.Future[None], line: OrderedDict[asyncio.Future[None], None]) -> None:
        self._given = given
        self._line = line

    @property
    def ahead(self) -> int:
        """How many wait in the line, at most, before this one is served; 0 once it is its turn."""
        return 0 if self._given.done() else len(self._line)

    async def wait(self, limit_s: float) -> bool:
        """Wait for it, for so long at most; whether it has come."""
        await asyncio.wait({self._given}, timeout=limit_s)
        return self._given.done()
