import asyncio
from typing import Any

import pytest

from inferd.plugin.patience import patience


class Loop(asyncio.SelectorEventLoop):
    """A loop whose clock the test moves on: a jump is a process that was stopped for so long."""

    def __init__(self) -> None:
        super().__init__()
        self.ahead_s = 0.0

    def time(self) -> float:
        return super().time() + self.ahead_s


def run(scene: Any) -> Any:
    """Run a scene on such a loop."""
    with asyncio.Runner(loop_factory=Loop) as runner:
        return runner.run(scene(runner.get_loop()))


def test_the_limit_holds() -> None:
    """What takes longer than its limit is cut off, and what is shorter is not; a limit of another is none of this."""

    async def scene(_: Loop) -> None:
        with pytest.raises(TimeoutError):
            async with patience(0.01):
                await asyncio.Event().wait()
        async with patience(60.0):
            await asyncio.wait_for(asyncio.sleep(0), 60.0)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01), patience(10**6):
                await asyncio.Event().wait()

    run(scene)


@pytest.mark.parametrize("limit_s", [0.05, 1.0, 3600.0])
def test_a_pause_does_not_count(limit_s: float) -> None:
    """After a pause that is longer than the limit the answer that came meanwhile is taken, and time is left for one."""

    async def scene(loop: Loop) -> str:
        async with patience(limit_s):
            loop.ahead_s += 10**5
            answer: asyncio.Future[str] = loop.create_future()
            loop.call_later(0.01, answer.set_result, "late")
            return await answer

    assert run(scene) == "late"


def test_what_hangs_is_cut_off_after_the_pause() -> None:
    """The limit counts on behind a pause."""

    async def scene(loop: Loop) -> None:
        async with patience(0.05):
            loop.ahead_s += 10**5
            await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        run(scene)
