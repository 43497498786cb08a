import numpy as np
import pytest

from inferd.engine.token.drafts import Drafter

MOST = 8


def guess(drafter: Drafter, tokens: list[int], *, most: int = 99) -> list[int]:
    found: list[int] = drafter.propose(np.array(tokens, np.int32), most=most).tolist()
    return found


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ([0, 1, 2, 3, 4, 5, 0, 1, 2], [3, 4]),
        ([0, 1, 2, 3, 9, 9, 0, 1, 2, 4, 5, 9, 0, 1, 2], [4, 5]),  # the last time
        ([7, 0, 1, 2, 3, 4, 8, 0, 1, 2, 5, 6, 7, 0, 1, 2], [3, 4]),  # four tokens in a row come before three
        ([5, 5, 5, 5], [5]),
        ([1, 2, 3, 4, 1, 2], []),  # two tokens are no reason
        ([1, 2, 3, 4], []),
        ([1], []),
    ],
)
def test_guess_is_what_followed_before(tokens: list[int], expected: list[int]) -> None:
    """What followed the longest end of the text that was seen before, the last time it was."""
    assert guess(Drafter(most=MOST), tokens) == expected


def test_guess_has_room() -> None:
    """No more tokens are guessed than there is room for."""
    assert guess(Drafter(most=MOST), [0, 1, 2, 3, 4, 5, 0, 1, 2], most=1) == [3]
    assert guess(Drafter(most=MOST), [0, 1, 2, 3, 4, 5, 0, 1, 2], most=0) == []


def test_good_guesses_grow() -> None:
    """Guesses that are right become longer, up to the most; one that is wrong in part becomes shorter."""
    drafter = Drafter(most=MOST)
    tokens = [*range(20), 0, 1, 2]
    sizes = []
    for _ in range(4):
        sizes.append(len(guess(drafter, tokens)))
        drafter.learn(drafted=sizes[-1], accepted=sizes[-1])
    assert sizes == [2, 4, 8, 8]
    drafter.learn(drafted=8, accepted=3)
    assert len(guess(drafter, tokens)) == 3
    assert (drafter.drafted, drafter.accepted) == (30, 25)


def test_wrong_guesses_become_rare() -> None:
    """Where nothing is ever right, a thousand steps see eleven guesses."""
    drafter = Drafter(most=MOST)
    guesses = 0
    for _ in range(1000):
        if draft := guess(drafter, [0, 1, 2, 3, 4, 5, 0, 1, 2]):
            guesses += 1
            drafter.learn(drafted=len(draft), accepted=0)
    assert guesses == 11
    drafter.learn(drafted=2, accepted=1)
    assert drafter.repeats.pause == 1
