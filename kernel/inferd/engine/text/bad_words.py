"""Texts that an output must not contain, as sequences of tokens that are forbidden at their last one."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    Phrase = tuple[int, ...]


def encode_bad_words(words: Sequence[str], encode: Callable[[str], Sequence[int]]) -> tuple[Phrase, ...]:
    """The tokens of each word by itself and behind a space, as it is at the beginning and inside of a text.

    Args:
        words: The texts.
        encode: Gives the tokens of a text, with nothing added.
    """
    variants = (tuple(encode(text)) for word in words for text in (word, " " + word.lstrip()))
    return tuple(dict.fromkeys(variant for variant in variants if variant))


def completions(phrases: Sequence[Phrase], tail: Sequence[int]) -> Iterator[int]:
    """The tokens that would complete a phrase behind `tail`, the newest tokens of a sequence."""
    for *begin, last in phrases:
        if len(begin) <= len(tail) and list(tail[len(tail) - len(begin) :]) == begin:
            yield last
