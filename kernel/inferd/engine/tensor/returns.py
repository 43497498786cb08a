"""Tasks of sequences that are suspended: what must not go on before they come again, and which come too late."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeVar

from inferd.errors import TaskStateError

if TYPE_CHECKING:
    from inferd.engine.tensor.ledger import Key
    from inferd.engine.tensor.request import Request, SequenceStep

REMEMBERED: Final = 1024  # of each; the oldest are forgotten

_K = TypeVar("_K")
_V = TypeVar("_V")


@dataclass(slots=True)
class Returns:
    """One writer: the sequences of an instance.

    Args:
        idle_s: A task is waited for so long: its sequence is given up then.
    """

    idle_s: float
    _awaited: OrderedDict[Key, tuple[str, float]] = field(default_factory=OrderedDict)  # the task, and since when
    _late: OrderedDict[str, None] = field(default_factory=OrderedDict)  # their sequence went on without an undoing

    def expect(self, key: Key, task_id: str, now: float) -> None:
        """A task of a sequence is suspended: nothing of the sequence goes before it."""
        if key not in self._awaited:
            remember(self._awaited, key, (task_id, now))

    def miss(self, task_id: str) -> None:
        """What a task did to its sequence cannot be undone: it is not to be done again."""
        remember(self._late, task_id, None)

    def check(self, request: Request, step: SequenceStep, now: float) -> None:
        """A task comes, perhaps again.

        Raises:
            TaskStateError: Its sequence has gone on, or waits for another task.
        """
        if request.task_id in self._late:
            raise TaskStateError(
                f"sequence {step.name[:80]!r} went on before this task, which was suspended, came again; start the"
                " sequence again",
                metadata={"state": "SUSPENDED"},
            )
        awaited, since = self._awaited.get(step.key, ("", now))
        if not awaited:
            return
        if awaited == request.task_id or step.start or now - since >= self.idle_s:
            del self._awaited[step.key]
            if awaited != request.task_id:
                self.miss(awaited)
            return
        raise suspended(step, awaited)


def suspended(step: SequenceStep, task_id: str) -> TaskStateError:
    """That a request comes behind one that is suspended."""
    return TaskStateError(
        f"task {task_id} of sequence {step.name[:80]!r} is suspended, and this one comes behind it; send it when that"
        " one has ended, or start the sequence again",
        metadata={"state": "SUSPENDED", "task_id": task_id},
    )


def remember(among: OrderedDict[_K, _V], key: _K, value: _V) -> None:
    """Note something, and forget what is too much."""
    among[key] = value
    among.move_to_end(key)
    if len(among) > REMEMBERED:
        among.popitem(last=False)
