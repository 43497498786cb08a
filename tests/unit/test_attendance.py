import asyncio

import pytest

from inferd.core.ids import TaskId, Tenant
from inferd.runtime.attendance import Attendance
from inferd.runtime.event_budget import EventBudget
from inferd.runtime.stream import TaskStream

TENANT = Tenant("t")


class Ends:
    """Tasks that were cancelled."""

    def __init__(self) -> None:
        self.ids: list[TaskId] = []
        self.attendance = Attendance(cancel=lambda task_id, _: self.ids.append(task_id), detach=lambda *_: None)
        self.stream = TaskStream(TaskId("a"), 1 << 20, EventBudget(1 << 20))

    def come(self, linger_s: float = 0.0) -> None:
        self.attendance.attend(self.stream, TENANT, detached=False, linger_s=linger_s)

    def leave(self, *, lingers: bool = True) -> None:
        self.attendance.leave(self.stream, TENANT, lingers=lingers)


@pytest.fixture
def ends() -> Ends:
    return Ends()


async def test_last_to_come_says_how_long_a_task_lingers(ends: Ends) -> None:
    """A task that was taken up on a new call ends with it, though the end of the broken one is seen later."""
    ends.come(linger_s=60)
    ends.come()
    ends.leave()
    assert not ends.ids
    ends.leave()
    assert ends.ids == ["a"]


async def test_an_earlier_end_does_not_cut_a_later_one_short(ends: Ends) -> None:
    """Whoever comes back and goes again leaves the task for as long as he said, whatever time was running before."""
    ends.come(linger_s=0.001)
    ends.leave()
    ends.come(linger_s=60)
    ends.leave()
    over = asyncio.Event()
    asyncio.get_running_loop().call_later(0.02, over.set)
    await asyncio.wait_for(over.wait(), 60)
    assert not ends.ids


async def test_who_leaves_on_purpose_waits_for_nobody(ends: Ends) -> None:
    """A tag that is left, rather than broken off, ends its task at once."""
    ends.come(linger_s=60)
    ends.leave(lingers=False)
    assert ends.ids == ["a"]
