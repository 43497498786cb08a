"""When a phase of a round is over, when a round is lost, and what comes behind it."""

from dataclasses import replace
from typing import Any

from inferd.core.federation import (
    SHOWN_ROUNDS,
    Federation,
    FederationPlan,
    FederationState,
    RoundPhase,
    RoundReport,
    begin_again,
    blamed,
    complete_round,
    first_round,
    is_lost,
    next_phase,
    resumed,
)
from inferd.core.ids import Tenant

PLAN = FederationPlan(
    recipe="{}", size=1, rounds=2, clients=5, least_clients=3, secure=True, deadline_s=100, answer_s=10
)


def federation(**changed: Any) -> Federation:
    made = Federation(
        federation_id="f",
        tenant=Tenant("default"),
        plan=PLAN,
        created=0.0,
        round=1,
        phase_ends=10.0,
        round_began=0.0,
        salt="00",
    )
    return replace(made, **changed)


def after(before: Federation, answered: set[int], now: float) -> Federation:
    """The federation behind a phase that is over."""
    found = next_phase(before, answered, now)
    assert found is not None
    return found


def test_a_phase_is_over_with_all_or_with_enough_at_its_end() -> None:
    """Each phase in its order; who did not answer is in none of those that follow."""
    keys = federation()
    assert next_phase(keys, {1, 2, 3, 4}, 9.9) is None
    assert next_phase(keys, {1, 2}, 1000.0) is None
    assert not is_lost(keys, set(), 1000.0)  # nobody has begun: they are waited for
    shares = after(keys, {4, 1, 2, 3, 9}, 1.0)
    assert (shares.phase, shares.roster, shares.threshold, shares.phase_ends) == (
        RoundPhase.SHARES,
        (1, 2, 3, 4, 9),
        3,
        11.0,
    )
    updates = after(shares, {1, 2, 3, 4}, 11.0)
    assert (updates.phase, updates.sharers, updates.phase_ends) == (RoundPhase.UPDATES, (1, 2, 3, 4), 111.0)
    openings = after(updates, {1, 2, 4}, 111.0)
    assert (openings.phase, openings.survivors, openings.expected) == (RoundPhase.OPENINGS, (1, 2, 4), (1, 2, 4))
    assert next_phase(openings, {1, 2}, 115.0) is None
    summing = after(openings, {1, 2, 4}, 115.0)
    assert summing.phase is RoundPhase.SUMMING
    assert (openings.opened, summing.opened) == (0, 1)
    assert next_phase(summing, {1, 2, 3}, 1000.0) is None
    plain = federation(plan=replace(PLAN, secure=False))
    assert after(plain, {1, 2, 3}, 10.0).phase is RoundPhase.UPDATES


def test_a_round_with_too_few_is_lost_and_begins_anew() -> None:
    """At the end of its phase and not before; the next attempt has another context and nobody in it."""
    updates = federation(phase=RoundPhase.UPDATES, roster=(1, 2, 3, 4, 5), sharers=(1, 2, 3, 4, 5), phase_ends=50.0)
    assert not is_lost(updates, {1, 2}, 49.0)
    assert not is_lost(updates, {1, 2, 3}, 51.0)
    assert is_lost(updates, {1, 2}, 50.0)
    again = begin_again(updates, "01", 50.0)
    assert (again.attempt, again.phase, again.roster, again.sharers) == (2, RoundPhase.KEYS, (), ())
    assert again.context != updates.context


def test_few_liars_exclude_nobody_where_few_share() -> None:
    """Three of ten are half of those that share where four are slow; a client goes by most of all that began."""
    updates = federation(roster=tuple(range(1, 11)), sharers=(1, 2, 3, 8, 9, 10))
    assert blamed(updates, {liar: {1} for liar in (8, 9, 10)}) == ()
    assert blamed(updates, {each: {1} for each in (2, 3, 8, 9, 10)}) == (1,)


def test_time_without_a_kernel_does_not_count() -> None:
    """A federation that is taken up has the whole span of its phase again; one that has ended stays as it is."""
    updates = federation(phase=RoundPhase.UPDATES, phase_ends=50.0)
    assert resumed(updates, 5000.0).phase_ends == 5100.0
    ended = replace(updates, state=FederationState.CANCELLED)
    assert resumed(ended, 5000.0) == ended


def test_rounds_follow_each_other_to_the_end() -> None:
    """From the counts on, each with its report; the last one ends it, and no more reports are held than are told."""
    assert first_round(PLAN) == 1
    assert first_round(replace(PLAN, counts=9)) == 0
    report = RoundReport(
        number=0, attempt=1, began=5, clients=(1,), examples=0, length=0, loss=0, digest="", started=0, finished=1
    )
    counted = complete_round(federation(round=0, attempt=3), report, "02", 7.0)
    assert (counted.round, counted.attempt, counted.done, counted.round_began) == (1, 1, 0, 7.0)
    full = replace(counted, rounds=(report,) * SHOWN_ROUNDS)
    second = complete_round(full, report, "03", 8.0)
    assert (second.round, second.done, len(second.rounds)) == (2, 1, SHOWN_ROUNDS)
    last = complete_round(second, report, "04", 9.0)
    assert (last.state, last.done, last.finished) == (FederationState.SUCCEEDED, 2, 9.0)
