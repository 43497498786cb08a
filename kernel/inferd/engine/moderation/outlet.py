"""What one sample says, token by token, and how much of it may be shown."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Final, NamedTuple

from inferd.core.moderation import ModerationAction as Action
from inferd.core.task_events import Logprobs
from inferd.engine.text.detokenizer import Detokenizer
from inferd.engine.text.stops import StopFinder
from inferd.moderation.folds import is_silent
from inferd.moderation.screen import Bridge, Screen
from inferd.moderation.search import cuts
from inferd.moderation.turning import TURNING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from inferd.engine.moderation.inquiry import Asked, Inquiry
    from inferd.engine.text.detokenizer import Piece
    from inferd.moderation.rules import Rule
    from inferd.moderation.screen import Ruling

CONTEXT_CHARS: Final = 64  # of what was shown before, so that the borders of words are known
EXCERPT_CHARS: Final = 200  # on each side of what was flagged
BORDER_CHARS: Final = 2000  # of what was shown, before what stands for something cut: twice the longest match
MOST_EXCERPT: Final = 2000  # characters: unseen ones may make a match as long as they like


class OneLogprob(NamedTuple):
    """How likely a token was, and which were the likeliest in its place."""

    token_id: int
    logprob: float
    top_ids: Sequence[int] = ()
    top_logprobs: Sequence[float] = ()


def split_logprobs(logprobs: Logprobs, *, top: bool) -> list[OneLogprob]:
    """How likely each token was; without `top` not which others might have stood there."""
    count = len(logprobs.token_ids)
    width = len(logprobs.top_ids) // max(1, count) if top else 0
    return [
        OneLogprob(
            logprobs.token_ids[n],
            logprobs.logprobs[n],
            logprobs.top_ids[n * width : (n + 1) * width],
            logprobs.top_logprobs[n * width : (n + 1) * width],
        )
        for n in range(count)
    ]


def join_logprobs(each: Sequence[OneLogprob]) -> Logprobs | None:
    """The same as one; None for none."""
    if not each:
        return None
    return Logprobs(
        [one.token_id for one in each],
        [one.logprob for one in each],
        [token_id for one in each for token_id in one.top_ids],
        [logprob for one in each for logprob in one.top_logprobs],
    )


class _Token(NamedTuple):
    token_id: int
    start: int  # of its text; where another one began its first character, of that
    end: int  # of its text; where its last character is not whole, of that
    logprob: OneLogprob | None


@dataclass(slots=True)
class _Cut:
    start: int
    end: int
    rules: set[int]
    replacement: str
    clear: bool = False  # what stands for it makes no match with what is around it


@dataclass(frozen=True, slots=True)
class Flagged:
    """Something that a person is to look at: the rule that found it, what, and what stands around it."""

    rule: str
    excerpt: str


@dataclass(slots=True)
class Released:
    """What may be shown now.

    Attributes:
        text: Of the sample.
        token_ids: Whose text that is.
        computed: The tokens that the model chose, where these are others.
        logprobs: How likely the tokens were, those of cut ones apart; None where nobody asked.
        spans: How many spans each rule cut.
        flagged: What a person is to look at.
        stopped: The rule that ends the task; None where none does.
        failed: Why that rule ends it, where it is for want of an answer.
        closed: Nothing more follows.
    """

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    computed: list[int] | None = None
    logprobs: list[OneLogprob] = field(default_factory=list)
    spans: Counter[str] = field(default_factory=Counter)
    flagged: list[Flagged] = field(default_factory=list)
    stopped: Rule | None = None
    failed: str = ""
    closed: bool = False


class Outlet:
    """Holds the tokens of a sample until their text is decided. One writer: the screening.

    Tokens go out whole, and none before all of its text is decided, so that what was shown is always where the model
    can go on. Where some of the text of tokens is cut, they are replaced by tokens of what is shown.

    Args:
        ruling: The rules.
        pieces: Of the model's tokens.
        encode: Gives the tokens of a text.
        stop: The sample's stop strings, which were looked for before.
        told: The tokens that it has told before, here or elsewhere.
        begun: The end of what the output goes on behind: a match may begin there. Of no use with `told`.
        inquiry: Who else is asked about its text; None for nobody.

    Attributes:
        held: Whether nothing is shown for now, whatever is decided.
    """

    def __init__(
        self,
        ruling: Ruling,
        pieces: Sequence[Piece],
        *,
        encode: Callable[[str], Sequence[int]],
        stop: Sequence[str] = (),
        told: Sequence[int] = (),
        begun: str = "",
        inquiry: Inquiry | None = None,
    ) -> None:
        self.held = False
        self._ruling = ruling
        self._encode = encode
        self._detokenizer = Detokenizer(pieces)
        before = "".join(map(self._detokenizer.push, told))
        self._skipped = len(before) - len(StopFinder(stop).push(before)) if stop else 0  # it comes once more
        self._screen = Screen(ruling, before[-CONTEXT_CHARS:])
        self._bridge = None if told or not begun else Bridge(ruling, begun)
        self._turns = any(cuts(rule.action) for rule in ruling.rules)
        self._inquiry = inquiry
        self._tokens: deque[_Token] = deque()
        self._made = 0  # characters of the text of all tokens
        self._text = ""  # what was not shown, from here on:
        self._at = 0
        self._past = ""  # the end of what was
        self._shown = (begun + before)[-BORDER_CHARS:]  # the same, with what stands for what is cut
        self._cuts: list[_Cut] = []
        self._cut_end = -1  # of the last cut
        self._limit = 0
        self._found: list[tuple[int, int, int]] = []  # flagged, until it can be told
        self._stop: tuple[int, Rule, str] | None = None
        self._final = False
        self._closed = False

    def push(
        self,
        token_ids: Iterable[int],
        text: str,
        *,
        logprobs: Sequence[OneLogprob] = (),
        final: bool = False,
    ) -> Released:
        """Take new tokens and the text that came with them, of earlier ones perhaps; what may be shown then."""
        for place, token_id in enumerate(token_ids):
            start = self._made
            self._made += len(self._detokenizer.push(token_id))
            end = self._made + self._detokenizer.pending
            self._tokens.append(_Token(token_id, start, end, logprobs[place] if logprobs else None))
        if self._skipped:
            skipped = min(self._skipped, len(text))
            self._skipped -= skipped
            text = text[skipped:]
        self._final = self._final or final
        self._add(text, final=final)
        return self._release()

    def hear(self, asked: Asked, *, found: bool, failed: str = "") -> Released:
        """Take the answer to what was asked; what may be shown then."""
        if self._inquiry is not None:
            action = self._inquiry.hear(asked, found=found, failed=failed)
            if action is not None:
                self._find(asked.start, asked.end, asked.rule, action, failed)
        return self._release()

    def asks(self) -> list[Asked]:
        """What is to be asked now."""
        return [] if self._inquiry is None or self._closed else self._inquiry.take(final=self._final)

    def _add(self, text: str, *, final: bool) -> None:
        self._extend_cut(text)
        if self._turns and not text.isascii():
            self._cut_turning(text)
        self._text += text
        if self._inquiry is not None:
            self._inquiry.add(text, final=final)
        decided = self._screen.push(text, final=final)
        crossing = [] if self._bridge is None else self._bridge.push(text, final=final)
        for start, end, rule in (*decided.found, *crossing):
            self._find(start, end, rule, self._ruling.rules[rule].action)

    def _find(self, start: int, end: int, rule: int, action: Action, failed: str = "") -> None:
        if action is Action.FLAG:
            self._found.append((start, end, rule))
        elif action is Action.STOP:
            if self._stop is None or start < self._stop[0]:
                self._stop = (start, self._ruling.rules[rule], failed)
        else:
            self._cut(start, end, rule)

    def _cut(self, start: int, end: int, rule: int) -> None:
        while end < self._at + len(self._text) and is_silent(self._text[end - self._at]):
            end += 1  # marks on the last character of it
        self._cut_end = max(self._cut_end, end)
        rules = {rule}
        replacement = self._ruling.rules[rule].replacement
        kept = []
        for each in self._cuts:
            if each.start < end and start < each.end:
                rules |= each.rules
                replacement = each.replacement if each.rules and each.start <= start else replacement
                start, end = min(start, each.start), max(end, each.end)
            else:
                kept.append(each)
        self._cuts = sorted([*kept, _Cut(start, end, rules, replacement)], key=lambda cut: cut.start)

    def _extend_cut(self, text: str) -> None:
        """Marks that come behind what was cut are cut, too."""
        at = self._at + len(self._text)
        if self._cut_end != at or not text:
            return
        silent = next((n for n, each in enumerate(text) if not is_silent(each)), len(text))
        if not silent:
            return
        self._cut_end = at + silent
        if self._cuts and self._cuts[-1].end == at:
            self._cuts[-1].end += silent
        else:
            self._cuts.append(_Cut(at, at + silent, set(), ""))

    def _cut_turning(self, text: str) -> None:
        """What turns the direction is cut: else a text is shown in another order than it is searched in."""
        size = self._at + len(self._text)
        for found in TURNING.finditer(text):
            at = size + found.start()
            if not any(cut.start <= at < cut.end for cut in self._cuts):
                self._cuts.append(_Cut(at, at + 1, set(), "", clear=True))  # the search has passed over it

    def _release(self) -> Released:
        released = Released()
        if self._closed or self.held:
            return released
        limit = self._screen.upto
        if self._inquiry is not None:
            limit = min(limit, self._inquiry.cleared)
        if self._bridge is not None:
            limit = min(limit, self._bridge.upto)
        limit = self._join(limit)
        ends = self._stop is not None and self._stop[0] <= limit
        if self._stop is not None:
            limit = min(limit, self._stop[0])
        self._show(limit, released)
        size = self._at + len(self._text)
        if ends and self._stop is not None:
            text = self._compose(self._at, limit, released.spans)
            released.text += text
            if text:
                self._replace(released, text, [])
            _, released.stopped, released.failed = self._stop
            released.spans[released.stopped.name] += not released.failed
        elif self._final and limit == size:
            rest = self._compose(self._at, size, released.spans)  # of tokens whose text does not end with it
            released.text += rest
            if rest or self._tokens:
                self._replace(released, rest, [token.token_id for token in self._tokens])
        self._flag(limit, released)
        released.closed = self._closed = ends or (self._final and limit == size)
        return released

    def _join(self, limit: int) -> int:
        """Up to where may be shown, so that what stands for a cut makes no match with what is around it.

        Where it would, as of "yelyellowlow" with nothing for "yellow", the output ends before it: what was shown before
        the cut was known is not taken back.
        """
        if all(cut.clear for cut in self._cuts if cut.start < limit):
            return limit
        text, at, places = self._shown, self._at, []
        for cut in self._cuts:
            text += self._text[at - self._at : cut.start - self._at]
            places.append((len(text), len(text) + len(cut.replacement)))
            text += cut.replacement
            at = cut.end
        decided = Screen(self._ruling).push(text + self._text[at - self._at :], final=self._final)
        for cut, (start, end) in zip(self._cuts, places, strict=True):
            if cut.clear:
                continue
            for found in decided.found:
                inside = start <= found.start and found.end <= end  # the replacement's own words are the rule's
                across = found.start < end and found.end > start and not inside
                if across and self._ruling.rules[found.rule].action is not Action.FLAG:
                    self._find(cut.start, cut.end, found.rule, Action.STOP)
                    return limit
            if decided.upto < end:
                return min(limit, cut.start)
            cut.clear = True
        return limit

    def _show(self, limit: int, released: Released) -> None:
        """Let whole tokens go, as far as the text is decided, and no part of what is cut stays behind."""
        count, taken = 0, []
        for place, token in enumerate(self._tokens):
            if token.end > limit:
                break
            if not any(cut.start < token.end < cut.end for cut in self._cuts):
                count = place + 1
        at = self._at
        for _ in range(count):
            token = self._tokens.popleft()
            taken.append((at, token))
            at = token.end
        for touched, some in groupby(taken, lambda each: self._is_cut(each[1])):
            group = list(some)
            start, end, ids = group[0][0], group[-1][1].end, [token.token_id for _, token in group]
            text = self._compose(start, end, released.spans)
            released.text += text
            self._shown = (self._shown + text)[-BORDER_CHARS:]
            if touched:
                self._replace(released, text, ids)
                continue
            released.token_ids += ids
            if released.computed is not None:
                released.computed += ids
            released.logprobs += [token.logprob for _, token in group if token.logprob is not None]
        if count:
            self._past = (self._past + self._text[: at - self._at])[-EXCERPT_CHARS:]
            self._text = self._text[at - self._at :]
            self._at = at
            self._cuts = [cut for cut in self._cuts if cut.end > at]

    def _is_cut(self, token: _Token) -> bool:
        return any(cut.start < token.end and token.start < cut.end for cut in self._cuts)

    def _replace(self, released: Released, text: str, ids: list[int]) -> None:
        """Show tokens of a text instead of those that the model chose."""
        if released.computed is None:
            released.computed = list(released.token_ids)
        released.token_ids += self._encode(text) if text else ()
        released.computed += ids

    def _compose(self, start: int, end: int, spans: Counter[str]) -> str:
        """The text between two places, and what stands for what is cut of it; counts that."""
        parts, at = [], start
        for cut in self._cuts:
            if cut.start >= end or cut.end <= start:
                continue
            parts.append(self._text[at - self._at : max(at, cut.start) - self._at])
            if cut.start >= start:
                parts.append(cut.replacement)
                spans.update(self._ruling.rules[rule].name for rule in cut.rules)
            at = min(cut.end, end)
        parts.append(self._text[at - self._at : end - self._at])
        return "".join(parts)

    def _flag(self, limit: int, released: Released) -> None:
        text, first = self._past + self._text, self._at - len(self._past)
        ready = [each for each in self._found if each[0] < limit or self._final or self._stop is not None]
        self._found = [each for each in self._found if each not in ready]
        for start, end, rule in ready:
            around = slice(max(0, start - EXCERPT_CHARS - first), max(0, end + EXCERPT_CHARS - first))
            released.flagged.append(Flagged(self._ruling.rules[rule].name, text[around][:MOST_EXCERPT]))
