"""The whole kernel in one process: the machine, fake workers and clients, a virtual clock, faults from a seed.

A failing run names its seed; `pytest "tests/sim/test_kernel_machine.py::test_rules_hold[SEED]"` replays it. `make sim`
runs many more and longer ones.
"""

from collections import Counter

import pytest
from rules import BrokenRuleError, Rule
from sabotage import SABOTAGES, Sabotage
from simulation import Simulation

from inferd.core.task import TaskState

ENDS = {TaskState.SUCCEEDED, TaskState.FAILED, TaskState.CANCELLED, TaskState.EXPIRED}


@pytest.mark.parametrize("seed", range(60))
def test_rules_hold(seed: int) -> None:
    """Whatever clients, holders, workers and the clock do, every rule holds after each event, and all is given back."""
    Simulation(seed, tasks=400, leases=400).run()


def test_the_seeds_reach_every_refusal_and_every_end() -> None:
    """The random runs are not idle: together they meet each end of a task and each refusal of the machine."""
    refusals, ends, grants = Counter[str](), Counter[TaskState](), 0
    for seed in range(20):
        simulation = Simulation(seed, tasks=400, leases=400).run()
        refusals += simulation.refusals
        ends += simulation.mirror.tasks.ends
        grants += simulation.mirror.leases.grants
    assert set(ends) == ENDS
    assert min(ends.values()) > 50
    assert grants > 1000
    assert set(refusals) >= {
        "INVALID_FIELD", "LEASE_ENDED", "LEASE_NOT_FOUND", "LEASE_UNAVAILABLE", "MODEL_BUSY", "MODEL_LOAD_FAILED",
        "MODEL_NOT_FOUND", "NO_MEMORY", "QUEUE_FULL", "TASK_EXPIRED", "TASK_NOT_FOUND", "TASK_STATE",
    }  # fmt: skip


@pytest.mark.parametrize("seed", range(3))
def test_a_seed_replays(seed: int) -> None:
    """The same seed gives the same run, so that a failure can be looked at again."""

    def run() -> tuple[float, int, Counter[TaskState], Counter[str]]:
        simulation = Simulation(seed, tasks=200, leases=200).run()
        return simulation.now, simulation.events, simulation.mirror.tasks.ends, simulation.refusals

    assert run() == run()


@pytest.mark.parametrize("sabotage", [pytest.param(sabotage, id=name) for name, sabotage in SABOTAGES.items()])
def test_a_broken_rule_is_noticed(sabotage: Sabotage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Breaking a rule on purpose turns the run red, for that rule."""
    sabotage.apply(monkeypatch)
    noticed = set[Rule]()
    for seed in range(30):
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
