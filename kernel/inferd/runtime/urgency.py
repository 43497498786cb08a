"""How long a new event may wait to be told together with others."""

from enum import IntEnum

from inferd.core.task_events import Output, Queued, Started, TaskEvent, TensorOutput
from inferd.runtime.event_log import Entry, Run

MOMENT_S = 0.05
"""For so long the beginning of a task may wait for what comes behind it: each message costs as much as a small task.

People do not see it, and small tasks come within it even to a kernel that has as much to do as it can.
"""


class Urgency(IntEnum):
    """How long that is."""

    AT_ONCE = 1
    MOMENT = 2  # `MOMENT_S`
    INTERVAL = 3  # as long as its reader said


PUT_OUT = (Output, TensorOutput)
"""What a task gives piece by piece: a reader may say how long to wait from one to the next."""

_KNOWN = {**dict.fromkeys(PUT_OUT, Urgency.INTERVAL), Queued: Urgency.MOMENT, Started: Urgency.MOMENT}


def urgency_of(kind: type[TaskEvent]) -> Urgency:
    """Of events of a kind."""
    return _KNOWN.get(kind, Urgency.AT_ONCE)


def entry_urgency(entry: Entry) -> Urgency:
    """Of what a stream has told."""
    return Urgency.INTERVAL if isinstance(entry, Run) else urgency_of(type(entry.event))
