import asyncio

import pytest

from inferd.runtime.alarm import Alarm


@pytest.mark.parametrize("earlier", [False, True])
async def test_an_alarm_rings_at_the_last_instant_that_was_set(*, earlier: bool) -> None:
    """It rings once, at the instant that was set last and not before, be that earlier or later than those before it."""
    loop = asyncio.get_running_loop()
    rung: list[float] = []
    done = asyncio.Event()

    def ring() -> None:
        rung.append(loop.time())
        done.set()

    alarm = Alarm(ring)
    now = loop.time()
    instants = [now + 3600.0, now + 0.01] if earlier else [now + 0.001, now + 0.002, now + 0.05]
    for instant in instants:
        alarm.set(instant)
    await asyncio.wait_for(done.wait(), 60)
    assert len(rung) == 1
    assert rung[0] >= instants[-1] - 1e-3  # the resolution of the loop's clock


async def test_an_alarm_that_was_taken_back_never_rings() -> None:
    """None takes back what was set, also where it had been put off."""
    loop = asyncio.get_running_loop()
    rung: list[float] = []
    alarm = Alarm(lambda: rung.append(loop.time()))
    for instant in (0.001, 0.002, None):
        alarm.set(None if instant is None else loop.time() + instant)
    later = asyncio.Event()
    loop.call_later(0.02, later.set)
    await asyncio.wait_for(later.wait(), 60)
    assert rung == []
