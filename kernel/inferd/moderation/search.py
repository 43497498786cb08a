"""Finding what rules look for in folded texts that come in parts."""

from __future__ import annotations

import re
from dataclasses import dataclass
from re import _constants, _parser  # type: ignore[attr-defined] # how wide a match can be: nothing public says that
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import ahocorasick
import re2

from inferd.core.moderation import ModerationAction as Action
from inferd.core.moderation import ModerationSpaces as Spaces
from inferd.errors import InvalidFieldError
from inferd.moderation.folds import By, Folded, fold, is_latin
from inferd.moderation.patterns import fold_pattern
from inferd.moderation.rules import MOST_PATTERN_CHARS, Rule

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

PATTERN_BYTES: Final = 4 << 20  # of memory of one compiled pattern
UNBOUNDED: Final = 1 << 20
POSIX: Final = re.compile(r"\[:\^?\w+:\]")
WITHIN: Final = range(0x80, 0xC0)  # bytes of UTF-8 that begin no character


class Found(NamedTuple):
    """A match: which characters of the text, as they were counted by `Folded`, and of which rule."""

    start: int
    end: int
    rule: int


class Lane(Protocol):
    """Looks for some of the rules in texts that are folded in one way; shared between texts."""

    by: By
    spaces: Spaces

    def scan(self, folded: Folded, done: int, *, final: bool) -> tuple[list[Found], int]:
        """What is found, and from which folded character on something may still be found.

        Args:
            folded: The text from where something may still be found.
            done: How much of that was scanned before.
            final: Whether nothing comes behind it.
        """
        ...

    def may_find(self, folded: str, go_on: Callable[[], None]) -> bool:
        """Whether something is found in a whole text that is folded so; it may say so where nothing is.

        Args:
            folded: The text.
            go_on: Called from time to time; raises where that is to be given up.
        """
        ...


@dataclass(slots=True)
class _Word:
    """A folded word, and the rules that look for it, by whether it has to stand alone."""

    size: int
    anywhere: list[int]
    alone: list[int]


class WordLane:
    """Looks for words."""

    def __init__(self, by: By, spaces: Spaces, words: Iterable[tuple[str, int, bool]]) -> None:
        self.by = by
        self.spaces = spaces
        known: dict[str, _Word] = {}
        for text, rule, alone in words:
            word = known.setdefault(text, _Word(len(text), [], []))
            (word.alone if alone else word.anywhere).append(rule)
        self._automaton = ahocorasick.Automaton()
        for text, word in known.items():
            self._automaton.add_word(text, word)
        self._automaton.make_automaton()
        self._longest = max(map(len, known))

    def scan(self, folded: Folded, done: int, *, final: bool) -> tuple[list[Found], int]:
        """See `Lane`: from the longest end of the text on that begins a word, as Aho and Corasick's state says."""
        text, size = folded.text, len(folded.text)
        found: list[Found] = []
        hold = size if final else self._possible(text)
        for last, word in self._automaton.iter(text):
            start, end = last + 1 - word.size, last + 1
            if not (folded.starts[start] and folded.ends[last]):
                continue
            if end > done:
                found += [Found(folded.origins[start], folded.origins[last] + 1, rule) for rule in word.anywhere]
            if not word.alone:
                continue
            if end == size and not final:
                hold = min(hold, start)
            elif end >= done and self._stands_alone(folded, start, end):
                found += [Found(folded.origins[start], folded.origins[last] + 1, rule) for rule in word.alone]
        return found, hold

    def may_find(self, folded: str, go_on: Callable[[], None]) -> bool:
        """See `Lane`."""
        go_on()
        return next(self._automaton.iter(folded), None) is not None

    def _possible(self, text: str) -> int:
        size = len(text)
        for start in range(max(0, size - self._longest + 1), size):
            if self._automaton.longest_prefix(text[start:]) == size - start:
                return start
        return size

    @staticmethod
    def _stands_alone(folded: Folded, start: int, end: int) -> bool:
        before = folded.text[start - 1] if start else folded.before
        follows = before.isalnum() and not (start and folded.signs[start - 1])
        goes_on = folded.text[end : end + 1].isalnum() and not folded.signs[end]
        return not follows and not goes_on


class PatternLane:
    """Looks for patterns."""

    def __init__(self, spaces: Spaces, patterns: Sequence[tuple[str, int, int]]) -> None:
        self.by = By.DIGITS
        self.spaces = spaces
        self._patterns = [(compiled(pattern), rule) for pattern, rule, _ in patterns]
        self._span = max(width for *_, width in patterns)

    def scan(self, folded: Folded, done: int, *, final: bool) -> tuple[list[Found], int]:  # noqa: ARG002 - what was scanned is dropped
        """See `Lane`: a match that begins where its longest one fits is found, whatever comes."""
        size = len(folded.text)
        limit = size if final else max(0, size - self._span)
        if not limit:
            return [], 0
        text, lead = _bytes(folded.before + folded.text), len(_bytes(folded.before))
        found: list[Found] = []
        for pattern, rule in self._patterns:
            for start, end in _matches(pattern, text, lead):
                if start >= limit:
                    break
                found.append(Found(folded.origins[start], folded.origins[end - 1] + 1, rule))
        return found, limit

    def may_find(self, folded: str, go_on: Callable[[], None]) -> bool:
        """See `Lane`."""
        text = _bytes(folded)
        for pattern, _ in self._patterns:
            go_on()
            if pattern.search(text) is not None:
                return True
        return False


def _matches(pattern: Any, text: bytes, lead: int) -> Iterator[tuple[int, int]]:
    """The longest match at each place where there is one, in characters.

    A text of bytes is searched from a place on without being read from its beginning, so this takes time by its length.

    Args:
        pattern: The pattern.
        text: In UTF-8.
        lead: Bytes at its beginning that are only context; characters are counted behind them.
    """
    at = counted = lead
    start = 0
    while (match := pattern.search(text, at)) is not None:
        first, last = match.span()
        start += _characters(text, counted, first)
        counted = first
        yield start, start + _characters(text, first, last)
        at = first + 1
        while at < len(text) and text[at] in WITHIN:
            at += 1


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _characters(text: bytes, start: int, end: int) -> int:
    return len(text[start:end].decode("utf-8", "surrogatepass"))


def _options() -> Any:
    options = re2.Options()
    options.log_errors, options.max_mem = False, PATTERN_BYTES
    options.longest_match, options.case_sensitive = True, False
    return options


def compiled(pattern: str, field: str = "") -> Any:
    """A pattern of RE2.

    Raises:
        InvalidFieldError: It is none, or takes too much memory.
    """
    try:
        return re2.compile(pattern, _options())
    except re2.error as error:
        why = error.args[0].decode(errors="replace") if isinstance(error.args[0], bytes) else str(error)
        raise InvalidFieldError(f"{field} is no pattern of RE2: {why}", field=field) from None


def width(pattern: str, field: str = "") -> int:
    """The most characters that a match may have.

    Raises:
        InvalidFieldError: There is no such bound, it cannot be found, or nothing is a match, too.
    """
    if len(pattern) > MOST_PATTERN_CHARS:
        raise InvalidFieldError(f"{field} has {len(pattern)} characters; it may have {MOST_PATTERN_CHARS}", field=field)
    if "{," in pattern:
        raise InvalidFieldError(f"{field} has '{{,'; write '{{0,' for it", field=field)
    if (named := POSIX.search(pattern)) is not None:
        raise InvalidFieldError(
            f"{field} has {named[0]!r}, which cannot be measured; write its characters, as [a-z] or \\w", field=field
        )
    try:
        least, most = _parser.parse(pattern).getwidth()
    except (ValueError, OverflowError, RecursionError, _constants.error) as error:
        compiled(pattern, field)  # else it is no pattern at all, which is told so
        raise InvalidFieldError(
            f"{field} cannot be measured: {error}; write it without what only RE2 knows, as \\pL or \\z", field=field
        ) from None
    if not least or compiled(pattern, field).search("") is not None:
        raise InvalidFieldError(f"{field} matches an empty text, so everywhere; let it need a character", field=field)
    return min(int(most), UNBOUNDED)


def lanes_of(rules: Sequence[Rule]) -> list[Lane]:
    """Those that look for what rules look for, each in its own folding."""
    lanes: list[Lane] = []
    for spaces in Spaces:
        some = [(number, rule) for number, rule in enumerate(rules) if rule.spaces is spaces]
        for by in (By.LOOKS, By.CASE):
            words = [
                (text, number, rule.whole_words)
                for number, rule in some
                for word in rule.words
                for text in _folded(word, by, spaces)
            ]
            if words:
                lanes.append(WordLane(by, spaces, words))
        folded = [(fold_pattern(each, spaces), number) for number, rule in some for each in rule.patterns]
        patterns = [(each, number, width(each)) for each, number in folded]
        if patterns:
            lanes.append(PatternLane(spaces, patterns))
    return lanes


def _folded(word: str, by: By, spaces: Spaces) -> set[str]:
    """What is looked for of a word in a folding, if it is one for it."""
    if by is By.CASE and all(map(is_latin, word)):
        return set()
    # Where the large and the small form of other scripts are one, those of Latin letters beside them are not.
    forms = {word, word.lower(), word.upper(), word.title()} if by is By.CASE else {word}
    return {text for form in forms if (text := fold(form, by, spaces).strip(" "))}


def cuts(action: Action) -> bool:
    """Whether what is found is not to be seen."""
    return action in (Action.REDACT, Action.STOP)
