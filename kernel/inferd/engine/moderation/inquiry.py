"""Windows of a text about which a classifier is asked, and how far it has answered."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from inferd.core.moderation import ModerationAction as Action

if TYPE_CHECKING:
    from inferd.moderation.screen import Ruling

OVERLAP: Final = 4  # a window begins with a quarter of the one before: what lies across a border is seen whole


@dataclass(frozen=True, slots=True)
class Asked:
    """A window.

    Attributes:
        number: Of the window in its text, by rule.
        rule: Which rule asks.
        start, end: Which characters it decides about, the end of the window before with them.
        text: These.
    """

    number: int
    rule: int
    start: int
    end: int
    text: str


class _Windows:
    """The windows of one rule."""

    def __init__(self, rule: int, window_chars: int) -> None:
        self.rule = rule
        self.window_chars = window_chars
        self.answered_to = 0
        self.asked_to = 0
        self.final = False
        self.number = 0
        self.text = ""  # from `asked_to - len(before)` on
        self.before = 0
        self.open: deque[Asked] = deque()
        self.answered: set[int] = set()

    @property
    def cleared(self) -> int:
        """What the next window begins with waits for its answer, too: what lies across is not shown by halves."""
        if self.final and self.answered_to == self.asked_to + len(self.text) - self.before:
            return self.answered_to
        return max(0, self.answered_to - self.window_chars // OVERLAP)

    def take(self, *, final: bool) -> list[Asked]:
        taken = []
        while (new := len(self.text) - self.before) >= self.window_chars or (final and new):
            size = min(new, self.window_chars)
            end = self.asked_to + size
            asked = Asked(self.number, self.rule, self.asked_to - self.before, end, self.text[: self.before + size])
            taken.append(asked)
            self.open.append(asked)
            self.number, self.asked_to = self.number + 1, end
            kept = min(self.before + size, self.window_chars // OVERLAP)
            self.text, self.before = self.text[self.before + size - kept :], kept
        return taken

    def hear(self, asked: Asked) -> None:
        self.answered.add(asked.number)
        while self.open and self.open[0].number in self.answered:
            done = self.open.popleft()
            self.answered.discard(done.number)
            self.answered_to = done.end


class Inquiry:
    """Asks about one text for each rule that has a classifier. One writer: its outlet."""

    def __init__(self, ruling: Ruling) -> None:
        self._rules = ruling.rules
        self._windows = {
            number: _Windows(number, rule.classifier.window_chars)
            for number, rule in enumerate(ruling.rules)
            if rule.classifier is not None
        }

    @property
    def cleared(self) -> int:
        """Up to which character all have answered."""
        return min(windows.cleared for windows in self._windows.values())

    def add(self, text: str, *, final: bool) -> None:
        """More of the text has come; with `final` nothing more follows."""
        for windows in self._windows.values():
            windows.text += text
            windows.final = windows.final or final

    def take(self, *, final: bool) -> list[Asked]:
        """The windows that are full, once; with `final` what is left, too."""
        return [asked for windows in self._windows.values() for asked in windows.take(final=final)]

    def hear(self, asked: Asked, *, found: bool, failed: str) -> Action | None:
        """Take an answer, or why there is none; what is to be done with the window."""
        rule = self._rules[asked.rule]
        self._windows[asked.rule].hear(asked)
        if failed:
            opens = rule.classifier is not None and rule.classifier.open_on_failure
            return Action.FLAG if opens else Action.STOP
        return rule.action if found else None
