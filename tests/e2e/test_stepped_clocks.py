"""Leases over a kill and a real step of the wall clock, as `make chaos CLOCKS=20` does it for longer."""

from pathlib import Path

import pytest
from clock_ordeal import figures
from clocks import STEPS, Round, library, live

pytestmark = pytest.mark.e2e


@pytest.mark.skipif(library() is None, reason="libfaketime is not installed: pip install libfaketime")
def test_a_stepped_clock_changes_nothing_of_what_is_left_of_a_lease(tmp_path: Path) -> None:
    """Ten years on while it is held, and for the next kernel, which holds it for as long as it had."""
    stepper = library()
    assert stepper is not None
    found = live(tmp_path, stepper, STEPS["ten years on"], ttl_s=600.0, waits=False)
    assert (found.wrong(), found.held) == ([], True)


def test_what_is_wrong_with_a_lease_is_told() -> None:
    """One that was another's before its time or is held too long, and a token that is not higher, are seen."""
    assert Round(left_s=2.0, bounds_s=(1.9, 2.1), early_s=-0.1, tokens=(1, 2)).wrong() == []
    assert len(Round(left_s=2.0, bounds_s=(2.1, 2.2), early_s=0.1, tokens=(2, 2)).wrong()) == 3


def test_what_no_kernel_could_give_is_told_apart() -> None:
    """A lease that ended while no kernel served is none that came late: how long that was, and what came, is told."""
    rounds = [
        Round(left_s=2.0, bounds_s=(1.9, 2.1), late_s=0.1),
        Round(left_s=2.0, bounds_s=(1.9, 2.1), late_s=0.4),
        Round(left_s=0.0, bounds_s=(-3.0, -2.9), late_s=0.5, unserved_s=2.9),
    ]
    told = figures(rounds, 0)
    assert (told["late"], told["late_max_s"]) == (1, 0.4)
    assert told["not_serving"] == {"rounds": 1, "for_at_most_s": 2.9, "late": 1, "late_max_s": 0.5}
