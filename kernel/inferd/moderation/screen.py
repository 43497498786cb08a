"""A text that comes in parts, held against rules: how much of it is decided, and what is found in it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from inferd.core.moderation import ModerationAction as Action
from inferd.moderation.folds import Folded, fold_fast, gone_on
from inferd.moderation.search import Found, lanes_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from inferd.moderation.rules import Rule
    from inferd.moderation.search import Lane

SEARCHED_CHARS: Final = 4096
"""Of a whole text are searched at once; behind something that refuses it there is no need to look."""

ALL: Final = 1 << 62
"""Characters; more than there are."""


class Ruling:
    """Rules, ready to search by; shared between texts.

    Args:
        rules: At least one.

    Attributes:
        rules: As given; what is found names its rule by its place.
        lanes: That search.
    """

    def __init__(self, rules: Sequence[Rule]) -> None:
        self.rules = tuple(rules)
        self.lanes: tuple[Lane, ...] = tuple(lanes_of(self.rules))
        self.allows = any(rule.action is Action.ALLOW for rule in self.rules)


@dataclass(slots=True)
class Decided:
    """What has been decided of a text.

    Attributes:
        upto: Of so many characters from the beginning it is known whether a match begins at them.
        found: Matches that begin there and were not told before, in their order.
    """

    upto: int
    found: list[Found] = field(default_factory=list)


class Screen:
    """One text against rules. One writer: who reads it.

    What it says does not depend on how the text was split: a match is told when no other one can begin at or before
    its first character any more.

    Args:
        ruling: The rules.
        context: What came before, and was decided; only its end matters.
    """

    __slots__ = ("_allowed", "_folds", "_ruling", "_waiting", "size", "upto")

    def __init__(self, ruling: Ruling, context: str = "") -> None:
        self._ruling = ruling
        self._folds = [Folded(lane.by, lane.spaces) for lane in ruling.lanes]
        self._waiting: list[Found] = []
        self._allowed: list[Found] = []
        self.upto = 0
        self.size = 0
        for folded in self._folds if context else ():
            folded.push(context)
            folded.drop(len(folded.text))
            folded.taken = 0

    def push(self, text: str, *, final: bool = False) -> Decided:
        """Take what comes next, and tell what is decided then."""
        self.size += len(text)
        limit = self.size
        for lane, folded in zip(self._ruling.lanes, self._folds, strict=True):
            done = len(folded.text)
            folded.push(text)
            found, hold = lane.scan(folded, done, final=final)
            limit = min(limit, self.size if final else folded.origin(hold))
            folded.drop(hold)
            for each in found:
                allows = self._ruling.rules[each.rule].action is Action.ALLOW
                (self._allowed if allows else self._waiting).append(each)
        self.upto = limit
        told = sorted({each for each in self._waiting if each.start < limit})
        if told:
            self._waiting = [each for each in self._waiting if each.start >= limit]
        if self._allowed:
            told = _outside(told, self._allowed)
            self._allowed = [each for each in self._allowed if each.end > limit]
        return Decided(limit, told)


class Bridge:
    """Matches that begin in one text and end in another that goes on behind it. One writer: who reads that.

    Args:
        ruling: The rules.
        before: The end of the first text; what lies in it alone is not told.

    Attributes:
        upto: Of so many characters of the second one it is known; below 0 while a match may begin in the first.
    """

    def __init__(self, ruling: Ruling, before: str) -> None:
        self._screen = Screen(ruling)
        self._size = len(before)
        self._across = self._screen.push(before).upto < self._size
        self.upto = self._screen.upto - self._size if self._across else ALL

    def push(self, text: str, *, final: bool = False) -> list[Found]:
        """Take what comes next of the second; matches from its beginning on that have begun before it."""
        if not self._across:
            return []
        decided = self._screen.push(text, final=final)
        self.upto = decided.upto - self._size
        self._across = self.upto < 0
        if not self._across:
            self.upto = ALL
        return [
            Found(0, each.end - self._size, each.rule) for each in decided.found if each.start < self._size < each.end
        ]


def _outside(found: Sequence[Found], allowed: Sequence[Found]) -> list[Found]:
    """What does not lie inside of something that is allowed; `found` comes in its order."""
    rising = iter(sorted(allowed))
    following = next(rising, None)
    outside, reach = [], 0
    for each in found:
        while following is not None and following.start <= each.start:
            reach = max(reach, following.end)
            following = next(rising, None)
        if each.end > reach:
            outside.append(each)
    return outside


def search(ruling: Ruling, text: str, go_on: Callable[[], None] = gone_on) -> list[Found]:
    """What is found in a whole text, in its order; most have nothing, which is seen at once.

    Behind something that is not only flagged there may be more, which is not searched for: the text is refused.

    Args:
        ruling: The rules.
        text: It.
        go_on: Called after each part of the work; raises where that is to be given up.
    """
    fast = [(lane, fold_fast(text, lane.by, lane.spaces, go_on)) for lane in ruling.lanes]
    if not any(folded is None or lane.may_find(folded, go_on) for lane, folded in fast):
        return []
    screen, found = Screen(ruling), []
    for at in range(0, len(text), SEARCHED_CHARS):
        go_on()
        behind = at + SEARCHED_CHARS
        new = screen.push(text[at:behind], final=behind >= len(text)).found
        found += new
        if any(ruling.rules[each.rule].action is not Action.FLAG for each in new):
            break
    return found
