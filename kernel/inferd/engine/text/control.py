"""Control tokens in what clients say: they are plain text there, and the template's own are tokens.

The text of a prompt is what the template makes of what clients say, whatever that is. Which of the control tokens in it
the template wrote is found out by rendering once more, see `own`: all others are plain text, also those that come about
when the template takes out, turns round or puts together what was said.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

_PRIVATE: Final = range(0xF0000, 0xFFFFE)  # of Unicode's first plane for private use
_ESCAPES: Final = frozenset("&%\\{")  # with which a text can be written that shows none of its characters
_NAMED: Final = re.compile(r"<[|｜].+[|｜]>", re.DOTALL)  # noqa: RUF001 - as some models write it
_PAIRS: Final = re.compile(r"(?=(\\ud[89ab][0-9a-f]{2}\\ud[c-f][0-9a-f]{2}))", re.IGNORECASE)  # as JSON writes them
_ENTITIES: Final = re.compile(r"&#(?=(x?))(?:x0*([0-9a-f]{1,6})|0*([0-9]{1,7}))", re.IGNORECASE)  # as HTML does
_FEW: Final = 64  # tokens that are looked for one by one
_HEAD: Final = 4  # characters by which a token is looked for

Places: TypeAlias = frozenset[tuple[int, str]]
"""Control tokens in a text: where, and which."""


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

    def foreign(self, places: Collection[tuple[int, str]], said: Any) -> Places:
        """Those tokens of which nothing was said: no sign, no word, and no text that is a part of one."""
        texts = [fold(each) for each in strings(said) if each]
        characters = frozenset().union(*texts)
        if not _ESCAPES.isdisjoint(characters):
            return frozenset()
        strange = {token for token in {token for _, token in places} if _strange(fold(token), texts, characters)}
        return frozenset(place for place in places if place[1] in strange)

    def places(self, text: str, spans: Sequence[tuple[int, int]] | None = None) -> Iterator[tuple[int, str]]:
        """The tokens in a text, one behind the other; with `spans` those of which all characters lie in them."""
        if spans is None:
            spans = [(0, len(text))]
        merged: list[tuple[int, int]] = []
        for first, last in spans:
            if merged and merged[-1][1] == first:
                merged[-1] = (merged[-1][0], last)
            else:
                merged.append((first, last))
        for first, last in merged:
            part, at = text[first:last], 0
            while found := self._exact.find(part, at):
                yield found[0] + first, found[1]
                at = found[0] + len(found[1])

    def judge(self, text: str, own: Places) -> Prompt:
        """A prompt of which these tokens are the template's, or what the model said, and all others plain text."""
        kept, plain, at = [], set(), 0
        while found := self._exact.find(text, at):
            if found in own:
                kept.append(found)
                at = found[0] + len(found[1])
            else:
                plain.add(found[1])
                at = found[0] + 1
        return Prompt(text, tuple(kept), frozenset(plain)) if plain else Prompt(text)

    def spoken(self, text: str) -> list[tuple[int, int]]:
        """Where in what a model said there are tokens that show in its output."""
        return [(at, at + len(token)) for at, token in self.places(text) if not self.special[token]]

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


def _strange(token: str, texts: list[str], characters: frozenset[str]) -> bool:
    if not characters.isdisjoint(c for c in token if not (c.isalnum() or c.isspace())):
        return False
    words = re.findall(r"[^\W_]+", token)
    return not any(text in token or any(word in text for word in words) for text in texts)


def strings(value: Any) -> Iterator[str]:
    """All strings in a value as it comes from JSON."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from strings([*value.keys(), *value.values()])
    elif isinstance(value, list | tuple | frozenset):
        for item in value:
            yield from strings(item)


def marks(said: Any) -> Iterator[str]:
    """Characters that occur nowhere in a value as it comes from JSON, not even as JSON or HTML escapes them."""
    texts = list(strings(said))
    taken = {character for text in texts if not text.isascii() for character in text}
    for text in texts:
        taken.update(json.loads(f'"{found[1].lower()}"') for found in _PAIRS.finditer(text))
        codes = (int(found[2], 16) if found[1] else int(found[3]) for found in _ENTITIES.finditer(text))
        taken.update(chr(code) for code in codes if code in _PRIVATE)
    return (mark for mark in map(chr, _PRIVATE) if mark not in taken)


def align(places: Places, text: str, other: str) -> Places | None:
    """Places in a text, in another that differs from it in white space only; None where more differs."""
    if text == other:
        return places
    solid = [at for at, character in enumerate(other) if not character.isspace()]
    if [other[at] for at in solid] != [character for character in text if not character.isspace()]:
        return None
    own, moved, number = dict(places), [], 0
    for at, character in enumerate(text):
        if not character.isspace():
            if at in own:
                moved.append((solid[number], own[at]))
            number += 1
    return frozenset((at, token) for at, token in moved if other.startswith(token, at))


def fold(text: str) -> str:
    """A text without capitals, as long as it was."""
    folded = text.lower()
    return folded if len(folded) == len(text) else "".join(c.lower() if len(c.lower()) == 1 else c for c in text)
