"""State tables: `{state: {event: state}}`. A terminal state has an empty row; a wrong event is one exception."""

from collections.abc import Mapping
from enum import Enum
from typing import TypeVar

S = TypeVar("S", bound=Enum)
E = TypeVar("E", bound=Enum)
Table = Mapping[S, Mapping[E, S]]


class TransitionError(Exception):
    """An event that the state's row does not have: a defect of the caller."""


def advance(table: Table[S, E], state: S, event: E) -> S:
    """The state after `event`.

    Raises:
        TransitionError: The row of `state` has no such event.
    """
    try:
        return table[state][event]
    except KeyError:
        allowed = ", ".join(e.name for e in table[state]) or "nothing: it is terminal"
        raise TransitionError(f"{state.name} does not take {event.name}; it takes {allowed}") from None


def terminal(table: Table[S, E], state: S) -> bool:
    """Whether no event leaves `state`."""
    return not table[state]


def diagram(table: Table[S, E]) -> str:
    """The table as Mermaid text, for the documentation."""
    lines = ["stateDiagram-v2"]
    for state, row in table.items():
        lines += [f"    {state.name} --> {after.name}: {event.name.lower()}" for event, after in row.items()]
        lines += [] if row else [f"    {state.name} --> [*]"]
    return "\n".join(lines)
