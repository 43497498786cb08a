"""A new version takes a part of the new tasks first, by steps, and all of them go back to the old one if it is worse.

A step gives the new version a share of the tasks that are handed out: every n-th, counted, so that the same tasks in
the same order are shared alike. It takes those only while it has a free place: no task waits for a step, but for one of
all tasks. Tasks that go on, tasks of sequences and those of leases stay with the old version.

What counts of a task: its first token once it is told, whatever becomes of the task; its time between two tokens when
it ends well; itself, as one of the step's tasks, when it has ended on the new version, also where somebody cancels it
between two tokens or its deadline comes. One that is given up before its first token counts only if it was late then.

A bound is passed when the step could not hold it any more, even if all that is left of its least number of tasks went
well: so what is plainly worse goes back at once, and one slow task of twenty does not decide. A task that has no first
token behind a bound of that is slow, whether it still runs or somebody has ended it: who gives up is no reason to wait.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from math import ceil, inf, nextafter
from typing import TYPE_CHECKING, NamedTuple

from inferd.core.task import Task, TaskState
from inferd.errors import CanaryFailedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from inferd.core.ids import TaskId
    from inferd.core.version import Version

MOST_PACES = 256  # of tasks that ended last, for each version
SLOW_SHARE = 0.05  # of tasks that may be slower than a bound: it is one of the 95th percentile
LEAST_COMPARED = 20  # tasks, of each version, by which is judged in the middle of a step


GIVEN_UP = frozenset({TaskState.CANCELLED, TaskState.EXPIRED})


class Pace(NamedTuple):
    """How fast a task came, from when it was handed to an instance: times in seconds, None where there was no such."""

    first_s: float | None = None
    token_s: float | None = None  # between two tokens, in the mean of the task


NO_PACE = Pace()


@dataclass(frozen=True, slots=True)
class CanaryStep:
    """A share of new tasks, above 0 to 1, until so many have ended on the new version, and for so many seconds."""

    share: float
    tasks: int
    least_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Canary:
    """By which steps a version comes to serve, and what must hold meanwhile.

    Attributes:
        steps: One at least, of rising shares.
        failed: Most of its tasks that fail, as a fraction; what is refused for what it is given is no failure.
        first_ratio: Most time to the first token, 95th percentile, as a multiple of that of the old version.
        first_s: The same in seconds.
        token_ratio: Most time between two tokens, 95th percentile, as a multiple of that of the old version.
        token_s: The same in seconds.
    """

    steps: tuple[CanaryStep, ...]
    failed: float = 0.0
    first_ratio: float | None = None
    first_s: float | None = None
    token_ratio: float | None = None
    token_s: float | None = None


@dataclass(slots=True)
class Ended:
    """Tasks of one version that have ended in a step, and how many of them failed."""

    tasks: int = 0
    failed: int = 0

    def count(self, *, failed: bool) -> None:
        """One more has."""
        self.tasks += 1
        self.failed += failed


class Awaited(NamedTuple):
    """A task that the new version was handed at an instant of the kernel's clock, and has given no output yet."""

    task: Task
    sent: float

    def is_behind(self, limit_s: float, at: float) -> bool:
        """Whether its first token, at that instant or later, is later than it may be."""
        return at >= self.sent + limit_s


@dataclass(slots=True, kw_only=True)
class Steps:
    """How far a version has come. One writer: `Rollouts`, and the dispatcher for what it hands out.

    Attributes:
        terms: By which steps.
        began: When this step did, on the kernel's clock in seconds.
        number: Of this step, from 1.
        sent: Tasks of this step that were handed to the new version.
        passed_by: Those that were handed to the old one.
        new: Those that have ended on the new version.
        old: Those that have ended on the old one.
        paces: Of tasks of this step that ended well on the new version, or had no first token when they were late.
        awaited: Those of the new version that have given no output yet.
        begun: Those that have, and whose first token has been counted.
    """

    terms: Canary
    began: float
    number: int = 1
    sent: int = 0
    passed_by: int = 0
    new: Ended = field(default_factory=Ended)
    old: Ended = field(default_factory=Ended)
    paces: deque[Pace] = field(default_factory=lambda: deque(maxlen=2 * MOST_PACES))  # of a task up to two
    awaited: dict[TaskId, Awaited] = field(default_factory=dict)
    begun: dict[TaskId, Task] = field(default_factory=dict)

    @property
    def step(self) -> CanaryStep:
        """The step that it is at."""
        return self.terms.steps[self.number - 1]

    @property
    def takes_all(self) -> bool:
        """Whether all new tasks are for the new version."""
        return self.step.share >= 1.0

    @property
    def due(self) -> bool:
        """Whether the next task is for the new version."""
        return self.takes_all or self.sent + 1 <= self.step.share * (self.sent + self.passed_by + 1)

    def count_sent(self, task: Task, now: float, *, new: bool) -> None:
        """A task is handed out."""
        self.sent += new
        self.passed_by += not new
        if new:
            self.awaited[task.spec.task_id] = Awaited(task, now)

    def count_begun(self, task_id: TaskId, now: float) -> None:
        """A task of the new version has given its first output."""
        if (awaited := self.awaited.pop(task_id, None)) is not None:
            self.begun[task_id] = awaited.task
            self.paces.append(Pace(now - awaited.sent))

    def count_ended(self, task: Task, pace: Pace, *, failed: bool) -> None:
        """The new version has ended a task, which came so fast if it ended well."""
        self.awaited.pop(task.spec.task_id, None)
        if self.begun.pop(task.spec.task_id, None) is not None:
            pace = Pace(token_s=pace.token_s)
        self.new.count(failed=failed)
        self.paces += (pace,) if task.state is TaskState.SUCCEEDED else ()

    def count_left(self, now: float, limit_s: float) -> None:
        """See which tasks were taken from the new version: what was late by then has ended there, slowly.

        What was not tells nothing of the version: it counts as none of its tasks. One that had begun has ended there,
        unless it goes on elsewhere.
        """
        for task_id, task in tuple(self.begun.items()):
            if task.state is not TaskState.RUNNING or task.attempt != 1:
                del self.begun[task_id]
                if task.state in GIVEN_UP:
                    self.new.count(failed=False)
        for task_id, awaited in tuple(self.awaited.items()):
            task = awaited.task
            if task.state is TaskState.RUNNING and task.attempt == 1:
                continue
            del self.awaited[task_id]
            left = now if task.finished is None else task.finished
            if awaited.is_behind(limit_s, left):
                self.new.count(failed=False)
                self.paces.append(Pace(max(left - awaited.sent, nextafter(limit_s, inf))))

    def next_late(self, now: float, limit_s: float) -> float | None:
        """When the next awaited task is late; None for never."""
        dues = [each.sent + limit_s for each in self.awaited.values() if not each.is_behind(limit_s, now)]
        return min(dues, default=None) if limit_s < inf else None

    def is_over(self, now: float) -> bool:
        """Whether the step has had its tasks and its time."""
        return self.new.tasks >= self.step.tasks and now >= self.began + self.step.least_s

    def move_on(self, now: float) -> bool:
        """Begin the next step; whether there is one."""
        if self.number >= len(self.terms.steps):
            return False
        self.number, self.began, self.sent, self.passed_by = self.number + 1, now, 0, 0
        self.new, self.old = Ended(), Ended()
        self.paces.clear()
        return True


@dataclass(frozen=True, slots=True)
class Passed:
    """A bound that does not hold: its name in `inferd.v1.Canary`, the most that it allows, and what was found."""

    name: str
    limit: str
    found: str


def first_limit_s(terms: Canary, old: Sequence[Pace]) -> float:
    """The least time to the first token that a bound does not allow, beside the old version's paces; else infinite."""
    limit_s = inf if terms.first_s is None else terms.first_s
    if terms.first_ratio is not None and (old_s := p95(old, first=True)) is not None:
        limit_s = min(limit_s, terms.first_ratio * old_s)
    return limit_s


def find_passed(steps: Steps, old: Sequence[Pace], now: float, *, over: bool) -> Passed | None:
    """The first bound that a step does not hold, beside the old version's paces; `over` where it is at its end."""
    return next(_passed(steps, old, now, over=over), None)


def _passed(steps: Steps, old: Sequence[Pace], now: float, *, over: bool) -> Iterator[Passed]:
    terms, new = steps.terms, steps.new
    least = steps.step.tasks if over else max(steps.step.tasks, LEAST_COMPARED)
    if new.failed > terms.failed * max(new.tasks, least):
        yield Passed("most_failed", f"{terms.failed:.3g} of its tasks", f"{new.failed} of {new.tasks}")
    for name, ratio, limit_s, value in (
        ("first_token", terms.first_ratio, terms.first_s, _first),
        ("token", terms.token_ratio, terms.token_s, _token),
    ):
        told = [*_times(steps.paces, value)]
        awaited = [*steps.awaited.values()] if value is _first else []
        if limit_s is not None and _is_slow(times := told + _late(awaited, limit_s, now), limit_s, least):
            yield Passed(f"most_{name}", _ms(limit_s), _ms(present_p95(times)))
        olds = [*_times(old, value)]
        if ratio is not None and len(olds) >= (1 if over else LEAST_COMPARED):
            old_s = present_p95(olds)
            if _is_slow(times := told + _late(awaited, ratio * old_s, now), ratio * old_s, least):
                yield Passed(
                    f"{name}_ratio",
                    f"{ratio:g} times {_ms(old_s)} of the old version",
                    _ms(present_p95(times)),
                )


def _is_slow(times: Sequence[float], limit_s: float, least: int) -> bool:
    slow = sum(time_s > limit_s for time_s in times)
    return slow > SLOW_SHARE * max(len(times), min(least, MOST_PACES))


def _late(awaited: Iterable[Awaited], limit_s: float, now: float) -> list[float]:
    """How long those have waited for their first token that are late, in seconds: at least so long it will be."""
    return [max(now - each.sent, nextafter(limit_s, inf)) for each in awaited if each.is_behind(limit_s, now)]


def _first(pace: Pace) -> float | None:
    return pace.first_s


def _token(pace: Pace) -> float | None:
    return pace.token_s


def _times(paces: Iterable[Pace], value: Callable[[Pace], float | None]) -> Iterator[float]:
    return (time_s for pace in paces if (time_s := value(pace)) is not None)


def p95(paces: Iterable[Pace], *, first: bool) -> float | None:
    """The 95th percentile of times to the first token, or between two tokens, in seconds; None without any."""
    times = [*_times(paces, _first if first else _token)]
    return present_p95(times) if times else None


def present_p95(times: Sequence[float]) -> float:
    """The least time that 95 of 100 do not exceed; there is one."""
    return sorted(times)[ceil((1 - SLOW_SHARE) * len(times)) - 1]


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.4g} ms"


def canary_failed(name: str, version: Version, steps: Steps, passed: Passed) -> CanaryFailedError:
    """Why a version of a model takes no tasks any more."""
    step, new = steps.step, steps.new
    return CanaryFailedError(
        f"version {version.number} of model {name!r} was taken back at step {steps.number} of {len(steps.terms.steps)}"
        f" ({step.share:g} of new tasks): {passed.name} allows {passed.limit}, and it is {passed.found}, after"
        f" {new.tasks} tasks, of which {new.failed} failed",
        metadata={
            "version": str(version.number),
            "step": str(steps.number),
            "share": f"{step.share:g}",
            "bound": passed.name,
            "limit": passed.limit,
            "found": passed.found,
            "tasks": str(new.tasks),
            "failed": str(new.failed),
        },
    )
