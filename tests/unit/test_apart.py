"""What is computed for one task between two steps."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from inferd.engine.activity import Activity
from inferd.engine.token import apart
from inferd.engine.token.apart import Apart
from inferd.engine.token.sources import Sources
from inferd.engine.work import Attributed
from inferd.plugin import Attribution

TOOK_S = 5.0


class Slow:
    """A session that takes long to tell what tokens are worth."""

    attributions = frozenset({Attribution.GRADIENTS})

    def __init__(self) -> None:
        self.now = 100.0

    def attribute(self, asked: Any) -> Any:
        self.now += TOOK_S
        return np.zeros(len(asked.token_ids) - asked.told, np.float32)


def test_what_tokens_are_worth_leaves_half_of_the_time_to_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside tasks that write, as much time passes between two as one took; where none does, they follow each other."""
    session: Any = Slow()
    activity, told = Activity(), list[int]()
    monkeypatch.setattr(apart, "monotonic", lambda: session.now)
    ways: Any = dict.fromkeys(("announce", "fail", "start"))
    computed = Apart(
        session, Sources(session, activity), activity, tell=lambda task, _: told.append(task.leader.handle), **ways
    )
    computed._attributing._session = session  # which has no more of a session than it needs
    asked = Attributed(method=Attribution.GRADIENTS, told=1, places=(0,), baseline_id=0, at=1.0)
    submission: Any = SimpleNamespace(source=None, attributed=asked, alone=False)
    for handle in range(4):
        leader = SimpleNamespace(handle=handle, prompt=np.arange(3), priority=0)
        task: Any = SimpleNamespace(leader=leader)
        assert computed.put(task, submission)
    for waited_s, beside, known in (
        (0.0, True, [0]),
        (0.0, True, [0]),
        (TOOK_S - 1, True, [0]),
        (1.0, True, [0, 1]),
        (0.0, False, [0, 1, 2]),
        (0.0, True, [0, 1, 2]),
        (TOOK_S, True, [0, 1, 2, 3]),
    ):
        session.now += waited_s
        computed.see_to(beside=beside)
        assert told == known
