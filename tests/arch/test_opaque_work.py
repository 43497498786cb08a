"""The core carries work and does not open it: a new kind of work needs no change there."""

from typing import Any, NoReturn

import pytest
from task_bench import MODEL, TENANT, Bench

from inferd.core import commands, events
from inferd.core.demand import Demand
from inferd.core.ids import TaskId
from inferd.core.task import TaskState
from inferd.errors import PoisonError


class Sealed:
    """Work of a kind that nobody knows: whoever looks into it, compares it or copies it fails."""

    __slots__ = ()

    def _open(self, *_: object) -> NoReturn:
        raise AssertionError("the core looked into work")

    __getattribute__ = __eq__ = __hash__ = __len__ = __iter__ = __bool__ = __repr__ = _open  # type: ignore[assignment]
    __copy__ = __deepcopy__ = __reduce__ = _open  # type: ignore[assignment]


def sent(found: tuple[commands.Command, ...]) -> list[Any]:
    return [command.spec.work for command in found if isinstance(command, commands.SendTask)]


def test_the_seal_holds() -> None:
    """The work that the tests below use cannot be looked into unnoticed."""
    with pytest.raises(AssertionError, match="looked into"):
        _ = Sealed().prompt  # type: ignore[attr-defined]


@pytest.mark.parametrize("end", ["ended", "cancelled", "expired", "poison"])
def test_work_of_any_kind_lives_a_whole_life(end: str) -> None:
    """It waits, runs, is stopped, goes on after a death, and ends in every way; workers get the very object."""
    bench = Bench(places=1)
    work = Sealed()
    bench.submit("before")
    bench.submit("t", work=work, demand=Demand(samples=2, contents=b"c", affinity=b"a"), deadline=1000.0)
    assert bench.states("t") == ["QUEUED"]
    (given,) = sent(bench.end("before"))
    assert given is work
    bench.suspend("t", 1.0)
    (given,) = sent(bench.resume("t", 2.0))
    assert given is work
    bench.die(now=3.0)
    assert bench.states("t") == ["QUEUED"]
    bench.machine.handle(events.Tick(), 100.0)
    given = sent(bench.come_up("m-2", 100.0))[-1]
    assert given is work
    task = bench.machine.tasks.known[TaskId("t")]
    match end:
        case "ended":
            bench.end("t", now=101.0)
        case "cancelled":
            bench.machine.handle(events.CancelTask(TaskId("t"), TENANT), 101.0)
        case "expired":
            bench.machine.handle(events.Tick(), 1000.0)
        case _:
            bench.machine.tasks.known[TaskId("t")].deaths = 2
            bench.die("m-2", 101.0)
            bench.machine.handle(events.Tick(), 300.0)
            bench.come_up("m-3", 300.0)
            bench.machine.handle(events.TaskAlone(TaskId("t"), task.attempt), 301.0)
            bench.die("m-3", 302.0)
            with pytest.raises(PoisonError):
                bench.submit("again", work=Sealed(), demand=Demand(contents=b"c"), now=303.0)
    assert task.state not in {TaskState.QUEUED, TaskState.RUNNING}
    assert task.spec.work is None
    assert task.spec.model == MODEL
