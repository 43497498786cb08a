"""Control tokens in what clients say: they are plain text there, and the template's own are tokens.

A template is handed the client's strings with marks in them: two characters around each text of a control token, and
one where a string could be completed to such a text by what the template writes beside it. The marks are characters for
private use that occur nowhere in what is rendered, and they are taken out of the rendered text again. A control token
between its own two marks, or with a mark inside, is the client's; all others are the template's.

Texts without a control token or the beginning of one get no mark: they are rendered as they are.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping
    from collections.abc import Set as AbstractSet

_PRIVATE: Final = range(0xF0000, 0xFFFFE)  # of Unicode's first plane for private use
_LONGEST_TOKEN: Final = 128  # characters; longer ones are found, their beginnings are not
_NAMED: Final = re.compile(r"<[|｜].+[|｜]>", re.DOTALL)  # noqa: RUF001 - as some models write it
_PAIR: Final = re.compile(r"\\ud[89ab][0-9a-f]{2}\\ud[c-f][0-9a-f]{2}")  # as JSON writes them in ASCII
_PAIRS: Final = re.compile(f"(?=({_PAIR.pattern}))", re.IGNORECASE)  # one inside another, too
_FEW: Final = 64  # tokens that are looked for one by one
_HEAD: Final = 4  # characters by which a token is looked for


@dataclass(frozen=True, slots=True)
class Prompt:
    """A rendered conversation.

    Attributes:
        text: What the model is given.
        own: Where in it the template wrote control tokens, and which; others that it shows are plain text. None when
            all of them are tokens.
        plain: Those others.
    """

    text: str
    own: tuple[tuple[int, str], ...] | None = None
    plain: frozenset[str] = frozenset()


class ControlTokens:
    """The control tokens of a model: special ones, those of the form <|…|>, and those that its template writes.

    Args:
        added: The tokens that are recognised inside any text, and whether each is special.
        literals: What the template writes.
        normalize: How the tokenizer writes a text before it looks for tokens in it; None where it takes it as it is.
    """

    def __init__(
        self, added: Mapping[str, bool], literals: Collection[str], normalize: Callable[[str], str] | None = None
    ) -> None:
        self._normalize = normalize
        written = "\0".join(literals)
        self.special = {
            token: special
            for token, special in added.items()
            if token.strip() and (special or _NAMED.fullmatch(token) or token in written)
        }
        self._literals = tuple(literals)
        self._exact = _Finder(self.special)
        self._folded = _Finder({fold(token) for token in self.special})

    def find(self, text: str, at: int = 0) -> tuple[int, str] | None:
        """The first token from a place on, the longest that begins there; None for none."""
        return self._exact.find(text, at)

    def find_folded(self, text: str) -> Iterator[tuple[int, str]]:
        """The tokens in a text, capitals apart, one behind the other."""
        at = 0
        while found := self._folded.find(text, at):
            yield found
            at = found[0] + len(found[1])

    @cached_property
    def kept(self) -> frozenset[str]:
        """Those that show in what the model writes, folded: not special."""
        return frozenset(fold(token) for token, special in self.special.items() if not special)

    @cached_property
    def _short(self) -> list[str]:
        return [fold(token) for token in self.special if len(token) <= _LONGEST_TOKEN]

    @cached_property
    def longest(self) -> int:
        """Characters of the longest one whose beginnings and endings are looked for."""
        return max(map(len, self._short), default=1)

    @cached_property
    def firsts(self) -> re.Pattern[str]:
        """Their first characters."""
        firsts = sorted({token[0] for token in self._short})
        return re.compile(f"[{re.escape(''.join(firsts))}]" if firsts else "(?!)")

    @cached_property
    def beginnings(self) -> frozenset[str]:
        """All that a token can begin with, folded."""
        return frozenset(token[:end] for token in self._short for end in range(1, len(token)))

    @cached_property
    def endings(self) -> frozenset[str]:
        """All that a token can end with, folded."""
        return frozenset(token[begin:] for token in self._short for begin in range(1, len(token)))

    def guard(self, prompt: Prompt, said: Any) -> Prompt:
        """A prompt in which nothing that was said becomes a token although it has to be written otherwise for that."""
        write = self._normalize
        if prompt.own is not None or write is None:
            return prompt
        if not any(True for text in strings(said) for _ in self.find_folded(fold(write(text)))):
            return prompt
        own, at = [], 0
        while found := self._exact.find(prompt.text, at):
            own.append(found)
            at = found[0] + len(found[1])
        return Prompt(prompt.text, tuple(own))

    @cached_property
    def begun(self) -> frozenset[str]:
        """The beginnings of tokens that the template's own texts end with."""
        ends = [fold(literal.rstrip())[-_LONGEST_TOKEN:] for literal in self._literals]
        return frozenset(end[at:] for end in ends for at in range(len(end)) if end[at:] in self.beginnings)

    @cached_property
    def dropped(self) -> tuple[str, ...]:
        """What the template may look for in what is said, to leave it out, folded."""
        short = {fold(literal) for literal in self._literals if 1 < len(literal) <= _LONGEST_TOKEN}
        return tuple(sorted(literal for literal in short if literal.strip()))


class _Finder:
    """Finds the first of many words; its time does not depend on how many there are."""

    def __init__(self, words: Collection[str]) -> None:
        self._words = frozenset(words)
        lengths: dict[str, set[int]] = {}
        for word in self._words:
            lengths.setdefault(word[:_HEAD], set()).add(len(word))
        self._lengths = {head: sorted(found, reverse=True) for head, found in lengths.items()}
        heads = sorted(self._lengths, key=len, reverse=True)
        self._heads = re.compile("|".join(map(re.escape, heads)) or "(?!)")
        few = sorted(self._words, key=len, reverse=True) if len(self._words) <= _FEW else []
        self._all = re.compile("|".join(map(re.escape, few))) if few else None

    def find(self, text: str, at: int) -> tuple[int, str] | None:
        if self._all is not None:
            first = self._all.search(text, at)
            return None if first is None else (first.start(), first[0])
        while found := self._heads.search(text, at):
            at = found.start()
            for size in range(_HEAD, 0, -1):
                for length in self._lengths.get(text[at : at + size], ()):
                    if text[at : at + length] in self._words:
                        return at, text[at : at + length]
            at += 1
        return None


class Marks:
    """The marks of one conversation.

    Args:
        controls: Of the model.
        said: All that is rendered, as it comes from JSON, and what renders it: no mark occurs there.

    Attributes:
        end: A mark for the end of what is to be continued.
    """

    def __init__(self, controls: ControlTokens, said: Any) -> None:
        texts = list(strings(said))
        taken = {character for text in texts if not text.isascii() for character in text}
        escaped = {json.loads(f'"{found[1].lower()}"') for text in texts for found in _PAIRS.finditer(text)}
        self._free = (m for m in map(chr, _PRIVATE) if m not in taken and m not in escaped)
        self._controls = controls
        self._pairs: dict[str, tuple[str, str]] = {}  # by token, folded
        self._used: list[str] = []
        self.end = next(self._free)
        self._cut = self._take()

    def _take(self) -> str:
        mark = next(self._free)
        self._used.append(mark)
        return mark

    def mark(self, value: Any, *, model_says: bool = False) -> Any:
        """A value as it comes from JSON, with marks in all its strings; itself where there is nothing to mark.

        With `model_says` it is the model's word: what shows in its output is a token there.
        """
        match value:
            case str():
                return self._mark_text(value, model_says=model_says)
            case dict():
                marked = {name: self.mark(item, model_says=model_says) for name, item in value.items()}
                return {n if n.isidentifier() else self.mark(n, model_says=model_says): x for n, x in marked.items()}
            case list():
                return [self.mark(item, model_says=model_says) for item in value]
            case _:
                return value

    def _mark_text(self, text: str, *, model_says: bool) -> str:
        folded = fold(text)
        marks = self._cuts(folded)
        for at, token in self._controls.find_folded(folded):
            if model_says and token in self._controls.kept:
                continue
            if token not in self._pairs:
                self._pairs[token] = (self._take(), self._take())
            before, behind = self._pairs[token]
            marks += [(at, before), (at + len(token), behind)]
        if not marks:
            return text
        pieces, done = [], 0
        for at, mark in sorted(marks):
            pieces += [text[done:at], mark]
            done = at
        return "".join([*pieces, text[done:]])

    def _cuts(self, text: str) -> list[tuple[int, str]]:
        """Where a text could become part of a control token by what stands before or behind it, or is left out."""
        said = text.strip()
        if not said:
            return []
        controls, first = self._controls, len(text) - len(text.lstrip())
        last = first + len(said)
        places = set()
        begins = any(said[:end] in controls.endings for end in range(1, min(len(said), controls.longest) + 1))
        if begins or (
            len(said) < controls.longest and any(start + said in controls.beginnings for start in controls.begun)
        ):
            places.add(first)
        dropped = [literal for literal in controls.dropped if literal in text]
        opens = self._opens(text, 0 if dropped else max(0, last - controls.longest))
        if opens is None:
            return [(at, self._cut) for at in places]
        if opens[last]:
            places.add(last)
        for literal in dropped:
            at = text.find(literal)
            while at >= 0:
                if opens[at]:
                    places.add(at)
                at = text.find(literal, at + 1)
        return [(at, self._cut) for at in places]

    def _opens(self, text: str, begin: int) -> bytearray | None:
        """For each place of a text whether the beginning of a control token ends there; None for nowhere.

        All that a beginning begins with is one, too: how far one reaches from a place is found by doubling and halving.
        """
        beginnings, opens = self._controls.beginnings, None
        for found in self._controls.firsts.finditer(text, begin):
            at = found.start()
            if text[at] not in beginnings:
                continue  # all of a token, not the beginning of one
            reach, over = 1, 2
            while at + over <= len(text) and text[at : at + over] in beginnings:
                reach, over = over, 2 * over
            over = min(over, len(text) - at + 1)
            while over - reach > 1:
                middle = (reach + over) // 2
                reach, over = (middle, over) if text[at : at + middle] in beginnings else (reach, middle)
            opens = opens or bytearray(len(text) + 1)
            opens[at + 1 : at + reach + 1] = b"\1" * reach
        return opens

    def read(self, rendered: str) -> Prompt:
        """A text that was rendered with marks: without them, and where the template wrote control tokens."""
        used = set(self._used)
        rendered = _PAIR.sub(lambda found: _restore(found[0], used), rendered)
        text, places = [], []  # of marks: (where in the text without marks, which)
        length = 0
        for piece in re.split(f"([{''.join(self._used)}])", rendered):
            if piece in used:
                places.append((length, piece))
            else:
                text.append(piece)
                length += len(piece)
        return self._judge("".join(text), places)

    def _judge(self, text: str, places: list[tuple[int, str]]) -> Prompt:
        own, plain, at = [], set(), 0
        beside = set(places)
        positions = [place for place, _ in places]
        while found := self._controls.find(text, at):
            at, token = found
            behind = at + len(token)
            pair = self._pairs.get(fold(token), ("", ""))
            enclosed = ((at, pair[0]) in beside, (behind, pair[1]) in beside)
            inside = bisect_left(positions, behind) > bisect_left(positions, at + 1)
            if inside or (any(enclosed) if self._controls.special[token] else all(enclosed)):
                plain.add(token)
                at += 1
            else:
                own.append((at, token))
                at = behind
        return Prompt(text, tuple(own), frozenset(plain)) if plain else Prompt(text)


def strings(value: Any) -> Iterator[str]:
    """All strings in a value as it comes from JSON."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from strings([*value.keys(), *value.values()])
    elif isinstance(value, list | tuple | frozenset):
        for item in value:
            yield from strings(item)


def _restore(pair: str, marks: AbstractSet[str]) -> str:
    """A character that a template wrote with `tojson`, which it asked for ASCII, if it is a mark."""
    mark: str = json.loads(f'"{pair}"')
    return mark if mark in marks else pair


def align(prompt: Prompt, text: str) -> Prompt | None:
    """A prompt in a text that differs from its own in white space only; None where more differs."""
    if prompt.text == text:
        return prompt
    places = [at for at, character in enumerate(text) if not character.isspace()]
    if [text[at] for at in places] != [character for character in prompt.text if not character.isspace()]:
        return None
    own = dict(prompt.own or ())
    moved, solid = [], 0
    for at, character in enumerate(prompt.text):
        if at in own and not character.isspace():
            moved.append((places[solid], own[at]))
        solid += not character.isspace()
    if any(not text.startswith(token, at) for at, token in moved):
        return None
    return Prompt(text, tuple(moved), prompt.plain)


def fold(text: str) -> str:
    """A text without capitals, as long as it was."""
    folded = text.lower()
    return folded if len(folded) == len(text) else "".join(c.lower() if len(c.lower()) == 1 else c for c in text)
