"""The tasks that a client has open on one call, each under a tag of its own."""

from collections.abc import Sequence
from dataclasses import dataclass

from inferd.core.ids import TaskId
from inferd.core.task import TaskSpec
from inferd.errors import InferdError
from inferd.runtime.bundle import BATCH_BYTES, Bundle, Followed
from inferd.runtime.event_log import Numbered
from inferd.runtime.front.caller import Caller
from inferd.runtime.front.tasks import Tasks
from inferd.runtime.stream import TaskStream


@dataclass(slots=True, kw_only=True)
class Open:
    """A tag that is open.

    Attributes:
        stream: What is followed under it.
        runs: Whether the life of the task hangs on it.
        named: Whether the client has been told the task's id.
    """

    stream: TaskStream
    runs: bool
    named: bool = False


Told = tuple[int, TaskId | None, Sequence[Numbered]]
"""Of a tag: the id of its task, where the client has not been told before, and events in their order."""


class OpenTasks:
    """Runs and follows many tasks, each as if it were alone. One writer: the call that has them open.

    Args:
        tasks: Runs them.
        caller: Whose they are.
        message_limit_bytes: Largest message; `collect` gives about `BATCH_BYTES` at most, and no more than that.

    Attributes:
        come: Waits until there is something to tell, or for `wake`.
        room: Waits until there are few enough refusals that were not told yet.
        wake: Lets `come` return, though there may be nothing.
        left: How many tags there are of which something is to come.
    """

    def __init__(self, tasks: Tasks, caller: Caller, *, message_limit_bytes: int = BATCH_BYTES) -> None:
        self._tasks = tasks
        self._caller = caller
        self._places = tasks.streams  # each tag that is open takes one of its tenant
        self._bundle = Bundle(min(BATCH_BYTES, message_limit_bytes))
        self._open: dict[int, Open] = {}
        self.come, self.room, self.wake = self._bundle.come, self._bundle.room, self._bundle.wake
        self.left = self._bundle.__len__

    def __contains__(self, tag: int) -> bool:
        return tag in self._open or self._bundle.refuses(tag)

    async def run(self, tag: int, spec: TaskSpec, *, interval_s: float, linger_s: float) -> None:
        """Make a task, or find the one that the same `request_id` made, whose life hangs on this tag.

        Args:
            tag: Is free.
            spec: The task.
            interval_s: Least time from output to output, see `TaskStream.follow`.
            linger_s: For how long the task goes on when this call breaks.

        Raises:
            InferdError: The task is refused.
        """
        self._places.take(self._caller.tenant)
        try:
            stream = await self._tasks.begin(spec, linger_s=linger_s)
        except BaseException:
            self._places.give_back(self._caller.tenant)
            raise
        self._follow(tag, stream, runs=True, interval_s=interval_s)

    async def watch(
        self, tag: int, task_id: TaskId, *, after: int, interval_s: float, adopt: bool = False, linger_s: float = 0.0
    ) -> None:
        """Follow a task from behind event number `after`; with `adopt` its life hangs on this tag, too.

        Raises:
            TaskNotFoundError, InvalidFieldError, LimitExceededError: As `Tasks.watch`.
        """
        stream = await self._tasks.find(task_id, self._caller, after=after)
        self._places.take(self._caller.tenant)
        if adopt:
            self._tasks.adopt(stream, self._caller.tenant, linger_s=linger_s)
        self._follow(tag, stream, runs=adopt, interval_s=interval_s, after=after)

    def _follow(self, tag: int, stream: TaskStream, *, runs: bool, interval_s: float, after: int = 0) -> None:
        self._open[tag] = Open(stream=stream, runs=runs)
        self._bundle.follow(Followed(tag=tag, stream=stream, after=after, interval_s=interval_s))

    async def cancel(self, tag: int) -> None:
        """End the task under a tag, if there is one."""
        if tag in self._bundle:
            await self._tasks.cancel(self._bundle.stream(tag).task_id, self._caller)

    def stop(self, tag: int, *, stopped: bool) -> None:
        """Tell nothing of a tag for now, or all that there is of it again."""
        self._bundle.stop(tag, stopped=stopped)

    def refuse(self, tag: int, error: InferdError) -> None:
        """Tell an error under a tag that was not opened; until then it is not free."""
        self._bundle.refuse(tag, error)

    def leave(self, tag: int, *, lingers: bool = True) -> None:
        """Follow a tag no longer; the task under it may end with that."""
        self._bundle.leave(tag)
        opened = self._open.pop(tag, None)
        if opened is not None:
            self._places.give_back(self._caller.tenant)
            if opened.runs:
                self._tasks.leave(opened.stream, self._caller.tenant, lingers=lingers)

    def close(self) -> None:
        """Follow nothing any more: the call is over, or broken."""
        for tag in tuple(self._open):
            self.leave(tag)

    def collect(self) -> tuple[list[Told], list[tuple[int, InferdError]]]:
        """What there is to tell, once: events, and the errors that end a tag. A tag whose last word is here is free."""
        given, refused = self._bundle.collect()
        told: list[Told] = []
        for followed, batch in given:
            tag, opened = followed.tag, self._open[followed.tag]
            told.append((tag, None if opened.named else opened.stream.task_id, batch))
            opened.named = opened.named or bool(batch)
            if tag not in self._bundle:  # that was the last event
                self.leave(tag)
        for tag, _ in refused:  # before it was opened, or because it was too slow
            self.leave(tag)
        return told, refused
