"""A text that comes in parts, held against rules: how much of it is decided, and what is found in it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from inferd.core.moderation import ModerationAction as Action
from inferd.moderation.folds import Folded, fold_fast
from inferd.moderation.search import Found, lanes_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inferd.moderation.rules import Rule
    from inferd.moderation.search import Lane


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
            told = [
                each for each in told if not any(a.start <= each.start and each.end <= a.end for a in self._allowed)
            ]
            self._allowed = [each for each in self._allowed if each.end > limit]
        return Decided(limit, told)


def search(ruling: Ruling, text: str) -> list[Found]:
    """All that is found in a whole text; most have nothing, which is seen at once."""
    fast = [(lane, fold_fast(text, lane.by, lane.spaces)) for lane in ruling.lanes]
    if not any(folded is None or lane.may_find(folded) for lane, folded in fast):
        return []
    return Screen(ruling).push(text, final=True).found
