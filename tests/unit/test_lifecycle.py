from typing import Any

import pytest

from inferd.core.lease import LEASE_TABLE
from inferd.core.lifecycle import TransitionError, advance, diagram, terminal
from inferd.core.model import INSTANCE_TABLE, MODEL_TABLE, ModelChange, ModelState
from inferd.core.task import TASK_TABLE, TaskChange, TaskState
from inferd.core.version import VERSION_TABLE

TABLES = [TASK_TABLE, LEASE_TABLE, MODEL_TABLE, INSTANCE_TABLE, VERSION_TABLE]


@pytest.mark.parametrize("table", TABLES)
def test_a_table_has_a_row_for_each_state_and_reaches_it(table: Any) -> None:
    """Every state has a row, and every state but the first is reached by some event."""
    states = list(type(next(iter(table))))
    assert set(table) == set(states)
    reached = {after for row in table.values() for after in row.values()}
    assert reached | {states[0]} == set(states)


def test_a_wrong_event_is_one_exception() -> None:
    """An event that the row does not have names the state, the event and what would be taken."""
    with pytest.raises(TransitionError, match="UNLOADED does not take LOADED; it takes LOAD"):
        advance(MODEL_TABLE, ModelState.UNLOADED, ModelChange.LOADED)
    with pytest.raises(TransitionError, match="nothing: it is terminal"):
        advance(TASK_TABLE, TaskState.FAILED, TaskChange.CANCEL)


def test_the_terminal_states_of_a_task_are_four() -> None:
    """A task ends in exactly one of the four terminal states."""
    ends = [state for state in TaskState if terminal(TASK_TABLE, state)]
    assert ends == [TaskState.SUCCEEDED, TaskState.FAILED, TaskState.CANCELLED, TaskState.EXPIRED]


def test_a_diagram_shows_each_transition() -> None:
    """The printed diagram has a line for each transition and an end for each terminal state."""
    text = diagram(TASK_TABLE)
    assert text.count("-->") == sum(len(row) or 1 for row in TASK_TABLE.values())
    assert "QUEUED --> RUNNING: dispatch" in text
