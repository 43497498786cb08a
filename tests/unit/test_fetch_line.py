"""A bounded line in which hosts wait for their turn to be given files."""

import asyncio
from typing import Any

import pytest
from time_limits import LONG_S

from inferd.errors import LimitExceededError
from inferd.runtime.front.turns import Turns


def turns(limit: int = 1, line: int = 3) -> Turns:
    return Turns(
        "hosts.fetches", limit, line_name="hosts.fetch_line", line_limit=line, what="streams", retry_after_s=5.0
    )


async def test_turns_come_in_the_order_of_coming_and_those_who_leave_are_passed_over() -> None:
    """One has the turn, the others wait; whoever gives up leaves the line, and a turn goes on to the next one."""
    given, said = turns(), list[str]()

    async def take(who: str, ends: asyncio.Event) -> None:
        async with given.turn(who) as turn:
            while not await turn.wait(0.001):
                assert 1 <= turn.ahead <= 3
            assert turn.ahead == 0
            said.append(who)
            await ends.wait()

    ends = {who: asyncio.Event() for who in "abcd"}
    tasks: dict[str, Any] = {}
    for who in "abcd":
        tasks[who] = asyncio.create_task(take(who, ends[who]))
        await asyncio.sleep(0)
    tasks["b"].cancel()
    for who in "ac":
        ends[who].set()
        await tasks[who]
    ends["d"].set()
    await tasks["d"]
    assert said == ["a", "c", "d"]
    async with asyncio.timeout(LONG_S), given.turn("e") as turn:
        assert await turn.wait(LONG_S)


async def test_whom_the_line_does_not_hold_is_told_to_come_again() -> None:
    """Beyond the line, or without waiting, one is refused with both bounds and when to ask again; so is who has two."""
    given = turns(line=1)
    async with given.turn("a"):
        with pytest.raises(LimitExceededError, match=r"hosts\.fetches is 1; 0 wait, and hosts\.fetch_line is 1"):
            async with given.turn("b", waits=False):
                pass
        async with given.turn("a"):
            for who in ("a", "b"):
                with pytest.raises(LimitExceededError, match="come again") as caught:
                    async with given.turn(who):
                        pass
                assert caught.value.retry_after_s == 5.0
    assert (dict(given._of), dict(given._line), given._open) == ({}, {}, 0)
