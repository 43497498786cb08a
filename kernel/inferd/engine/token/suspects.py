"""Tasks at which workers have died: each has steps of its own, until it has told something new."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable

    from inferd.engine.token.batcher import Batcher
    from inferd.engine.token.samples import Samples
    from inferd.engine.token.sequence import Sequence
    from inferd.engine.token.step import Step


class Suspects:
    """Whose turn it is to run alone. One writer: the thread of the steps.

    A turn comes behind a step for all others, if there is one, and lasts until each sample of the task has told
    something new: so the others wait for one turn at most. If the worker dies meanwhile, it is known of what.

    Args:
        batcher: Makes the steps.
        aside: Sequences that wait for something else than a place.
    """

    def __init__(self, batcher: Batcher, aside: Container[Sequence]) -> None:
        self._batcher = batcher
        self._aside = aside
        self._tasks: dict[int, Samples] = {}  # by handle, first to last
        self._silent: set[Sequence] = set()  # samples of the one whose turn it is that have told nothing new
        self._turn: int | None = None  # its handle
        self._rested = True  # whether the others have had a step since the last turn

    def __len__(self) -> int:
        return len(self._tasks)

    def may_join(self, handle: int) -> bool:
        """Whether the samples of a task may have a place: it is no suspect, or has its turn."""
        return handle not in self._tasks or handle == self._turn

    def add(self, task: Samples) -> None:
        """A task is to run alone; it has no place before its turn."""
        self._tasks[task.leader.handle] = task

    def part(self, tasks: Iterable[Samples]) -> None:
        """The session refused a step for these tasks, and nobody knows which of them is to blame: each runs alone."""
        for task in tasks:
            for sequence in task.living:
                self._batcher.places.take_out(sequence)
            self.add(task)

    def drop(self, handle: int) -> None:
        """A task has ended, or has told something new; nothing to do for one that is not known."""
        self._tasks.pop(handle, None)
        if self._turn == handle:
            self._turn, self._rested = None, False

    def schedule(self, ordinary: Callable[[], Step | None]) -> Step | None:
        """The next step: for the one whose turn it is, or for all others."""
        if self._turn is None:
            step = ordinary() if self._rested is False or not self._tasks else None
            if step is not None or not self._tasks:
                self._rested = True
                return step
        return self._schedule_alone() or ordinary()

    def _schedule_alone(self) -> Step | None:
        """A step of a turn, which may begin with it; None where there is no room, even if others give way."""
        handle = next(iter(self._tasks)) if self._turn is None else self._turn
        task, places = self._tasks[handle], self._batcher.places
        if self._turn is None:
            for sequence in task.ready:
                if sequence not in self._aside:
                    places.add(sequence)
        step = self._batcher.schedule_alone(handle)
        if step is not None:
            self._silent = set(task.living) if self._turn is None else self._silent
            self._turn = handle
            return step
        if self._turn is not None:  # what is left of it finds no room alone, so it goes on like others
            self.drop(handle)
            return None
        for sequence in task.ready:
            places.remove(sequence)
        del self._tasks[handle]
        self._tasks[handle] = task  # behind the others
        self._turn = None
        return None

    def told(self, step: Step) -> None:
        """A step gave tokens to the sequences that it sampled."""
        if step.alone is not None and step.alone == self._turn:
            self._silent.difference_update(step.sampled)
            if not self._silent:
                self.drop(step.alone)
