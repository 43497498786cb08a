from array import array
from random import Random

import pytest

from inferd.core.task_events import Logprobs, Output, Phase, Progress, TaskEvent
from inferd.errors import EventsDroppedError
from inferd.runtime.event_log import EventLog, cost_bytes

SCORES = Logprobs(array("I", [1]), array("f", [-1.0]))


def some_events(random: Random, count: int) -> list[TaskEvent]:
    """Mostly plain outputs, of none, one or several tokens; between them others that end a run of them."""
    events: list[TaskEvent] = []
    for number in range(count):
        ids = tuple(range(number, number + random.choice((1, 1, 1, 0, 3))))
        plain = Output(chr(97 + number % 26) * random.choice((1, 0, 2)), ids)
        other = Output(plain.text, ids, random.choice((0, 1)), SCORES if random.random() < 0.5 else None)
        events.append(random.choices((plain, other, Progress(Phase.PREFILL, 0.5)), (20, 1, 1))[0])
    return events


def add(log: EventLog, event: TaskEvent) -> int:
    """Tell an event as the relay does: plain outputs of sample 0 by their tokens."""
    if isinstance(event, Output) and not event.sample and event.logprobs is None:
        return log.add_tokens(event.text, array("I", event.token_ids))
    return log.add(event)


def parts(log: EventLog, after: int) -> list[tuple[int, TaskEvent]]:
    return [(numbered.sequence, numbered.event) for numbered in log.read(after)]


@pytest.mark.parametrize("seed", range(20))
def test_tokens_in_columns_are_read_and_dropped_as_events_are(seed: int) -> None:
    """From every number, before and after any drop, a log reads the same however outputs were told."""
    random = Random(seed)
    columns, objects = EventLog(), EventLog()
    for event in some_events(random, 120):
        assert add(columns, event) == objects.add(event) == cost_bytes(event)
        if random.random() < 0.05:
            target_bytes = random.randrange(columns.size_bytes + 1)
            columns.drop(target_bytes)
            objects.drop(target_bytes)
        held = (columns.dropped, columns.last, columns.size_bytes, columns.newest_bytes)
        assert held == (objects.dropped, objects.last, objects.size_bytes, objects.newest_bytes)
        after = random.randint(columns.dropped, columns.last)
        assert parts(columns, after) == parts(objects, after)
    for after in range(columns.dropped, columns.last + 1):
        assert parts(columns, after) == parts(objects, after)
    if columns.dropped:
        with pytest.raises(EventsDroppedError, match=f"the first one is {columns.dropped + 1}"):
            columns.read(columns.dropped - 1)


def test_the_newest_event_stays() -> None:
    """However much is to be dropped, the newest event is held: a part of a run, or an event of its own."""
    log = EventLog()
    for number in range(5):
        log.add_tokens(str(number), array("I", [number]))
    log.drop(0)
    assert parts(log, 4) == [(5, Output("4", (4,)))]
    assert log.size_bytes == log.newest_bytes
    log.add(Progress(Phase.LOAD, 1.0))
    log.drop(0)
    assert parts(log, 5) == [(6, Progress(Phase.LOAD, 1.0))]
    log.add_tokens("more", array("I", [7]))
    assert parts(log, 6) == [(7, Output("more", (7,)))]
