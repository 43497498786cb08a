"""Whether a worker gets on, on a clock of the test."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from inferd.core.vigil import LOADING, STEPPING, Doing, Pulse, Vigil, WorkerTimes
from inferd.engine.activity import Activity

TIMES = WorkerTimes(
    start_timeout_s=20.0,
    load_silence_s=60.0,
    heartbeat_s=1.0,
    heartbeat_timeout_s=10.0,
    step_floor_s=20.0,
    step_ceiling_s=300.0,
    stop_timeout_s=3.0,
)


class Watched:
    """A worker that answers as the test says, and the clock of both."""

    def __init__(self, times: WorkerTimes = TIMES) -> None:
        self.now = 100.0
        self.vigil = Vigil(times, self.now)
        self.activity = Activity(lambda: self.now)

    def beat(self, *, answers: bool = True, after_s: float = 1.0, steps: int = 0) -> str:
        """The next beat; what was answered meanwhile came just before it."""
        self.now += after_s
        if answers:
            self.vigil.hear(self.now)
            self.vigil.feel(self.activity.pulse(steps))
        return self.vigil.beat(self.now)

    def lasts(self, most: int, *, answers: bool = True, steps: int = 0) -> tuple[int, str]:
        """How many beats it survives, and why it was given up."""
        for count in range(most):
            if why := self.beat(answers=answers, steps=steps):
                return count, why
        return most, ""


def test_silence_is_counted_by_what_it_may_be() -> None:
    """A worker is given up when it was silent for longer than it may be, and not before."""
    watched = Watched()
    watched.vigil.allow_silence(10.0, watched.now)
    assert watched.lasts(10, answers=False) == (10, "")
    assert watched.beat(answers=False) == "it was silent for 11.0 s, longer than the 10 s that it may be"


def test_a_step_that_never_ends_is_seen_though_it_answers() -> None:
    """The first step of its size has the ceiling, a later one ten times the usual, never less than the floor."""
    watched = Watched()
    watched.activity.begin(Doing.STEP, 8)
    count, why = watched.lasts(1000, steps=16)
    assert (count, why) == (300, "step 17 has run for 301.0 s (limit 300 s)")

    def measured(step_s: float) -> int:
        watched = Watched()
        watched.activity.begin(Doing.STEP, 8)
        assert watched.lasts(int(step_s)) == (int(step_s), "")
        watched.now += step_s % 1
        watched.activity.begin(Doing.IDLE)
        watched.activity.begin(Doing.STEP, 8)
        return watched.lasts(1000)[0]

    assert [measured(step_s) for step_s in (0.001, 2.0, 5.0, 100.0)] == [20, 20, 50, 300]


def test_steps_of_another_size_are_measured_apart() -> None:
    """After quick steps of one token the first with a prompt still has the ceiling; each kind has its own measure."""
    watched = Watched()
    for _ in range(3):
        watched.activity.begin(Doing.STEP, 1)
        watched.now += 0.01
    watched.activity.begin(Doing.STEP, 512)
    assert watched.lasts(300) == (300, "")
    watched.activity.begin(Doing.COPY, 1)
    assert watched.lasts(1000, steps=4) == (300, "copy_blocks before step 5 has run for 301.0 s (limit 300 s)")


def test_one_slow_step_is_forgotten() -> None:
    """A step that compiled for 60 s allows the ceiling at first, and the floor after some hundred quick ones."""
    watched = Watched()
    activity, usual = watched.activity, []
    for seconds in (60.0, *[0.01] * 400):
        activity.begin(Doing.STEP, 4)
        watched.now += seconds
        usual.append(activity.pulse(0).usual_s)
    assert usual[0] is None
    assert usual[1] == 60.0
    assert usual[-1] is not None
    assert usual[-1] < 2.0


@pytest.mark.parametrize("doing", sorted(LOADING))
def test_a_load_that_gets_on_may_last(doing: Doing) -> None:
    """A load lives as long as it gets on, however long it takes; one that does not is given up by the silence."""
    watched = Watched()
    watched.activity.begin(doing)
    for _ in range(20):
        assert watched.lasts(50) == (50, "")
        watched.activity.advance()
    count, why = watched.lasts(100)
    assert count == 60
    assert "61.0 s (limit 60 s)" in why


@pytest.mark.parametrize("doing", sorted({*Doing} - LOADING - STEPPING))
def test_waiting_has_no_limit(doing: Doing) -> None:
    """A worker that waits for memory, for work or for the kernel to read may do so for ever."""
    watched = Watched()
    watched.activity.begin(doing)
    assert watched.lasts(100_000) == (100_000, "")


def test_steps_that_end_are_no_hang() -> None:
    """A hundred steps, each of which lasts for nearly the limit, judge nobody."""
    watched = Watched(replace(TIMES, step_ceiling_s=16.0))
    for _ in range(100):
        watched.activity.begin(Doing.STEP, 8)
        assert watched.lasts(16) == (16, "")


def test_a_busy_machine_is_given_time() -> None:
    """Where beats come late, a step that lasts longer by the clock is not given up before it was asked often enough."""
    watched = Watched()
    watched.activity.begin(Doing.STEP, 8)
    for _ in range(300):
        assert watched.beat(after_s=2.9) == ""
    assert "limit 300 s" in watched.beat(after_s=2.9)


def test_answers_that_come_all_at_once_are_one() -> None:
    """A worker that answers a hundred questions in one burst has not been seen a hundred times in its step."""
    watched = Watched(replace(TIMES, step_ceiling_s=10.0))
    watched.activity.begin(Doing.STEP, 8)
    watched.vigil.allow_silence(10**6, watched.now)
    for _ in range(20):
        assert watched.beat(answers=False) == ""
    for _ in range(100):
        watched.vigil.feel(watched.activity.pulse(0))
    assert watched.beat() == ""


@pytest.mark.parametrize("answers", [True, False])
def test_a_kernel_that_was_stopped_judges_nobody(answers: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """After a pause of any length everything is counted anew: each worker is asked again and has its whole time."""
    watched = Watched()
    watched.vigil.allow_silence(10.0, watched.now)
    watched.activity.begin(Doing.STEP, 8)
    for pause_s in (13.0, 3600.0, 10.0**6):
        assert watched.lasts(10, answers=answers) == (10, "")
        assert watched.beat(answers=False, after_s=pause_s) == ""
        assert watched.lasts(10, answers=answers) == (10, "")
        watched.vigil.hear(watched.now)
    assert watched.lasts(1000, answers=answers)[1]


def test_a_machine_that_was_stopped_judges_nobody() -> None:
    """A virtual machine that stood still for an hour in the middle of a step goes on with it."""
    watched = Watched()
    watched.activity.begin(Doing.STEP, 8)
    watched.beat()
    watched.now += 3600.0
    assert watched.lasts(299) == (299, "")


def test_beats_farther_apart_than_the_limit() -> None:
    """With a heartbeat that is longer than the limits, nobody is judged before it was asked."""
    watched = Watched(replace(TIMES, heartbeat_s=30.0))
    watched.vigil.allow_silence(10.0, watched.now)
    watched.now += 29.9
    watched.vigil.hear(watched.now)
    assert watched.beat(answers=False, after_s=0.1) == ""
    assert watched.beat(answers=False, after_s=30.0)


def ticks() -> Iterator[float]:
    now = 0.0
    while True:
        yield now
        now += 1.0


def test_turns_rise() -> None:
    """Whatever begins or gets on is a turn of its own; what it takes is read from the clock."""
    clock = ticks()
    activity = Activity(lambda: next(clock))
    turns = [activity.pulse(0)]
    activity.begin(Doing.LOAD)
    turns.append(activity.pulse(0))
    activity.advance()
    turns.append(activity.pulse(7))
    assert [pulse.turn for pulse in turns] == [0, 1, 2]
    assert turns[-1] == Pulse(doing=Doing.LOAD, turn=2, seconds=1.0, usual_s=None, steps=7)
