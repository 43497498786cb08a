"""The check of histories finds what it is to find: `tests/reference/fencing.py`."""

import random

import pytest
from fencing import Accepted, Began, Entry, Fence, Over, losers
from hypothesis import given
from hypothesis import strategies as st

PLANTED = {
    "an older number": (Accepted(Fence.EPOCH, "s", 1, "k1", "a commit"), "epoch 2 holds"),
    "a number that nobody has": (Accepted(Fence.EPOCH, "s", 9), "epoch 2 holds"),
    "the number of another": (Accepted(Fence.EPOCH, "s", 2, "k1", "a commit"), "from k1, and k2 has it"),
    "what is over": (Accepted(Fence.ATTEMPT, "t", 1, "i1"), "which is over"),
    "what is forgotten": (Accepted(Fence.ATTEMPT, "gone", 1), "never began or is long over"),
    "a host of an earlier life": (Accepted(Fence.INCARNATION, "h", 3), "incarnation 4 holds"),
    "a number that does not rise": (Began(Fence.EPOCH, "s", 2), "begins behind 2"),
}
RIGHT: list[Entry] = [
    Began(Fence.EPOCH, "s", 1, "k1"),
    Accepted(Fence.EPOCH, "s", 1, "k1"),
    Began(Fence.INCARNATION, "h", 3),
    Began(Fence.ATTEMPT, "t", 1, "i1"),
    Began(Fence.ATTEMPT, "gone", 1, "i1"),
    Accepted(Fence.ATTEMPT, "gone", 1, "i1"),
    Over(Fence.ATTEMPT, "gone", forgotten=True),
    Began(Fence.EPOCH, "s", 2, "k2"),
    Over(Fence.INCARNATION, "h"),
    Began(Fence.INCARNATION, "h", 4),
    Accepted(Fence.INCARNATION, "h", 4),
    Over(Fence.ATTEMPT, "t"),
    Accepted(Fence.EPOCH, "s", 2, "k2"),
]


def test_a_right_history_has_no_losers() -> None:
    """Leaders that follow each other, hosts that begin anew and tasks that end are no violations."""
    assert losers(RIGHT) == []


@pytest.mark.parametrize("what", PLANTED)
def test_what_was_planted_is_found(what: str) -> None:
    """Each way in which a loser may be heard is found, once, and named with both numbers."""
    entry, said = PLANTED[what]
    (found,) = losers([*RIGHT, entry])
    assert said in found


@given(st.integers(0, 1 << 30))
def test_one_late_word_anywhere_is_found(seed: int) -> None:
    """In a long history of leaders a commit of any that was followed is found wherever it stands; no other is."""
    chance = random.Random(seed)
    history: list[Entry] = []
    for number in range(1, 9):
        history.append(Began(Fence.EPOCH, "s", number, f"k{number}"))
        history += [Accepted(Fence.EPOCH, "s", number, f"k{number}")] * chance.randrange(3)
    assert losers(history) == []
    place = chance.randrange(1, len(history) + 1)
    led = max(each.number for each in history[:place] if isinstance(each, Began))
    late = chance.randrange(9)
    history.insert(place, Accepted(Fence.EPOCH, "s", late, what="a late commit"))
    assert [each.partition(" of ")[0] for each in losers(history)] == (["a late commit"] if late != led else [])
