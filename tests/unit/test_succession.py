"""When a kernel that stands by may try to lead."""

from hypothesis import given
from hypothesis import strategies as st

from inferd.core.succession import Step, Succession

GRACE_S, SILENCE_S, LOOK_S = 1.0, 2.5, 0.25


def looks(*seen: tuple[int, float | None], every_s: float = LOOK_S) -> list[Step]:
    """What comes of looks, one after the other: who has the lock, and how old what the leader told is."""
    succession = Succession(GRACE_S, SILENCE_S)
    return [
        succession.look(100.0 + every_s * number, holder=holder, age_s=age_s)
        for number, (holder, age_s) in enumerate(seen)
    ]


def test_a_leader_that_was_killed_is_followed_within_its_grace() -> None:
    """Its lock is free at once; a moment is left to one whose connection alone was cut."""
    steps = looks(*((0, age_s) for age_s in (0.2, 0.45, 0.7, 0.95, 1.2)))
    assert steps == [Step.WAIT] * 4 + [Step.TRY]


def test_a_leader_that_has_its_lock_again_is_let() -> None:
    """One that lost its connection, tells of itself and has the lock a beat later leads on."""
    assert set(looks((7, 0.1), (0, 0.3), (0, 0.1), (8, 0.3), (8, 0.1))) == {Step.WAIT}


def test_a_leader_that_tells_of_itself_and_has_no_lock_is_followed_in_time() -> None:
    """One that cannot have its connection back, though it lives, leads no more after the silence."""
    steps = looks(*[(0, 0.1)] * 12)
    assert steps.index(Step.TRY) * LOOK_S == SILENCE_S


def test_a_leader_that_is_silent_is_ended_and_then_followed_at_once() -> None:
    """As one that was stopped, which has its lock for as long as its connection lasts."""
    ages = [LOOK_S * number for number in range(1, 12)]
    steps = looks(*((7, age_s) for age_s in ages), (0, 3.0))
    assert steps == [Step.WAIT] * 10 + [Step.END, Step.TRY]


def test_who_was_held_up_itself_counts_anew() -> None:
    """A kernel that did not look for long finds an old word of a leader that may tell the next one at any moment."""
    succession = Succession(GRACE_S, SILENCE_S)
    assert succession.look(100.0, holder=7, age_s=0.1) is Step.WAIT
    assert succession.look(200.0, holder=7, age_s=99.0) is Step.WAIT
    assert succession.look(200.25, holder=7, age_s=0.1) is Step.WAIT
    succession.blind()
    assert succession.look(200.5, holder=0, age_s=None) is Step.WAIT


def test_a_silent_leader_is_ended_though_each_look_takes_long() -> None:
    """As by a store that answers slowly: some looks that are far apart are enough, and one behind a pause is not."""
    for every_s in (0.6 * SILENCE_S, 2 * SILENCE_S):
        steps = looks(*((7, 0.1 + every_s * number) for number in range(8)), every_s=every_s)
        assert steps.index(Step.END) == 4
    succession = Succession(GRACE_S, SILENCE_S)
    assert succession.look(100.0, holder=7, age_s=0.4) is Step.WAIT
    waits = [succession.look(160.0 + LOOK_S * number, holder=7, age_s=60.4 + LOOK_S * number) for number in range(9)]
    assert waits.index(Step.END) * LOOK_S >= SILENCE_S / 2, "who was paused as well has some beats to say so"


def test_words_are_new_where_the_clock_behind_them_is_another() -> None:
    """After a database took over whose clock is behind, a leader's first late word is heard, and it is not ended."""
    succession = Succession(GRACE_S, SILENCE_S)
    assert succession.look(1000.0, holder=7, age_s=0.1) is Step.WAIT
    succession.blind()
    for number in range(20):  # it tells of itself: each word is new
        assert succession.look(900.0 + LOOK_S * number, holder=7, age_s=0.1) is Step.WAIT
    assert succession.look(905.0, holder=7, age_s=SILENCE_S + 0.1) is Step.WAIT


def test_who_was_held_up_follows_where_the_lock_is_still_free() -> None:
    """A kernel whose looks are slow does not wait for ever; one that could not see its store leaves the lock anew."""
    succession = Succession(GRACE_S, SILENCE_S)
    assert succession.look(100.0, holder=0, age_s=None) is Step.WAIT
    assert succession.look(102.0, holder=0, age_s=None) is Step.TRY
    succession.blind()
    assert succession.look(104.0, holder=0, age_s=None) is Step.WAIT


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 10)), min_size=1, max_size=40))
def test_nobody_who_has_the_lock_and_speaks_is_disturbed(seen: list[tuple[bool, float]]) -> None:
    """However it goes on: while somebody has the lock none tries, and who told something of late is not ended."""
    succession = Succession(GRACE_S, SILENCE_S)
    for number, (held, age_s) in enumerate(seen):
        step = succession.look(number * LOOK_S, holder=int(held), age_s=age_s)
        assert not (held and step is Step.TRY)
        assert not (step is Step.END and (not held or age_s <= SILENCE_S))


@given(st.floats(0, 0.24), st.booleans())
def test_it_never_takes_longer_than_three_seconds(phase_s: float, stopped: bool) -> None:  # noqa: FBT001 - as it is given
    """From the instant at which a leader last told of itself: killed or stopped, at whichever moment of the looks."""
    succession = Succession(GRACE_S, SILENCE_S)
    for number in range(40):
        succession.look(number * LOOK_S, holder=7, age_s=0.1)
    last = 40 * LOOK_S - phase_s  # its last word
    ended = False
    for number in range(40, 60):
        now = number * LOOK_S
        step = succession.look(now, holder=int(stopped and not ended), age_s=now - last)
        if step is Step.END:
            ended = True
            step = succession.look(now, holder=0, age_s=now - last)
        if step is Step.TRY:
            assert now - last <= 3.0
            return
    raise AssertionError("nobody followed it")
