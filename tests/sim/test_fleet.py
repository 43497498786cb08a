"""The kernel machine with many hosts that come, are cut off and go under load; `make sim` has ten thousand of them."""

import pytest
from failovers import Failovers
from fleet import Fleet
from rules import BrokenRuleError, Rule

from inferd.core.atlas import Atlas
from inferd.core.broker import Broker
from inferd.core.ids import TaskId
from inferd.core.resources import MemoryNeed
from inferd.core.task import Task, TaskState
from inferd.core.tasks import Tasks


def test_rules_hold_with_many_hosts() -> None:
    """Tasks end once, attempts are one at a time, and instances are where they may be, whatever happens to hosts."""
    seen = Fleet(7, hosts=120, tasks=800).run().seen
    assert seen["SUCCEEDED"] == 800
    assert min(seen["losses"], seen["starts"], seen["late words"]) > 0


def test_a_late_word_that_is_heard_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that takes the end of whichever attempt for that of the one that runs is stopped by the history."""

    def any_attempt(tasks: Tasks, task_id: TaskId, _attempt: int) -> Task | None:
        task = tasks.known.get(task_id)
        return task if task is not None and task.state is TaskState.RUNNING else None

    monkeypatch.setattr(Tasks, "_running", any_attempt)
    with pytest.raises(BrokenRuleError, match=r"attempt . of t.* was accepted") as caught:
        Fleet(7, hosts=120, tasks=3000).run()
    assert caught.value.rule is Rule.ATTEMPT


def test_a_broken_rule_is_noticed_among_many_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that passes over selectors is stopped by that rule."""
    monkeypatch.setattr(Atlas, "selected", lambda *_: -1)
    with pytest.raises(BrokenRuleError) as caught:
        Fleet(7, hosts=100, tasks=3000).run()
    assert caught.value.rule is Rule.PLACEMENT


def test_rules_hold_where_workers_outlive_their_kernels() -> None:
    """Kernels follow each other: kept workers are adopted, nothing is held twice, and each task ends once."""
    seen = Failovers(3, hosts=60, tasks=600).run().seen
    assert seen["SUCCEEDED"] + seen["refused MODEL_LOAD_FAILED"] == 600  # before a host of theirs has joined again
    assert min(seen["kernels"], seen["adopted"], seen["not adopted"], seen["joins with workers"]) > 0


def test_memory_that_is_given_twice_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that reserves nothing for what it adopts is stopped by that rule."""
    take_over = Broker.take_over
    monkeypatch.setattr(
        Broker, "take_over", lambda broker, *which: take_over(broker, *which[:2], MemoryNeed(weights_bytes=0))
    )
    with pytest.raises(BrokenRuleError) as caught:
        Failovers(3, hosts=60, tasks=600).run()
    assert caught.value.rule is Rule.MEMORY
