import random
from itertools import accumulate, pairwise
from typing import Any

import pytest

from inferd.engine.text.stops import StopFinder


def push_all(stops: list[str], parts: list[str]) -> tuple[list[str], bool]:
    """What is shown after each part, and at the end; and whether a stop string was found."""
    finder = StopFinder(stops)
    shown = []
    for part in parts:
        shown.append(finder.push(part))
        if finder.found:
            return shown, True
    return [*shown, finder.finish()], False


def test_text_without_a_beginning_of_a_stop_is_shown_at_once() -> None:
    """Text that cannot belong to a stop string is not delayed."""
    assert push_all(["xyz"], ["hello ", "world"]) == (["hello ", "world", ""], False)


def test_beginning_of_a_stop_is_held_back() -> None:
    """What may be the beginning of a stop string is shown when it turns out to be none."""
    assert push_all(["END"], ["the E", "N", "try"]) == (["the ", "", "ENtry", ""], False)


def test_text_ends_before_the_stop_string() -> None:
    """A stop string across three tokens ends the text before it; nothing of it, or behind it, is shown."""
    assert push_all(["END"], ["the E", "N", "D of"]) == (["the ", "", ""], True)


def test_rest_is_shown_at_the_end() -> None:
    """What is held back when nothing follows is shown."""
    assert push_all(["END"], ["the E", "N"]) == (["the ", "", "EN"], False)


def test_overlapping_beginnings() -> None:
    """A stop string that begins inside a failed attempt at itself is found."""
    assert push_all(["aab"], list("aaab")) == (["", "", "a", ""], True)


def test_first_to_be_complete_wins() -> None:
    """Of two stop strings the one that is complete first ends the text; of two at once, the longer."""
    assert push_all(["abcd", "bc"], ["xabcd"]) == (["xa"], True)
    assert push_all(["c", "abc"], ["xabc"]) == (["x"], True)


@pytest.mark.parametrize("seed", range(40))
def test_result_does_not_depend_on_the_tokens(seed: int) -> None:
    """However a text is split, the same is shown, and it is what a search in the whole text gives."""
    generator = random.Random(seed)
    text = "".join(generator.choices("abc", k=60))
    stops = ["".join(generator.choices("abc", k=generator.randint(2, 9))) for _ in range(generator.randint(1, 4))]
    whole = next(
        (
            end - max(len(s) for s in stops if text[:end].endswith(s))
            for end in range(61)
            if text[:end].endswith(tuple(stops))
        ),
        60,
    )
    for _ in range(10):
        cuts = [0, *accumulate(generator.choices((0, 1, 2, 7), k=60)), 60]
        parts = [text[a:b] for a, b in pairwise(cuts) if a < b]
        shown, found = push_all(stops, parts)
        assert "".join(shown) == text[:whole]
        assert found == (whole < 60)


def test_long_stop_strings_cost_little() -> None:
    """A text that begins a long stop string with every character is searched without looking at it all each time."""
    looks = 0

    class Counted(str):
        __slots__ = ()

        def startswith(self, *args: Any) -> bool:
            nonlocal looks
            looks += 1
            return str.startswith(self, *args)

    finder = StopFinder([Counted("a" * 255 + "b")])
    assert "".join(finder.push("a") for _ in range(2000)) == "a" * (2000 - 255)
    assert looks <= 2 * 2000
