"""Work of the kernel's own that waits for room."""

from __future__ import annotations

import pytest

from inferd.errors import LimitExceededError, QueueFullError
from inferd.runtime.front import room


class Asked:
    """Refuses so often, then answers."""

    def __init__(self, refusals: int, *, retry_after_s: float | None = 0.0) -> None:
        self.left, self.times, self._retry_after_s = refusals, 0, retry_after_s

    async def ask(self) -> str:
        self.times += 1
        if self.times <= self.left:
            raise QueueFullError("full", retry_after_s=self._retry_after_s)
        return "answer"


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "LEAST_WAIT_S", 0.0)


async def test_what_was_refused_for_want_of_room_is_asked_for_again() -> None:
    """It is asked for until there is room, or as often as it may be."""
    asked = Asked(5)
    assert await room.patiently(asked.ask) == "answer"
    assert await room.patiently(Asked(2).ask, tries=3) == "answer"
    lost = Asked(3)
    with pytest.raises(QueueFullError):
        await room.patiently(lost.ask, tries=3)
    assert (asked.times, lost.times) == (6, 3)


async def test_what_no_waiting_helps_is_raised_at_once() -> None:
    """A refusal that names no time to come again is one for good."""
    asked = Asked(1, retry_after_s=None)
    with pytest.raises((QueueFullError, LimitExceededError)):
        await room.patiently(asked.ask)
    assert asked.times == 1
