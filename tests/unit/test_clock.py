"""What the kernel after this one makes of instants that it reads, whatever the wall clock did meanwhile."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferd.runtime.clock import BOOT_ID, Boot, Clock, this_boot
from inferd.runtime.kept_times import instant_of, read_shift, wall_of, write_stamp

HOUR, TEN_YEARS = 3600.0, 3650 * 86_400.0
STEPS = [0.0, HOUR, -HOUR, TEN_YEARS, -TEN_YEARS]
FIRST, SECOND = Boot("first", 0.0), Boot("second", 0.0)


def clock(instant: float, wall: float, boot: Boot = FIRST) -> Clock:
    return Clock(monotonic=lambda: instant, wall=lambda: wall, boot=boot, confirmed=lambda: False)


def kept(instant: float, writer: Clock) -> dict[str, Any]:
    return {"at": wall_of(instant, writer), "stamp": write_stamp(writer)}


def read(written: dict[str, Any], reader: Clock) -> float:
    instant = instant_of(written["at"], reader, read_shift(written, reader))
    assert instant is not None
    return instant


@pytest.mark.parametrize("step", STEPS)
@given(passed=st.floats(0, 1e6), at=st.floats(-1e6, 1e6))
def test_in_one_boot_no_step_of_the_wall_clock_moves_an_instant(step: float, passed: float, at: float) -> None:
    """The next kernel of the same boot has an instant where it was, to the microsecond, however the clock was set."""
    written = kept(5000.0 + at, clock(5000.0, 1.8e9))
    assert read(written, clock(5000.0 + passed, 1.8e9 + passed + step)) == pytest.approx(5000.0 + at, abs=2e-6)


@pytest.mark.parametrize("step", STEPS)
@given(passed=st.floats(0, 8e4), up=st.floats(0, 1e4), left=st.floats(0, 1e6))
def test_after_another_boot_nothing_lasts_for_longer_than_it_was(
    step: float, passed: float, up: float, left: float
) -> None:
    """As much is left as a clock that can be believed says, at most what was left, less the time since the start."""
    written = kept(5000.0 + left, clock(5000.0, 1.8e9))
    reader = clock(up, 1.8e9 + passed + step, SECOND)
    remains = read(written, reader) - up
    assert remains <= left - up + 2e-6
    if step == 0 and passed >= up:
        assert remains == pytest.approx(left - passed, abs=2e-6)
    if step == HOUR:
        assert remains == pytest.approx(left - max(up, passed + step), abs=2e-6)
    if step == TEN_YEARS:  # a day is the most that is believed
        assert remains == pytest.approx(left - up, abs=2e-6)


def test_a_clock_that_was_set_while_a_kernel_ran_is_taken_as_it_was_when_it_was_written() -> None:
    """After another boot counts what passed since the write by the wall clock of then, not by that of the start."""
    wall = [1.8e9 - TEN_YEARS]  # a machine whose clock is set after its start
    writer = Clock(monotonic=lambda: 50.0, wall=lambda: wall[0], boot=FIRST)
    wall[0] += TEN_YEARS
    written = kept(80.0, writer)
    assert read(written, clock(4.0, 1.8e9 + 10, SECOND)) == pytest.approx(4.0 + 20.0, abs=2e-6)


def test_an_unknown_boot_is_never_the_same() -> None:
    """Without a name of the boot only the wall clock tells."""
    written = kept(5010.0, clock(5000.0, 1.8e9, Boot("")))
    assert read(written, clock(9000.0, 1.8e9 + 4, Boot(""))) == pytest.approx(9006.0, abs=2e-6)


def test_a_monotonic_clock_that_has_gone_back_is_another_one() -> None:
    """A machine that was set back to an earlier state has the name of its boot, and is told by its clock."""
    written = kept(5010.0, clock(5000.0, 1.8e9))
    assert read(written, clock(4000.0, 1.8e9 + 4, Boot("first"))) == pytest.approx(4006.0, abs=2e-6)


def test_what_has_no_stamp_is_read_by_the_wall_clock() -> None:
    """Records of a version that wrote no stamps have their Unix times."""
    assert read({"at": 1.8e9}, clock(700.0, 1.8e9 + 5)) == pytest.approx(695.0, abs=2e-6)


def test_the_boot_of_this_system_is_known() -> None:
    """It has the name that the system gives it, and is the same when it is asked for again."""
    if not BOOT_ID.exists():
        pytest.skip("this system does not name its boots")
    assert this_boot() == this_boot()
    assert re.match(r"[0-9a-f]{8}-", this_boot().name)
    began = this_boot().began
    assert began is not None
    assert began <= Clock().now()
