"""The whole kernel in one process: the machine, fake workers and clients, a virtual clock, faults from a seed.

A failing run names its seed; `pytest "tests/sim/test_kernel_machine.py::test_rules_hold[SEED]"` replays it. `make sim`
runs many more and longer ones.
"""

import os
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import get_args

import pytest
import simulation
from rules import BrokenRuleError, Rule
from sabotage import SABOTAGES, SEEDS
from simulation import Simulation

from inferd.core import changes, commands, events
from inferd.core.changes import Change
from inferd.core.commands import Command
from inferd.core.lease import LeaseState
from inferd.core.task import TaskState

SEEDS_OF_ALL = 12  # which meet everything together; `make sim` runs many more
TASK_ENDS = {TaskState.SUCCEEDED, TaskState.FAILED, TaskState.CANCELLED, TaskState.EXPIRED}
LEASE_ENDS = {LeaseState.RELEASED, LeaseState.EXPIRED, LeaseState.REFUSED}
COMMANDS = {kind.__name__ for kind in get_args(Command)} - {"AdoptWorker", "RefuseWorker"}  # those of test_fleet.py
CHANGES = {name for name, kind in vars(changes).items() if isinstance(kind, type) and issubclass(kind, Change)} - {
    "Change",
    "LeaseRestored",
    "ModelForgotten",
    "PastForgotten",
    "ShareChanged",
    "TaskRestored",
}  # no client of the simulation deletes a model, and its kernel is the first and keeps nothing
FAULTS = {
    "preemption", "plan with evictions", "clock jumps", "clock stands still", "late frame", "moved load",
    "host JOINING", "host READY", "host DRAINING", "host LOST",
}  # fmt: skip
REFUSALS = {
    "INVALID_FIELD", "LEASE_ENDED", "LEASE_NOT_FOUND", "LEASE_UNAVAILABLE", "LIMIT_EXCEEDED", "MODEL_BUSY",
    "MODEL_LOAD_FAILED", "MODEL_NOT_FOUND", "NO_MEMORY", "QUEUE_FULL",
    "QUOTA_EXCEEDED", "TASK_EXPIRED", "TASK_NOT_FOUND", "TASK_STATE",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Met:
    """What a run met."""

    refusals: Counter[str]
    seen: Counter[str]
    ends: Counter[TaskState]
    lease_ends: Counter[LeaseState]


@cache
def run(seed: int) -> Met:
    """Run a seed to its end; what it met, not the run, is kept for who asks again."""
    one = Simulation(seed, tasks=400, leases=400).run()
    ends = one.mirror.tasks.ends, one.mirror.leases.ends
    return Met(one.refusals, one.seen, *map(Counter, ends))


@pytest.mark.parametrize("seed", [*range(SEEDS_OF_ALL), 34, 46])  # the last two found something once
def test_rules_hold(seed: int) -> None:
    """Whatever clients, holders, workers, hosts and the clock do, each rule holds, and at last all is given back."""
    run(seed)


def count_due(seed: int, kind: type[events.Event], monkeypatch: pytest.MonkeyPatch) -> int:
    """How many events of a kind in a run the machine takes while something is due."""
    handle, found = Simulation._handle, 0

    def look(self: Simulation, event: events.Event) -> tuple[commands.Reply, ...]:
        nonlocal found
        alarm = self.machine.next_alarm()
        found += isinstance(event, kind) and alarm is not None and alarm <= self.now
        return handle(self, event)

    with monkeypatch.context() as patch:
        patch.setattr(Simulation, "_handle", look)
        Simulation(seed, tasks=200, leases=200).run()
    return found


@pytest.mark.parametrize(
    ("kind", "first"),
    [(events.TaskEnded, 0), (events.ForeignMeasured, 4), (events.HostLeft, 5), (events.WorkerExited, 12)],
)
def test_what_is_due_comes_apart_from_what_takes_something_away(
    kind: type[events.Event], first: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An event that takes something away finds nothing due any more, which it would if the two were not told apart."""
    assert count_due(first, kind, monkeypatch) == 0
    monkeypatch.setattr(simulation, "APART", tuple(each for each in simulation.APART if each is not kind))
    assert any(count_due(seed, kind, monkeypatch) for seed in (first, *range(30)))


@pytest.mark.parametrize(("seed", "count"), [(104, 1000), (141, 4400)])
def test_what_was_due_comes_to_a_host_before_it_is_lost_or_leaves(seed: int, count: int) -> None:
    """Tasks and leases that are due when a host is found to be gone come to it first, and then go with it."""
    one = Simulation(seed, tasks=8000, leases=2000)
    one.run_first(count)
    assert one.events >= count


def test_the_seeds_reach_everything() -> None:
    """The random runs are not idle: together they meet each end, each refusal, each command and each fault."""
    refusals, seen = Counter[str](), Counter[str]()
    ends, lease_ends = Counter[TaskState](), Counter[LeaseState]()
    for met in map(run, range(SEEDS_OF_ALL)):
        refusals += met.refusals
        seen += met.seen
        ends += met.ends
        lease_ends += met.lease_ends
    assert {state for state, count in ends.items() if count > 25} == TASK_ENDS
    assert {state for state, count in lease_ends.items() if count > 25} == LEASE_ENDS
    assert set(refusals) >= REFUSALS
    assert {name for name, count in seen.items() if count > 2} >= {*COMMANDS, *CHANGES, *FAULTS}


def test_a_seed_replays() -> None:
    """The same seed gives the same run in any process, so that a failure can be looked at again."""
    program = (
        "from simulation import Simulation\n"
        "run = Simulation(1, tasks=200, leases=200).run()\n"
        "print(run.now, run.events, sorted(run.seen.items()), sorted(run.refusals.items()))"
    )
    runs = {
        subprocess.run(
            [sys.executable, "-c", program],
            check=True,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parent,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert len(runs) == 1


@pytest.mark.parametrize("name", SABOTAGES)
def test_a_broken_rule_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Breaking a rule on purpose turns the run red, for that rule."""
    sabotage = SABOTAGES[name]
    sabotage.apply(monkeypatch)
    noticed = set[Rule]()
    for seed in (SEEDS.get(name, 0), *range(30)):
        try:
            Simulation(seed, tasks=400, leases=400).run()
        except BrokenRuleError as error:
            noticed.add(error.rule)
        if sabotage.rule in noticed:
            return
    pytest.fail(f"{sabotage.rule} was broken, and only {noticed} noticed")


def test_every_rule_can_be_broken() -> None:
    """There is a switch for each rule: none is checked in vain."""
    assert {sabotage.rule for sabotage in SABOTAGES.values()} == set(Rule)
