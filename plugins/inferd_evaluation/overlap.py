"""How much of a text is in another one: exact match and F1 as SQuAD has them, ROUGE as `rouge-score` has it."""

import re
import string
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)
NO_WORD = re.compile(r"[^a-z0-9]+")
ROUGES = ("rouge1", "rouge2", "rougeL")


def plain_words(text: str) -> list[str]:
    """Words of a text without case, punctuation and English articles."""
    return ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split()


def exact_match(text: str, references: Iterable[str]) -> float:
    """1 where a text is one of some others but for case, punctuation, articles and white space; else 0."""
    words = plain_words(text)
    return float(any(words == plain_words(each) for each in references))


def f1(text: str, references: Iterable[str]) -> float:
    """The harmonic mean of the parts of words that both have, of the reference with which it is highest."""
    words = plain_words(text)
    return max(_word_f1(words, plain_words(each)) for each in references)


def _word_f1(words: Sequence[str], others: Sequence[str]) -> float:
    if not words or not others:
        return float(words == others)
    common = sum((Counter(words) & Counter(others)).values())
    return 2 * common / (len(words) + len(others))


def rouge(text: str, references: Iterable[str]) -> dict[str, float]:
    """F-measures of ROUGE-1, 2 and L, without stemming, each of the reference with which it is highest."""
    words = _rouge_words(text)
    others = [_rouge_words(each) for each in references]
    return {
        "rouge1": _best(words, others, lambda one, other: _gram_f(one, other, 1)),
        "rouge2": _best(words, others, lambda one, other: _gram_f(one, other, 2)),
        "rougeL": _best(words, others, _sequence_f),
    }


def _best(
    words: Sequence[str],
    others: Iterable[Sequence[str]],
    measure: Callable[[Sequence[str], Sequence[str]], float],
) -> float:
    return max(measure(words, each) for each in others)


def _rouge_words(text: str) -> list[str]:
    return NO_WORD.sub(" ", text.lower()).split()


def _gram_f(words: Sequence[str], others: Sequence[str], size: int) -> float:
    mine, theirs = _grams(words, size), _grams(others, size)
    return _f_measure((mine & theirs).total(), mine.total(), theirs.total())


def _grams(words: Sequence[str], size: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[n : n + size]) for n in range(len(words) - size + 1))


def _sequence_f(words: Sequence[str], others: Sequence[str]) -> float:
    return _f_measure(longest_common(words, others), len(words), len(others))


def _f_measure(common: int, mine: int, theirs: int) -> float:
    if not common:
        return 0.0
    precision, recall = common / mine, common / theirs
    return 2 * precision * recall / (precision + recall)


def longest_common(words: Sequence[str], others: Sequence[str]) -> int:
    """How long the longest sequence is that both have, with gaps.

    A row of the usual table is the bits of one number (Hyyrö, 2004): thousands of words take milliseconds.
    """
    places: dict[str, int] = {}
    for place, word in enumerate(words):
        places[word] = places.get(word, 0) | 1 << place
    every = row = (1 << len(words)) - 1
    for word in others:
        met = row & places.get(word, 0)
        row = ((row + met) | (row - met)) & every
    return len(words) - row.bit_count()
