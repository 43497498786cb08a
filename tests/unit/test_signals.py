"""Signals by key."""

import asyncio

from inferd.runtime.signal import Signals


async def test_a_change_wakes_those_who_watch_its_key() -> None:
    """A change wakes each watcher of its key once, also one that watches several keys, and no other."""
    signals: Signals[str] = Signals()
    with signals.watch("a") as one, signals.watch("a", "b", "a") as both, signals.watch("c") as other:
        waits = [asyncio.create_task(signal.wait(0)) for signal in (one, both, other)]
        await asyncio.sleep(0)
        signals.notify("a")
        signals.notify("nobody's")
        assert await asyncio.wait_for(asyncio.gather(*waits[:2]), 60) == [1, 1]
        signals.notify("b")
        assert (one.version, both.version, other.version) == (1, 2, 0)
        assert not waits[2].done()
        signals.notify_all()
        assert await asyncio.wait_for(waits[2], 60) == 1
    assert not signals._watchers


async def test_a_change_before_the_wait_is_not_lost() -> None:
    """What changes between the beginning of a watch and its first wait ends that wait at once."""
    signals: Signals[int] = Signals()
    with signals.watch(1) as changed:
        signals.notify(1)
        assert await asyncio.wait_for(changed.wait(0), 60) == 1


async def test_a_watch_ends_with_its_block() -> None:
    """One that is cancelled while it waits leaves the others of its key as they were."""
    signals: Signals[int] = Signals()

    async def wait() -> int:
        with signals.watch(1) as changed:
            return await changed.wait(0)

    gone, stays = asyncio.create_task(wait()), asyncio.create_task(wait())
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    signals.notify(1)
    assert await asyncio.wait_for(stays, 60) == 1
    assert not signals._watchers
