"""Which tokens stand for which spans of the texts of a prompt."""

import pytest

from inferd.core.explained_spans import Span
from inferd.core.token_spans import find_text, sum_up, tokens_of


def test_a_text_that_is_also_a_word_of_the_template_is_found_where_it_stands() -> None:
    """A message that says "user" is not taken for the template's word before it."""
    prompt, without = b"<user>user</user>", b"<user></user>"
    assert find_text(prompt, without, b"user") == (6, 10)


def test_white_space_that_a_template_leaves_out_has_no_tokens() -> None:
    """A text that is trimmed is found by what is left of it, and offsets are still those of the whole text."""
    assert find_text(b"[said: a b]", b"[said: ]", b"  a b\n") == (5, 10)
    assert find_text(b"[said: A B]", b"[said: ]", b"a b") is None


def test_texts_are_looked_for_behind_each_other() -> None:
    """The second of two equal texts is the second one in the prompt."""
    prompt = b"a: yes b: yes"
    first = find_text(prompt, b"a:  b: yes", b"yes")
    assert first == (3, 6)
    assert find_text(prompt, b"a: yes b: ", b"yes", first[1]) == (10, 13)


def test_a_token_of_two_spans_counts_for_each_by_its_bytes() -> None:
    """What a token is worth is shared out by bytes among spans, and no part of it is lost."""
    pieces = [b"<s>", b"one", b" two t", b"hree", b""]
    spans = [Span(0, 0, 3), Span(0, 3, 7), Span(0, 7, 13)]
    parts = tokens_of(pieces, spans, [(3, 16)])
    assert parts == [[(1, 1.0)], [(2, pytest.approx(4 / 6))], [(2, pytest.approx(2 / 6)), (3, 1.0)]]
    worth = [9.0, 1.0, 6.0, 2.0, 9.0]
    assert [sum_up(worth, each) for each in parts] == pytest.approx([1.0, 4.0, 4.0])


def test_what_lies_in_no_span_leaves_a_token_whole() -> None:
    """A token that is half in a span counts for it as a whole: the rest of it is in none."""
    assert tokens_of([b"ab", b"cd"], [Span(0, 1, 2)], [(0, 4)]) == [[(0, 1.0)]]
    assert tokens_of([b"ab"], [Span(0, 0, 2)], [None]) == [[]]
