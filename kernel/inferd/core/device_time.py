"""How much of a device's time a task took: of one that computes several each has an equal part.

Each instance has a clock that runs the slower, the more tasks it has; what passes of it while a task is there is that
one's part. So the parts of all come to the time in which the instance had any, and each event costs the same, whatever
the number of tasks (virtual time: A. Demers, S. Keshav, S. Shenker, SIGCOMM 1989).
"""

from inferd.core.model import Instance
from inferd.core.task import Task


def begin(task: Task, instance: Instance, now: float) -> None:
    """A task comes to an instance, which does not count it yet."""
    _turn(instance, now)
    task.share_mark = instance.share_s


def end(task: Task, instance: Instance, now: float) -> float:
    """A task leaves an instance, which still counts it; its part in seconds, which is in `task.device_s` then, too."""
    _turn(instance, now)
    seconds = max(0.0, instance.share_s - task.share_mark)
    task.device_s += seconds
    return seconds


def _turn(instance: Instance, now: float) -> None:
    if instance.running:
        instance.share_s += (now - instance.share_at) / len(instance.running)
    instance.share_at = now
