"""Who gives way."""

import random

from inferd.core.ids import TaskId
from inferd.core.priority import Priority
from inferd.core.victims import Victims


def test_the_youngest_of_the_lowest_class_gives_way() -> None:
    """Whatever came and went, what is found is what a look at all tasks finds; protected ones where asked for only."""
    rng = random.Random(7)
    victims, running = Victims(), list[tuple[Priority, bool, TaskId]]()  # in the order of dispatch
    for number in range(2000):
        if running and rng.random() < 0.49:
            priority, _, task_id = running.pop(rng.randrange(len(running)))
            victims.drop(task_id, priority)
        else:
            priority, protected, task_id = rng.choice(list(Priority)), rng.random() < 0.3, TaskId(str(number))
            victims.add(task_id, priority, protected=protected)
            running.append((priority, protected, task_id))
        below, every = rng.randrange(1, 5), rng.random() < 0.5
        lower = [(p, task_id) for p, protected, task_id in running if p < below and (every or not protected)]
        lowest = min(lower, default=None, key=lambda item: item[0])
        expected = None if lowest is None else [item for item in lower if item[0] is lowest[0]][-1]
        assert victims.find(below, protected=every) == expected
